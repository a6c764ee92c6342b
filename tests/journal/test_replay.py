"""A journal of another kind than that of a run, opened and replayed with the same functions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import JournalError, RunLockedError, StorageError
from mml_ray.journal import log, opening
from mml_ray.journal.folder import JournalFolder
from mml_ray.journal.owner import current_owner
from mml_ray.journal.replay import State
from mml_ray.store.run.state import RunState
from mml_ray.store.run.store import read_run
from tests.store.world import World, dead_owner, done

VERSION_1 = Path(__file__).parents[1] / "assets" / "runs_of_version_1"


class StudyState(State):
    """As a study would have it."""

    kind = "study"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[float] = []

    def _on_told(self, op: Mapping[str, Any]) -> None:
        self.told.append(op["value"])


ROOTS = {"results": "../.."}


def reopen(folder: JournalFolder, owner: dict[str, Any], *, adopt: bool = False) -> StudyState:
    lease, writer, state = opening.reopen(folder, StudyState, roots=ROOTS, owner=owner, adopt=adopt, timeout=0.1)
    writer.close()
    lease.release()
    return state


def test_a_study_has_a_journal_of_its_own(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "study")
    lease, writer, state = opening.create(folder, StudyState, roots=ROOTS, owner=dead_owner(1), manifest={"name": "s"})
    assert state.id and state.manifest == {"name": "s"} and state.roots == {"results": "../.."} and state.status == "open"
    state.apply(*writer.append([("told", {"value": 0.5}), ("study_finished", {"status": "finished", "at": 1.0})], durable=True))
    assert (state.told, state.status) == ([0.5], "finished")
    writer.close()
    again = reopen(folder, dead_owner(2))
    assert (again.id, again.told, again.status, again.token) == (state.id, [0.5], "open", lease.token + 1)
    assert [item["op"] for item in log.read(folder.journal).operations] == [
        "study_opened",
        "told",
        "study_finished",
        "study_opened",
    ]


def test_there_is_one_journal_in_a_folder_and_one_owner(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    _, writer, _ = opening.create(folder, StudyState, roots=ROOTS, owner=current_owner(), manifest={})
    with pytest.raises(StorageError, match="already holds a study"):
        opening.create(folder, StudyState, roots=ROOTS, owner=current_owner(), manifest={})
    with pytest.raises(RunLockedError, match="which is alive"):
        reopen(folder, dead_owner(1))
    writer.close()


def test_the_journal_of_a_study_is_not_that_of_a_run(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    lease, writer, _ = opening.create(folder, StudyState, roots=ROOTS, owner=dead_owner(1), manifest={})
    writer.close()
    with pytest.raises(JournalError, match="'study_opened', which this version of mml-ray does not know"):
        read_run(tmp_path)


def test_only_the_owner_itself_adopts(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path)
    lease, writer, _ = opening.create(folder, StudyState, roots=ROOTS, owner=dead_owner(1), manifest={})
    writer.close()
    with pytest.raises(RunLockedError, match="belongs to process"):
        reopen(folder, dead_owner(2), adopt=True)
    reopen(folder, dead_owner(1), adopt=True)  # and releases it
    with pytest.raises(RunLockedError, match="was closed"):
        reopen(folder, dead_owner(1), adopt=True)


def test_fields_that_a_later_version_adds_are_ignored(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.planned(2)
    done(store, "c0", 1)
    store.finish("interrupted", remove={})
    store.close()
    path = world.run_dir / "journal.jsonl"
    lines = []
    for seq, line in enumerate(path.read_bytes().splitlines(), start=1):
        operation = log.decode(line)
        assert operation is not None
        fields = {name: value for name, value in operation.items() if name not in ("crc", "seq", "op")}
        lines.append(log.encode(seq, operation["op"], {**fields, "from_the_future": {"a": 1}}))
    path.write_bytes(b"".join(lines))
    assert read_run(world.run_dir).commits["c0"]["result"] == 1
    again = world.open()
    done(again, "c1")
    again.finish("finished", remove={})
    again.close()


def test_a_journal_of_the_first_format_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(log, "FORMAT", 1)
        store = world.planned(2)
        done(store, "c0", 1)
        store.close()
    again = world.open()
    done(again, "c1", 2)
    again.close()
    assert [item["version"] for item in world.journal() if item["op"] == "run_opened"] == [1, 2]
    assert {key: commit["result"] for key, commit in read_run(world.run_dir).commits.items()} == {"c0": 1, "c1": 2}


@pytest.mark.parametrize("source", sorted(VERSION_1.rglob("journal.jsonl")), ids=lambda path: path.parent.name)
def test_a_run_of_version_1_is_opened_for_writing_with_nothing_lost(source: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    shutil.copytree(source.parent, world.run_dir)
    (world.run_dir / "lease.json").unlink()  # its owner is on another machine, whose heartbeat would be waited for
    shutil.rmtree(world.run_dir / "claims")
    before, running = read_run(world.run_dir), {item.command for item in read_run(world.run_dir).running()}
    store = world.open(owner=dead_owner(1))
    assert repr(store.state.commits) == repr(before.commits) and store.state.plan == before.plan
    assert {key for key, tries in store.state.attempts.items() if tries[-1].reason == "lost"} >= running
    assert {item["unit"] for item in store.results("train_fold")} <= {""} and store.state.curves == {}
    after = RunState.replay(log.read(world.run_dir / "journal.jsonl").operations)
    assert (after.id, after.manifest, repr(after.commits)) == (before.id, before.manifest, repr(before.commits))
