"""The values of epochs in the journal, and the units of a plan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_ray import atomic
from mml_ray.store.run import store as run_store
from mml_ray.store.run.state import RunState
from mml_ray.store.run.store import read_run
from tests.store.world import World, dead_owner, done, outcome, plan, start


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def report(store: Any, attempt: dict[str, Any], epoch: int, **values: Any) -> dict[str, bool]:
    answer: dict[str, bool] = store.report(attempt, {"epoch": epoch, "epochs": 9, "values": values})
    return answer


def rows(curves: dict[str, Any], key: str = "c0") -> list[tuple[int, int, Any]]:
    return [(row["attempt"], row["epoch"], row["values"].get("loss")) for row in curves.get(key, [])]


def test_values_are_in_the_journal_and_read_again(world: World) -> None:
    store = world.planned(2)
    first, second = start(store, "c0"), start(store, "c1")
    assert report(store, first, 1, loss=0.5) == {"stop": False}
    report(store, second, 1, loss=math.nan)
    report(store, first, 2, loss=0.25, note="not a number")
    store.commit([outcome(first), outcome(second)])
    assert rows(store.state.curves) == [(1, 1, 0.5), (1, 2, 0.25)]
    assert "note" not in store.state.curves["c0"][1]["values"]
    store.close()
    found = read_run(world.run_dir).curves
    assert rows(found) == [(1, 1, 0.5), (1, 2, 0.25)] and math.isnan(found["c1"][0]["values"]["loss"])
    [line] = [item for item in world.journal() if item["op"] == "progressed" and item["command"] == "c1"]
    assert {"command", "attempt", "epoch", "values"} <= set(line)


def test_values_are_not_shown_as_progress(world: World) -> None:
    store = world.planned(1)
    report(store, start(store, "c0"), 3, loss=0.5)
    assert store.progress() == {"c0": {"epoch": 3, "epochs": 9}}


def test_an_attempt_that_is_resumed_replaces_the_epochs_it_repeats(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    for epoch in (1, 2, 3):
        report(store, attempt, epoch, loss=float(epoch))
    store.fail([{**attempt, "reason": "lost", "message": ""}])
    again = start(store, "c0")
    report(store, attempt, 4, loss=99.0)  # of an attempt that is fenced
    report(store, again, 3, loss=-3.0)  # reports of one attempt may overtake one another
    report(store, again, 2, loss=-2.0)
    done_rows = [(1, 1, 1.0), (2, 2, -2.0), (2, 3, -3.0)]
    store.commit([outcome(again)])
    assert rows(store.state.curves) == rows(read_run(world.run_dir).curves) == done_rows


def test_a_report_that_is_slower_than_its_commit_counts(world: World) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    store.commit([outcome(attempt)])
    assert report(store, attempt, 1, loss=0.5) == {"stop": True}
    store.close()
    assert rows(read_run(world.run_dir).curves) == [(1, 1, 0.5)]


def test_values_never_wait_for_the_disk_and_are_written_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    monkeypatch.setattr(run_store, "_GATHER_EPOCHS", 1e9)
    calls: list[str] = []

    class Counting(atomic.FileSystem):
        def write(self, descriptor: int, data: bytes) -> int:
            calls.append("write")
            return super().write(descriptor, data)

        def fsync(self, descriptor: int) -> None:
            calls.append("fsync")
            super().fsync(descriptor)

    monkeypatch.setattr(atomic, "fs", Counting())
    for epoch in range(1, 201):
        report(store, attempt, epoch, loss=0.5)
    assert calls == []
    monkeypatch.setattr(run_store, "_GATHER_EPOCHS", 0.0)
    report(store, attempt, 201, loss=0.5)
    assert calls == ["write"]
    assert len(rows(read_run(world.run_dir).curves)) == 201


@pytest.mark.parametrize("synced", [True, False])
def test_values_that_power_took_do_no_harm(world: World, monkeypatch: pytest.MonkeyPatch, synced: bool) -> None:
    """Their lines are not durable: a hole there is told from damage, unless something durable came after it."""
    monkeypatch.setattr(run_store, "_GATHER_EPOCHS", 0.0)
    store = world.create(owner=dead_owner(1))
    store.set_plan(plan(2))
    done(store, "c0")
    attempt = start(store, "c1")
    before = (world.run_dir / "journal.jsonl").stat().st_size
    report(store, attempt, 1, loss=0.5)
    after = (world.run_dir / "journal.jsonl").stat().st_size
    report(store, attempt, 2, loss=0.25)
    path = world.run_dir / "journal.jsonl"
    data = bytearray(path.read_bytes())
    data[before:after] = b"\0" * (after - before)
    path.write_bytes(data if synced else data[: before + 7])
    again = world.open(owner=dead_owner(2))
    assert set(again.committed()) == {"c0"} and rows(again.state.curves, "c1") == []
    done(again, "c1")


def test_a_full_disk_keeps_the_values_for_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.planned(1)
    attempt = start(store, "c0")
    monkeypatch.setattr(run_store, "_GATHER_EPOCHS", 0.0)

    class Full(atomic.FileSystem):
        def write(self, descriptor: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "fs", Full())
        assert report(store, attempt, 1, loss=0.5) == {"stop": False}
    store.commit([outcome(attempt)])
    assert rows(read_run(world.run_dir).curves) == [(1, 1, 0.5)]


def test_a_run_of_many_epochs_is_read_in_time() -> None:
    state = RunState()
    state.apply({"op": "plan", "plan": {"commands": [{"key": "c0", "position": 1}]}})
    started = time.process_time()
    for attempt in (1, 2):
        state.apply(*({"op": "progressed", "command": "c0", "attempt": attempt, "epoch": e, "values": {}} for e in range(20_000)))
    assert len(state.curves["c0"]) == 20_000 and time.process_time() - started < 10


# -- units -----------------------------------------------------------------------------------------------------------------------------
def with_units(commands: int, unit: Callable[[int], str]) -> dict[str, Any]:
    content = plan(commands)
    for number, entry in enumerate(content["commands"]):
        entry["unit"] = unit(number)
    return content


def test_units_are_in_what_is_read_of_a_run(world: World) -> None:
    store = world.create()
    store.set_plan(with_units(4, lambda number: f"fold {number // 2}" if number else ""))
    done(store, "c1")
    units = {"c0": "", "c1": "fold 0", "c2": "fold 1", "c3": "fold 1"}
    for state in (store.state, read_run(world.run_dir)):
        assert {key: entry["unit"] for key, entry in state.commands.items()} == units
    assert [item["unit"] for item in store.results("step")] == ["fold 0"]


def test_a_run_that_was_planned_without_units_goes_on(world: World) -> None:
    store = world.planned(3)
    store.set_plan(with_units(3, lambda number: ""))
    store.set_plan(with_units(3, lambda number: f"fold {number}"))
    assert (
        not any(entry.get("unit") for entry in store.state.commands.values())
        and [item["op"] for item in world.journal()].count("plan") == 1
    )
