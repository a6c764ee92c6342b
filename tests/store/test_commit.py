"""The commit protocol: what counts, what is refused, what is asked twice."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mml_ray import atomic
from mml_ray.errors import CommandError, FencedError, PlanMismatchError, StorageError
from mml_ray.store.run import model_updates
from mml_ray.store.run.publish import publish_artifacts
from mml_ray.store.run.store import read_run, verify
from tests.store.world import MODELS, PARAMETERS, PLAIN, World, artifact, dead_owner, done, fork, outcome, plan, start


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def status(answers: list[dict[str, str]]) -> list[str]:
    return [answer["status"] for answer in answers]


# -- once ------------------------------------------------------------------------------------------------------------------------------
def test_a_commit_asked_for_twice_is_one_commit(world: World) -> None:
    store = world.planned(1)
    finished = outcome(start(store, "c0"), result=1)
    assert status(store.commit([finished])) == ["committed"]
    size = (world.run_dir / "journal.jsonl").stat().st_size
    assert status(store.commit([finished, finished])) == ["committed", "committed"]
    assert (world.run_dir / "journal.jsonl").stat().st_size == size
    store.close()
    again = world.open()
    assert status(again.commit([finished])) == ["committed"], "also after a restart"
    assert world.commits() == {"c0": 1}


def test_the_same_outcome_twice_in_one_call(world: World) -> None:
    store = world.planned(1)
    finished = outcome(start(store, "c0"))
    assert "committed" in status(store.commit([finished, finished]))
    assert world.commits() == {"c0": 1}


def test_an_older_attempt_is_fenced(world: World) -> None:
    store = world.planned(1)
    first, second = start(store, "c0"), start(store, "c0")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    [answer] = store.commit([outcome(first, result="old")])
    assert answer["status"] == "refused" and "was replaced by attempt 2" in answer["reason"]
    with pytest.raises(FencedError, match="Attempt 1 of c0 is not the current one"):
        store.reserve(first, assignment=PARAMETERS, task="t", file=None)
    assert store.report(first, {})["stop"] and not store.report(second, {})["stop"]
    assert status(store.commit([outcome(second, result="new")])) == ["committed"] and store.result("c0") == "new"
    [answer] = store.commit([outcome(first, result="old")])
    assert answer["status"] == "refused" and "attempt 2" in answer["reason"]


def test_an_attempt_that_failed_cannot_commit(world: World) -> None:
    store = world.planned(2)
    attempt = start(store, "c0")
    store.fail([{**attempt, "reason": "oom", "message": "7 GiB"}])
    [answer] = store.commit([outcome(attempt)])
    assert answer["status"] == "refused" and "oom: 7 GiB" in answer["reason"]
    [answer] = store.commit([outcome({"command": "c1", "attempt": 1})])
    assert answer["status"] == "refused" and "was started" in answer["reason"]


def test_a_failure_reported_late_changes_nothing(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    store.commit([outcome(attempt)])
    store.fail([{**attempt, "reason": "lost", "message": ""}])
    assert [item.status for item in store.state.attempts["c0"]] == ["committed"]


def test_where_an_attempt_ended_is_known_also_of_one_that_was_killed(world: World) -> None:
    store = world.planned(3)
    attempts = [start(store, key) for key in ("c0", "c1", "c2")]
    store.report(attempts[1], {"host": "far", "pid": 7})
    store.commit([outcome(attempts[0], node="there", pid=5)])
    store.fail([{**attempt, "reason": "lost", "message": ""} for attempt in attempts[1:]])
    store.close()
    known = world.open().state.attempts
    found = [(item.node, item.pid) for key in ("c0", "c1", "c2") for item in known[key]]
    assert found == [("there", 5), ("far", 7), ("here", 1)], "the last never said where it was"


def test_a_command_that_has_committed_may_be_repeated_but_never_commits_again(world: World) -> None:
    store = world.planned(1)
    done(store, "c0", "first")
    again = start(store, "c0")
    [answer] = store.commit([outcome(again, result="second")])
    assert answer["status"] == "refused" and "already committed, by attempt 1" in answer["reason"]
    store.fail([{**again, "reason": "repeated", "message": ""}])
    assert store.result("c0") == "first" and world.commits() == {"c0": 1}


def test_commands_outside_the_plan_are_refused(world: World) -> None:
    store = world.create()
    with pytest.raises(CommandError, match="set_plan comes first"):
        start(store, "c0")


# -- together --------------------------------------------------------------------------------------------------------------------------
def test_fifty_commits_wait_for_the_disk_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(atomic.FileSystem):
        syncs = writes = 0

        def fsync(self, descriptor: int) -> None:
            Counting.syncs += 1

        def write(self, descriptor: int, data: bytes) -> int:
            Counting.writes += 1
            return super().write(descriptor, data)

    store = world.planned(50)
    monkeypatch.setattr(atomic, "fs", Counting())
    numbers = store.start([{"command": f"c{i}", "position": i, "node": "", "pid": 0} for i in range(50)])
    assert (Counting.syncs, Counting.writes) == (0, 1), "starting does not wait for the disk"
    answers = store.commit([outcome({"command": f"c{i}", "attempt": n}) for i, n in enumerate(numbers)])
    assert status(answers) == ["committed"] * 50
    assert (Counting.syncs, Counting.writes) == (1, 2)


def test_a_bad_outcome_does_not_harm_the_others(world: World) -> None:
    store = world.planned(4)
    good, bad, worse = start(store, "c0"), start(store, "c1"), start(store, "c2")
    answers = store.commit(
        [outcome(bad, result=object()), outcome(good), outcome(worse, structs={"t": {"set_paths": {"k": "no path"}}})]
    )
    assert status(answers) == ["refused", "committed", "refused"]
    assert "not plain data" in answers[0]["reason"] and "not a stored path" in answers[2]["reason"]
    assert world.commits() == {"c0": 1}


# -- artifacts -------------------------------------------------------------------------------------------------------------------------
def test_artifacts_are_committed_with_key_size_and_sha256(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    path = artifact(store, attempt, b"weights")
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    [item] = store.committed()["c0"]["artifacts"]
    assert item["path"] == "results:proj/PARAMETERS/t/model_0001.bin" and item["key"] == "parameters" and item["size"] == 7
    assert verify(world.run_dir) == []
    path.write_bytes(b"weighty")
    [problem] = verify(world.run_dir)
    assert str(path) in problem and "changed since c0 committed it" in problem
    path.unlink()
    assert "No such file" in verify(world.run_dir)[0]


def test_publishing_removes_names_that_were_not_used(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    unused = store.roots.absolute(store.reserve(attempt, assignment=PARAMETERS, task="t", file=None))
    plain = store.roots.absolute(store.reserve(attempt, assignment=PLAIN, task=None, file=None))
    used = artifact(store, attempt, b"x" * 100_000)
    assert unused.exists() and not plain.exists()
    published = publish_artifacts([unused, used, plain, used])
    assert [item["path"] for item in published] == [str(used)] and published[0]["size"] == 100_000
    assert not unused.exists()
    assert status(store.commit([outcome(attempt, artifacts=published)])) == ["committed"]


def test_an_empty_artifact_is_one(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    path = artifact(store, attempt, b"")
    assert publish_artifacts([path])[0]["size"] == 0 and path.exists()


@pytest.mark.parametrize("fault", ["gone", "longer", "not reserved", "of another attempt"])
def test_artifacts_that_are_not_what_they_claim_are_refused(world: World, fault: str) -> None:
    store = world.planned(2)
    attempt, other = start(store, "c0"), start(store, "c1")
    path = artifact(store, other if fault == "of another attempt" else attempt, b"weights")
    published = publish_artifacts([path])
    if fault == "gone":
        path.unlink()
    elif fault == "longer":
        path.write_bytes(b"weights and more")
    elif fault == "not reserved":
        published[0]["path"] = str(path.with_name("other.bin"))
    [answer] = store.commit([outcome(attempt, artifacts=published)])
    assert answer["status"] == "refused" and world.commits() == {}


# -- structs ---------------------------------------------------------------------------------------------------------------------------
def sets(path: str, key: str = "foo") -> dict[str, Any]:
    return {"t": {"set_paths": {key: path}, "append_models": []}}


@pytest.mark.parametrize("together", [True, False])
def test_two_commands_side_by_side_that_set_one_key(world: World, together: bool) -> None:
    store = world.planned(3)
    outcomes = [outcome(start(store, f"c{i}"), structs=sets(f"results:proj/{i}")) for i in (1, 2)]
    answers = store.commit(outcomes) if together else store.commit(outcomes[:1]) + store.commit(outcomes[1:])
    assert status(answers) == ["committed", "conflict"]
    assert all(word in answers[1]["reason"] for word in ("c1", "c2", "'foo'", "'t'", "append"))
    assert store.task_state("t")["paths"] == {"foo": "results:proj/1"}
    assert store.state.attempts["c2"][0].reason == "conflict"
    assert status(store.commit([outcomes[1]])) == ["refused"]
    retry = start(store, "c2")
    assert status(store.commit([outcome(retry, structs=sets("results:proj/2", "bar"))])) == ["committed"]


def test_the_preparation_comes_before_everything(world: World) -> None:
    store = world.planned(2)
    assert status(store.commit([outcome(start(store, "c0"), structs=sets("data:a"))])) == ["committed"]
    assert status(store.commit([outcome(start(store, "c1"), structs=sets("data:b"))])) == ["committed"]


def test_the_same_value_is_no_conflict(world: World) -> None:
    store = world.planned(2)
    answers = store.commit([outcome(start(store, f"c{i}"), structs=sets("data:same")) for i in range(2)])
    assert status(answers) == ["committed", "committed"]


def chain(needs: dict[str, list[str]], barrier: dict[str, int]) -> dict[str, Any]:
    document = plan(5)
    for entry in document["commands"]:
        entry.update(needs=needs.get(entry["key"], []), barrier=barrier.get(entry["key"], 0))
    return document


@pytest.mark.parametrize(
    ("needs", "barrier", "expected"),
    [
        ({"c4": ["c3"], "c3": ["c1"]}, {}, "committed"),
        ({"c4": ["c3"]}, {"c3": 3}, "committed"),
        ({}, {"c4": 2}, "committed"),
        ({"c4": ["c3"], "c3": ["c2"]}, {}, "conflict"),
        ({}, {"c4": 1}, "conflict"),
    ],
)
def test_a_command_that_waited_for_the_other_may_set_the_key_again(
    world: World, needs: dict[str, list[str]], barrier: dict[str, int], expected: str
) -> None:
    store = world.create()
    store.set_plan(chain(needs, barrier))
    store.commit([outcome(start(store, "c1"), structs=sets("results:proj/a"))])
    assert status(store.commit([outcome(start(store, "c4"), structs=sets("results:proj/b"))])) == [expected]


def test_models_come_in_the_order_of_the_plan(world: World) -> None:
    store = world.planned(4)
    for number in (2, 0, 3, 1):
        models = [f"results:proj/m{number}a", f"results:proj/m{number}b"]
        store.commit([outcome(start(store, f"c{number}"), structs={"t": {"append_models": models}})])
    expected = [f"results:proj/m{number}{letter}" for number in range(4) for letter in "ab"]
    assert store.task_state("t")["models"] == expected
    store.close()
    assert world.open().task_state("t") == {"paths": {}, "models": expected}


# -- results ---------------------------------------------------------------------------------------------------------------------------
def test_results_in_the_order_of_the_plan_and_the_same_after_a_restart(world: World) -> None:
    store = world.planned(3)
    for number in (2, 0):
        done(store, f"c{number}", {"loss": math.nan if number else 0.5, "pair": (1, 2)})
    before = store.results("step")
    with pytest.raises(CommandError, match="c1 has not committed"):
        store.result("c1")
    assert [entry["params"] for entry in before] == [[0], [2]] and before[0]["result"] == {"loss": 0.5, "pair": [1, 2]}
    store.close()
    after = world.open().results("step")
    assert repr(after) == repr(before) and math.isnan(after[1]["result"]["loss"])


# -- plans -----------------------------------------------------------------------------------------------------------------------------
def test_the_same_plan_is_journaled_once(world: World) -> None:
    store = world.planned(2)
    size = (world.run_dir / "journal.jsonl").stat().st_size
    store.set_plan(plan(2))
    assert (world.run_dir / "journal.jsonl").stat().st_size == size
    assert read_run(world.run_dir).plan == plan(2)


def _other_params(document: dict[str, Any]) -> None:
    document["commands"][1]["params"] = [7]


def _shorter(document: dict[str, Any]) -> None:
    document["commands"].pop()


def _edges(document: dict[str, Any]) -> None:
    document["commands"][1]["needs"] = ["c0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_params, r"Command 1 was step\(1\) and is step\(7\) now"),
        (_shorter, r"Command 2, step\(2\), is missing \(3 commands before, 2 now\)"),
        (_edges, r"differs in needs"),
    ],
)
def test_another_plan_is_refused_with_its_first_difference(
    world: World, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    store = world.planned(3)
    document = plan(3)
    change(document)
    document["fingerprint"] = "other"
    with pytest.raises(PlanMismatchError, match=message):
        store.set_plan(document)
    assert store.state.plan == plan(3)


def test_a_finished_run_can_be_extended(world: World) -> None:
    store = world.planned(2)
    for number in range(2):
        attempt = start(store, f"c{number}")
        path = artifact(store, attempt, b"w")
        store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    store.finish("finished", remove={})
    store.close()
    store = world.open()
    assert not store.state.finished
    with pytest.raises(PlanMismatchError, match="is new"):
        store.set_plan(plan(4))
    with pytest.raises(PlanMismatchError, match="not remove any"):
        store.set_plan(plan(1), extend=True)
    store.set_plan(plan(4), extend=True)
    assert sorted(store.committed()) == ["c0", "c1"]
    attempt = start(store, "c2")
    path = artifact(store, attempt, b"w")
    assert path.name == "model_0004.bin", "numbers of what was there are not given again"
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    done(store, "c3")
    assert store.finish("finished", remove={})["status"] == "finished"
    assert world.commits() == {f"c{number}": 1 for number in range(4)} and verify(world.run_dir) == []


def _begun(path: Path) -> Path:
    """What a process leaves that is killed while it writes a file."""
    left = path.with_name(f".{path.stem}.{'0f' * 6}.tmp{path.suffix}")
    left.write_bytes(b"the first ha")
    return left


@pytest.mark.parametrize("assignment", [PARAMETERS, MODELS])
def test_what_killed_attempts_had_begun_to_write_is_removed(world: World, assignment: dict[str, Any]) -> None:
    store = world.create()
    store.set_plan(plan(1))
    attempt = start(store, "c0")
    path = artifact(store, attempt, b"{}", assignment, file="a.json")
    first, foreign = _begun(path), _begun(path.with_name("of_nobody.json"))
    store.fail([{**attempt, "reason": "lost", "message": "", "node": "", "pid": 0}])
    attempt = start(store, "c0")
    assert not first.exists() and not path.exists(), "when the command is tried again"
    path = artifact(store, attempt, b"{}", assignment, file="a.json")
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    late = _begun(path)  # by a process that outlived its attempt
    store.close()
    store = world.open()
    assert not late.exists(), "when the run is opened"
    late = _begun(path)
    store.finish("finished", remove={})
    assert not late.exists() and path.read_bytes() == b"{}", "when it is finished"
    assert foreign.exists()
    store.close()


def test_a_run_is_not_finished_while_something_is_open(world: World) -> None:
    store = world.planned(2)
    done(store, "c0")
    with pytest.raises(CommandError, match="1 of its commands have not committed, the first is c1"):
        store.finish("finished", remove={})
    with pytest.raises(ValueError, match="finished, failed, interrupted"):
        store.finish("done", remove={})
    store.finish("interrupted", remove={})
    assert not read_run(world.run_dir).finished


@pytest.mark.parametrize("assignment", [PARAMETERS, PLAIN])
@pytest.mark.parametrize("committed", [True, False])
def test_a_name_that_another_run_took_meanwhile_is_not_cleaned_up(
    tmp_path: Path, assignment: dict[str, Any], committed: bool
) -> None:
    world, other = World(tmp_path), World(tmp_path, run="2024-01-02/03-04-06-000000")
    store = world.planned(1)
    path = Path(store.roots.absolute(store.reserve(start(store, "c0"), assignment=assignment, task="t", file=None)))
    path.unlink(missing_ok=True)  # as the command itself may have done
    store.close()
    second = other.planned(1)
    attempt = start(second, "c0")
    assert artifact(second, attempt, b"of the other run", assignment) == path
    if committed:
        second.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
        second.finish("finished", remove={})
    second.close()
    world.open().close()
    assert path.read_bytes() == b"of the other run" and verify(other.run_dir) == []
    if not committed:
        other.open().close()
        assert not path.exists(), "its own run cleans it up"


def test_a_size_out_of_the_cache_of_a_network_file_system_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    path = Path(store.roots.absolute(store.reserve(attempt, assignment=PARAMETERS, task="t", file=None)))
    cached, stat = os.stat(path), os.stat  # of the marker
    atomic.write_bytes(path, b"weights" * 100)  # by a worker on another node
    artifacts = publish_artifacts([path])
    monkeypatch.setattr(os, "stat", lambda asked, **more: cached if str(asked) == str(path) else stat(asked, **more))
    assert status(store.commit([outcome(attempt, artifacts=artifacts)])) == ["committed"]


# -- model storages --------------------------------------------------------------------------------------------------------------------
def test_a_model_storage_changes_by_delta(world: World) -> None:
    from mml_ray.store.artifacts import ModelStorage

    store = world.create()
    store.set_plan(plan(3, chained=True))
    attempt = start(store, "c0")
    path = Path(store.roots.absolute(store.reserve(attempt, assignment=MODELS, task="t", file="fold_0.json")))
    ModelStorage(task="t", fold=0, metrics=[{"loss": 1.0}]).store(path, results_root=world.results)
    stored = store.roots.stored(path)
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]), structs={"t": {"append_models": [stored]}})])
    before = path.read_bytes()
    for key, acc in (("c1", 0.5), ("c2", math.nan)):
        delta = {"predictions": {key: f"results:proj/{key}.parquet"}, "append_metrics": [{"acc": acc}]}
        assert path.read_bytes() == before
        finished = outcome(start(store, key), models_update={stored: delta})
        assert status(store.commit([finished])) == ["committed"] and status(store.commit([finished])) == ["committed"]
        before = path.read_bytes()
    model = ModelStorage.load(path, world.results)
    assert repr(model.metrics) == repr([{"loss": 1.0}, {"acc": 0.5}, {"acc": math.nan}])
    assert model.predictions == {key: world.results / "proj" / f"{key}.parquet" for key in ("c1", "c2")}
    plain = json.loads(before)  # what a reader sees that knows nothing of changes
    assert plain["predictions"] == {key: f"proj/{key}.parquet" for key in ("c1", "c2")}
    assert repr(plain["metrics"]) == repr(model.metrics)
    assert verify(world.run_dir) == []
    path.write_bytes(before.replace(b'"predictions": {\n    "c1": "proj/c1', b'"predictions": {\n    "c1": "proj/c9'))
    assert path.read_bytes() != before and "changed since c0" in verify(world.run_dir)[0]
    path.write_bytes(before)
    store.close()
    path.write_bytes(_without_updates(path))
    assert len(verify(world.run_dir)) == 2
    world.open().close()
    assert path.read_bytes() == before, "a replay brings the changes back, once"
    path.write_bytes(before.replace(b'"fold": 0', b'"fold": 1'))
    assert "changed since c0" in verify(world.run_dir)[0]


def test_two_runs_that_change_one_model_storage_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text("{}")

    def change(run: str) -> None:
        for number in range(60):
            time.sleep(0.003)
            model_updates.write_updates(
                path, [model_updates.entry(run, f"c{number}", number, {"append_metrics": [{"x": number}]})]
            )

    pids = [fork(partial(change, run)) for run in ("one", "other")]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    found = [(item["run"], item["position"]) for item in model_updates.load(path)["updates"]]
    assert sorted(found) == [(run, number) for run in ("one", "other") for number in range(60)]


def test_a_run_that_sleeps_while_it_changes_a_model_storage_does_not_stop_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mml_ray.store.run.model_updates.LOCK_TIMEOUT", 0.1)
    path = tmp_path / "model.json"
    path.write_text("{}")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert model_updates.write_updates(path, [model_updates.entry("run", "c0", 0, {"append_metrics": [{"x": 1.0}]})])
    os.close(descriptor)


def test_models_of_a_project_that_may_only_be_read_do_not_stop_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = world.results / "elsewhere" / "model.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    write = atomic.write_json

    def denied(path: Path, *rest: Any, **more: Any) -> None:
        if path == foreign:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        write(path, *rest, **more)

    monkeypatch.setattr(atomic, "write_json", denied)
    store = world.planned(1)
    change = {"append_metrics": [{"acc": 1.0}]}
    assert status(store.commit([outcome(start(store, "c0"), models_update={"results:elsewhere/model.json": change})])) == [
        "committed"
    ]
    assert "stay in this run" in caplog.text
    store.close()
    again = world.open()
    assert again.finish("finished", remove={})["status"] == "finished"


def _without_updates(path: Path) -> bytes:
    from mml_ray.store.run.model_updates import committed_bytes

    found = committed_bytes(path)
    assert found is not None
    return found


@pytest.mark.parametrize("delta", [{}, {"metrics": []}, {"append_metrics": {}}, {"predictions": {"t": 1}}, []])
def test_what_is_no_change_of_a_model_storage_is_refused(world: World, delta: Any) -> None:
    store = world.planned(1)
    (world.results / "m.json").write_text("{}")
    [answer] = store.commit([outcome(start(store, "c0"), models_update={"results:m.json": delta})])
    assert answer["status"] == "refused" and "append_metrics" in answer["reason"]


def test_changes_by_commands_side_by_side_do_not_depend_on_their_order(tmp_path: Path) -> None:
    texts = []
    for order in ((1, 2), (2, 1)):
        world = World(tmp_path / str(order))
        store = world.planned(3)
        (world.results / "m.json").write_text('{"pipeline": null, "parameters": null}')
        for number in order:
            update = {"results:m.json": {"append_metrics": [{"acc": number}]}}
            store.commit([outcome(start(store, f"c{number}"), models_update=update)])
        texts.append((world.results / "m.json").read_text().replace(store.state.run, "RUN"))
    assert texts[0] == texts[1]


def test_a_full_disk_while_a_change_is_written_is_told_and_the_same_commit_makes_it_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    class NoReplace(atomic.FileSystem):
        def replace(self, source: Path | str, target: Path | str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = world.planned(2)
    (world.results / "m.json").write_text('{"pipeline": null, "parameters": null}')
    finished = outcome(start(store, "c0"), models_update={"results:m.json": {"append_metrics": [{"acc": 1}]}})
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "fs", NoReplace())
        with pytest.raises(StorageError, match="No space left") as caught:  # a command that waits for c0 would read the old file
            store.commit([finished])
    assert caught.value.errno == errno.ENOSPC and "acc" not in (world.results / "m.json").read_text()  # type: ignore[attr-defined]
    assert status(store.commit([finished])) == ["committed"]
    assert model_updates.apply_updates(model_updates.load(world.results / "m.json"))[1] == [{"acc": 1}] and world.commits() == {
        "c0": 1
    }


# -- progress --------------------------------------------------------------------------------------------------------------------------
def test_progress_and_requests_to_stop(world: World) -> None:
    store = world.planned(2)
    attempt = start(store, "c0")
    assert store.report(attempt, {"epoch": 1, "of": 3}) == {"stop": False}
    store.report(attempt, {"epoch": 2})
    assert store.progress() == {"c0": {"epoch": 2, "of": 3}}
    store.request_stop()
    assert store.report(attempt, {}) == {"stop": True}
    store.commit([outcome(attempt)])
    assert store.progress() == {}


def test_what_is_read_of_a_run_that_is_under_way(world: World) -> None:
    store = world.planned(4)
    done(store, "c0")
    start(store, "c1")
    store.fail([{**start(store, "c2"), "reason": "failed", "message": "boom"}])
    for state in (store.state, read_run(world.run_dir)):
        assert {key: tries[-1].status for key, tries in state.attempts.items()} == {
            "c0": "committed",
            "c1": "running",
            "c2": "failed",
        }
        assert state.status == "open" and state.token == store.token == 1 and state.manifest == {"mode": "test"}
        [attempt] = state.attempts["c2"]
        assert (attempt.reason, attempt.message, attempt.status) == ("failed", "boom", "failed")


def test_a_store_on_the_run_of_a_dead_driver_knows_what_was_lost(world: World) -> None:
    old = world.planned(2, owner=dead_owner(1))
    start(old, "c0")
    store = world.open()
    [attempt] = store.state.attempts["c0"]
    assert (attempt.status, attempt.reason) == ("failed", "lost")
    assert start(store, "c0")["attempt"] == 2
