"""The loop's failure policy, with an executor and a store that do what the test says. No Ray, no disk."""

from __future__ import annotations

import errno
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mml_ray.driver import loop as loop_module
from mml_ray.driver.command import CommandSpec, Outcome, Status
from mml_ray.driver.executor import FailurePolicy, RunSummary
from mml_ray.driver.graph import Board, Entry, build_plan
from mml_ray.driver.loop import Interrupt, Loop
from mml_ray.driver.resources import Resources

Script = Callable[[CommandSpec, int], Any]


class FakeStore:
    """Counts attempts; commits what it gets, once; raises what ``full`` holds first."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = defaultdict(int)
        self.commits: list[str] = []
        self.failures: list[dict[str, Any]] = []
        self.said: dict[str, dict[str, Any]] = {}
        self.full: list[OSError] = []
        self.answers: dict[str, str] = {}
        self.stop_requested = False

    def start(self, requests: list[dict[str, Any]]) -> list[int]:
        for request in requests:
            self.attempts[request["command"]] += 1
        return [self.attempts[request["command"]] for request in requests]

    def commit(self, outcomes: list[dict[str, Any]]) -> list[dict[str, str]]:
        if self.full:
            raise self.full.pop()
        answers = []
        for outcome in outcomes:
            status = self.answers.pop(outcome["command"], "committed")
            if status == "committed":
                self.commits.append(outcome["command"])
            answers.append({"command": outcome["command"], "status": status, "reason": "because the test says so"})
        return answers

    def fail(self, failures: list[dict[str, Any]]) -> None:
        self.failures += failures

    def progress(self) -> dict[str, dict[str, Any]]:
        return self.said

    def request_stop(self) -> None:
        self.stop_requested = True


class FakeExecutor:
    """Every attempt ends at the next wait as the script says; ``hang`` never ends unless aborted or stopped."""

    def __init__(self, script: Script, *, window: int = 4) -> None:
        self.window = self.share = window
        self.node = "fake"
        self.script = script
        self.flying: list[tuple[CommandSpec, int]] = []
        self.ended: list[Outcome] = []
        self.aborted: list[str] = []
        self.most = 0
        self.when: dict[str, list[float]] = defaultdict(list)

    def submit(self, spec: CommandSpec, attempt: int) -> None:
        self.when[spec.name].append(time.monotonic())
        self.flying.append((spec, attempt))
        self.most = max(self.most, len(self.flying))

    def wait(self, timeout: float) -> list[Outcome]:
        done, kept = self.ended, []
        self.ended = []
        for spec, attempt in self.flying:
            status: Any = self.script(spec, attempt)
            if status == "hang":
                kept.append((spec, attempt))
            else:
                done.append(Outcome(spec.key, attempt, status, error={"message": f"{status} it was"}))
        self.flying = kept
        if not done:
            time.sleep(0.01)
        return done

    def _end(self, status: Status, keys: list[str]) -> None:
        for spec, attempt in list(self.flying):
            if spec.key in keys:
                self.flying.remove((spec, attempt))
                self.ended.append(Outcome(spec.key, attempt, status, error={"message": status}))

    def stop(self, *, force: bool) -> None:
        self._end("interrupted", [spec.key for spec, _ in self.flying])

    def abort(self, key: str) -> str:
        self.aborted.append(key)
        self._end("stalled", [key])
        return "stack: here"

    def close(self) -> None:
        pass


class Notes:
    """A display that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.notes: list[str] = []

    def event(self, spec: CommandSpec, state: str, detail: str = "") -> None:
        self.events.append((spec.name, state, detail))

    def tick(self, *_: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def _run_framed(
    script: Script, *, committed: list[str] | None = None, interrupt: Interrupt | None = None
) -> tuple[RunSummary, FakeStore, FakeExecutor, FakeExecutor, Notes]:
    """``CHAIN`` between the two commands of the driver, which have an executor of their own."""
    store, workers, driver, notes = FakeStore(), FakeExecutor(script), FakeExecutor(script), Notes()
    board = Board(build_plan(CHAIN, scheduler="s").framed(), committed or [])
    policy, interrupt = FailurePolicy(backoff=0.01), interrupt or Interrupt()
    summary = Loop(board, store, workers, inline=driver, policy=policy, display=notes, interrupt=interrupt).run()
    return summary, store, workers, driver, notes


def _run(
    entries: list[Entry], script: Script, *, store: FakeStore | None = None, interrupt: Interrupt | None = None, **policy: Any
) -> tuple[RunSummary, FakeStore, FakeExecutor, Notes]:
    store, executor, notes = store or FakeStore(), FakeExecutor(script), Notes()
    policy.setdefault("backoff", 0.01)
    board = Board(build_plan(entries, scheduler="s"))
    summary = Loop(
        board, store, executor, policy=FailurePolicy(**policy), display=notes, interrupt=interrupt or Interrupt()
    ).run()
    return summary, store, executor, notes


CHAIN = [Entry("a", [0], after=[]), Entry("b", [0], after=[0]), Entry("c", [0], after=[])]


def test_everything_commits_once() -> None:
    summary, store, _, _ = _run(CHAIN, lambda *_: "done")
    assert (summary.exit_code, summary.committed, sorted(store.attempts.values())) == (0, 3, [1, 1, 1])
    assert len(set(store.commits)) == 3


def test_the_driver_runs_the_first_and_the_last_command_itself() -> None:
    summary, store, workers, driver, notes = _run_framed(lambda *_: "done")
    assert (summary.exit_code, summary.committed, summary.total) == (0, 3, 3)
    assert store.commits[0] == "prepare_exp" and store.commits[-1] == "finish_exp" and len(store.commits) == 5
    assert list(driver.when) == ["prepare_exp", "finish_exp"] and sorted(workers.when) == ["a", "b", "c"]
    assert {name for name, _, _ in notes.events} == {"a", "b", "c"}, "the frame is not shown as long as all is well"


def test_the_preparation_runs_at_every_start_and_is_committed_once() -> None:
    plan = build_plan(CHAIN, scheduler="s")
    _, store, workers, driver, _ = _run_framed(lambda *_: "done", committed=["prepare_exp", plan.commands[0].key])
    assert list(driver.when) == ["prepare_exp", "finish_exp"] and sorted(workers.when) == ["b", "c"]
    assert "prepare_exp" not in store.commits
    assert [(failure["command"], failure["reason"]) for failure in store.failures] == [("prepare_exp", "repeated")]


def test_a_preparation_that_fails_skips_everything_and_says_so() -> None:
    summary, _, workers, _, notes = _run_framed(lambda *_: "failed")
    assert list(summary.failures) == ["prepare_exp"] and len(summary.skipped) == 3 and not workers.when
    assert (summary.exit_code, summary.committed, summary.interrupted) == (1, 0, False)
    assert ("prepare_exp", "failed", "failed it was") in notes.events


def test_a_run_whose_last_command_fails_has_failed() -> None:
    summary, _, _, _, _ = _run_framed(lambda spec, _: "failed" if spec.name == "finish_exp" else "done")
    assert (summary.exit_code, summary.committed, summary.total, summary.skipped) == (1, 3, 3, [])


def test_the_frame_waits_for_space_like_any_other_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "DISK_PAUSE", 0.01)
    summary, store, _, _, notes = _run_framed(lambda _, attempt: "disk" if attempt < 3 else "done")
    assert summary.exit_code == 0 and store.attempts["prepare_exp"] == store.attempts["finish_exp"] == 3
    assert ("prepare_exp", "retried") in [event[:2] for event in notes.events]


def test_the_second_interrupt_raises_where_a_command_of_the_driver_stands() -> None:
    interrupt = Interrupt()
    caught: list[bool] = []

    def script(*_: Any) -> Any:
        interrupt()
        try:
            interrupt()
        except KeyboardInterrupt:
            caught.append(True)
        return "interrupted"

    summary, store, workers, _, _ = _run_framed(script, interrupt=interrupt)
    assert caught == [True] and summary.exit_code == 130 and not workers.when and not store.commits
    interrupt()
    assert interrupt.count == 3, "outside of it nothing is raised"


def test_a_lost_worker_is_retried_up_to_the_limit_with_growing_pauses() -> None:
    summary, store, executor, _ = _run(
        CHAIN, lambda spec, _: "lost" if spec.name == "a" else "done", retries_system=3, backoff=0.02
    )
    assert summary.exit_code == 1
    (key,) = summary.failures
    assert store.attempts[key] == 4
    gaps = [later - earlier for earlier, later in zip(executor.when["a"], executor.when["a"][1:], strict=False)]
    assert gaps[0] >= 0.02 and gaps[1] >= 0.04 and gaps[2] >= 0.08
    assert [failure["reason"] for failure in store.failures] == ["lost"] * 4


def test_a_lost_worker_that_comes_back_leaves_no_trace_in_the_exit_code() -> None:
    summary, store, _, _ = _run(CHAIN, lambda spec, attempt: "oom" if attempt < 3 else "done")
    assert summary.exit_code == 0 and set(store.attempts.values()) == {3}


def test_a_command_that_ends_by_itself_as_if_interrupted_fails_in_the_end_like_any_other() -> None:
    summary, store, _, _ = _run(CHAIN, lambda spec, _: "interrupted" if spec.name == "a" else "done", retries_system=2)
    (key,) = summary.failures
    assert summary.exit_code == 1 and key.startswith("a--") and store.attempts[key] == 3
    assert [name.split("--")[0] for name in summary.skipped] == ["b"]


def test_what_waits_for_one_kind_of_device_does_not_keep_others_idle() -> None:
    entries = [Entry("gpu", [n], after=[]) for n in range(10)] + [Entry("cpu", [n], after=[]) for n in range(3)]
    plan = build_plan(entries, scheduler="s").with_resources(
        lambda spec, _: replace(spec, resources=Resources(num_gpus=float(spec.name == "gpu")))
    )
    order: list[str] = []

    def script(spec: CommandSpec, attempt: int) -> str:
        if spec.name == "gpu" and order.count("cpu") < 3:
            return "hang"
        order.append(spec.name)
        return "done"

    executor = FakeExecutor(script, window=6)
    executor.share = 4
    summary = Loop(Board(plan), FakeStore(), executor, policy=FailurePolicy(), display=Notes(), interrupt=Interrupt()).run()
    assert summary.committed == 13 and order[:3] == ["cpu"] * 3 and executor.most <= 6


def test_an_exception_is_not_retried_and_skips_only_what_depends_on_it() -> None:
    summary, store, _, notes = _run(CHAIN, lambda spec, _: "failed" if spec.name == "a" else "done")
    assert summary.exit_code == 1 and summary.committed == 1
    assert len(summary.skipped) == 1 and summary.skipped[0].startswith("b--")
    assert store.attempts[next(iter(summary.failures))] == 1
    assert any("1 command(s)" in note for note in notes.notes)


def test_retries_exception_counts_apart_from_system_failures() -> None:
    def script(spec: CommandSpec, attempt: int) -> Status:
        return "failed" if attempt in (1, 3) else "lost" if attempt == 2 else "done"

    summary, _, _, _ = _run([Entry("a", [])], script, retries_exception=2, retries_system=1)
    assert summary.exit_code == 0


def test_the_retries_of_a_command_go_before_those_of_the_run() -> None:
    summary, store, _, _ = _run([Entry("a", [], retries=1)], lambda *_: "failed")
    assert set(store.attempts.values()) == {2} and summary.exit_code == 1


def test_on_failure_stop_starts_nothing_more() -> None:
    entries = [Entry("a", [n], after=[]) for n in range(20)]
    summary, store, _, _ = _run(entries, lambda spec, _: "failed" if spec.params == (0,) else "done", stop_on_failure=True)
    assert summary.exit_code == 1 and len(store.attempts) < 20


def test_a_conflict_fails_the_command_and_a_refusal_retries_it() -> None:
    store = FakeStore()
    plan = build_plan([Entry("a", [])], scheduler="s")
    store.answers[plan.commands[0].key] = "conflict"
    summary, _, _, _ = _run([Entry("a", [])], lambda *_: "done", store=store)
    assert summary.exit_code == 1 and "because the test says so" in next(iter(summary.failures.values())).error["message"]
    store = FakeStore()
    store.answers[plan.commands[0].key] = "refused"
    summary, store, _, _ = _run([Entry("a", [])], lambda *_: "done", store=store)
    assert summary.exit_code == 0 and set(store.attempts.values()) == {2}


def test_interrupt_once_stops_politely_with_130_and_what_ran_may_be_continued() -> None:
    interrupt = Interrupt()

    def script(spec: CommandSpec, _: int) -> Any:
        interrupt()
        return "hang"

    summary, store, executor, _ = _run([Entry("a", [n]) for n in range(9)], script, interrupt=interrupt)
    assert summary.exit_code == 130 and store.stop_requested and not summary.failures
    assert executor.most <= 4 and len(store.attempts) <= 4


def test_timeout_sends_sigterm_twice_and_it_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Interrupt()
    for _ in range(2):
        interrupt(signal.SIGTERM, None)
    assert interrupt.count == 1
    interrupt(signal.SIGINT, None)
    assert interrupt.count == 2, "Ctrl-C is no echo of it"
    monkeypatch.setattr(loop_module, "ECHO", 0.0)
    interrupt(signal.SIGTERM, None)
    assert interrupt.count == 3, "nor is a later one"


def test_what_an_interrupt_ended_is_not_said_to_be_tried_again() -> None:
    interrupt = Interrupt()

    def script(*_: Any) -> Any:  # as inline: when the loop hears of the interrupt, the command has ended of it
        interrupt()
        return "interrupted"

    summary, _, _, notes = _run([Entry("a", [])], script, interrupt=interrupt)
    assert summary.exit_code == 130
    assert [state for _, state, _ in notes.events] == ["submitted", "interrupted"]


def test_a_full_disk_at_the_commit_pauses_and_loses_nothing() -> None:
    store = FakeStore()
    store.full = [OSError(errno.ENOSPC, "No space left on device")] * 2
    summary, store, _, notes = _run([Entry("a", [])], lambda *_: "done", store=store)
    assert summary.exit_code == 0 and store.commits and set(store.attempts.values()) == {1}
    assert sum("Paused" in note for note in notes.notes) == 1, "said once"


def test_another_error_of_the_store_is_not_swallowed() -> None:
    store = FakeStore()
    store.full = [OSError(errno.EIO, "I/O error")]
    with pytest.raises(OSError, match="I/O error"):
        _run([Entry("a", [])], lambda *_: "done", store=store)


def test_low_space_pauses_before_a_command_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = iter([10, 10, 10, 1000, 1000])
    monkeypatch.setattr(loop_module, "free_bytes", lambda path: next(free, 1000))
    began = time.monotonic()
    summary, _, executor, notes = _run([Entry("a", [])], lambda *_: "done", min_free_bytes=100, watch=(tmp_path,))
    assert summary.exit_code == 0
    assert [note.split(":")[0] for note in notes.notes] == ["Paused", "Space is free again"]
    assert executor.when["a"][0] > began


def test_a_disk_that_is_full_in_a_command_does_not_count_as_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "DISK_PAUSE", 0.01)
    summary, _, _, _ = _run([Entry("a", [])], lambda _, attempt: "disk" if attempt < 6 else "done")
    assert summary.exit_code == 0


def test_a_command_that_met_a_full_disk_is_tried_again_when_there_is_space(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop_module, "DISK_PAUSE", 3600.0)
    looks = 0

    def free(_: Path) -> int:
        nonlocal looks
        looks += 1
        return 5 if looks < 5 else 2**30

    monkeypatch.setattr(loop_module, "free_bytes", free)
    script = lambda _, attempt: "disk" if attempt < 2 else "done"  # noqa: E731
    summary, _, _, notes = _run([Entry("a", [])], script, watch=(tmp_path,), backoff_limit=3600.0)
    assert summary.exit_code == 0 and looks == 5
    assert [detail for _, state, detail in notes.events if state == "retried"] == [
        "the disk is full; the run waits for space: disk it was"
    ]


def test_where_no_space_comes_free_it_is_tried_again_less_and_less_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop_module, "DISK_PAUSE", 0.05)
    monkeypatch.setattr(loop_module, "free_bytes", lambda _: 5)
    script = lambda _, attempt: "disk" if attempt < 5 else "done"  # noqa: E731
    summary, _, executor, _ = _run([Entry("a", [])], script, watch=(tmp_path,), backoff_limit=0.2)
    assert summary.exit_code == 0
    pauses = [later - earlier for earlier, later in pairwise(executor.when["a"])]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2), strict=True)), pauses


def test_a_command_without_sign_of_life_is_ended_and_retried() -> None:
    store = FakeStore()
    plan = build_plan([Entry("a", [])], scheduler="s")
    store.said = {plan.commands[0].key: {"epoch": 1}}
    summary, store, executor, notes = _run(
        [Entry("a", [])],
        lambda _, attempt: "hang" if attempt == 1 else "done",
        store=store,
        stall_timeout=0.3,
    )
    assert summary.exit_code == 0 and len(executor.aborted) == 1
    assert any("no sign of life" in note and "stack: here" in note for note in notes.notes)
    assert [failure["reason"] for failure in store.failures] == ["stalled"]


def test_a_command_that_is_still_queued_has_not_stalled() -> None:
    calls: list[int] = []

    def script(spec: CommandSpec, attempt: int) -> Any:
        calls.append(1)
        return "hang" if len(calls) < 150 else "done"

    summary, _, executor, _ = _run([Entry("a", [])], script, stall_timeout=0.2)
    assert summary.exit_code == 0 and not executor.aborted
