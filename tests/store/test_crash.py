"""The machine loses its power at any moment: what was acknowledged is there, nothing is there twice, and the run goes on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray import atomic
from mml_ray.store.run import cleaning
from tests.store.crash_fs import Crash, Recorder
from tests.store.world import Unsynced, World, dead_owner, drive, exhaust, final_state

STYLES = ("none", "all", "data", "names", "random", "random", "random")


def _identity_by_size(path: Path) -> tuple[int, int, int]:
    """Inodes and times survive a crash, but the files of the model are written anew."""
    return (1, 1, path.stat().st_size) if path.exists() else (0, 0, 0)


@pytest.fixture(autouse=True, scope="module")
def _identities() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "_identity", _identity_by_size)
        yield


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, dict[str, Any]]:
    """An undisturbed run, all it did to its files, and when which commit was acknowledged."""
    base = tmp_path_factory.mktemp("recorded")
    world = World(base)
    files = Recorder(base)
    files.events += [("mkdir", "results"), ("mkdir", "data"), ("syncdir", ".")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "fs", files)
        for keys in drive(world, owner=dead_owner(1)):
            files.events.append(("told", keys))
    return files, final_state(world)


def crash_and_continue(base: Path, recorded: tuple[Recorder, dict[str, Any]], seed: int) -> bool:
    """One crash, chosen by ``seed``; returns whether the run had begun by then."""
    files, wanted = recorded
    choose = random.Random(seed)
    length = choose.randint(0, len(files.events))
    style = choose.choice(STYLES)
    what = f"seed {seed}: behind event {length} of {len(files.events)}, {style}"
    told = {key for event in files.events[:length] if event[0] == "told" for key in event[1]} - {"finished"}
    Crash(files.events, length, choose, style).materialise(base)
    world = World(base)
    begun = (world.run_dir / "journal.jsonl").exists()
    assert begun or not told, f"{what}: the run is lost"
    if begun:
        assert told <= set(world.commits()), f"{what}: a commit that was acknowledged is lost"
    exhaust(drive(world, owner=dead_owner(2)))
    assert set(world.commits().values()) == {1}, what
    found = final_state(world)
    for part in ("commits", "tasks", "status"):
        assert found[part] == wanted[part], what
    assert {name: text for name, text in found["files"].items() if not name.rpartition("/")[2].startswith(".")} == wanted[
        "files"
    ], what
    return begun


def crash_often(base: Path, recorded: tuple[Recorder, dict[str, Any]], seeds: range) -> None:
    begun = 0
    for seed in seeds:
        begun += crash_and_continue(base / str(seed), recorded, seed)
        shutil.rmtree(base / str(seed))
    assert begun > len(seeds) / 2


def test_power_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: tuple[Recorder, dict[str, Any]]) -> None:
    monkeypatch.setattr(atomic, "fs", Unsynced())
    crash_often(tmp_path, recorded, range(120))


@pytest.mark.chaos
def test_power_is_lost_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: tuple[Recorder, dict[str, Any]]) -> None:
    monkeypatch.setattr(atomic, "fs", Unsynced())
    first = random.SystemRandom().randrange(10**9)
    print(f"seeds from {first}")
    crash_often(tmp_path, recorded, range(first, first + 3000))


def test_the_model_finds_a_store_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run with an fsync that does nothing must be caught: acknowledged commits get lost."""

    class Careless(Recorder):
        def fsync(self, descriptor: int) -> None:
            return None

    base = tmp_path / "recorded"
    world, files = World(base), Careless(base)
    files.events += [("mkdir", "results"), ("mkdir", "data"), ("syncdir", ".")]
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "fs", files)
        for keys in drive(world, owner=dead_owner(1)):
            files.events.append(("told", keys))
    lost = 0
    for seed in range(30):
        try:
            crash_and_continue(tmp_path / str(seed), (files, final_state(world)), seed)
        except Exception:
            lost += 1
    assert lost > 10
