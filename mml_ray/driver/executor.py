"""The executor contract, and the one single-threaded loop that drives a plan through it."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mml_ray.driver.command import SYSTEM_FAILURES, CommandSpec, Outcome
from mml_ray.driver.disk_space import patiently
from mml_ray.driver.graph import Board
from mml_ray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER
from mml_ray.failpoints import failpoint

log = logging.getLogger(__name__)
T = TypeVar("T")
#: seconds before a command that met a full disk is tried again where no space was seen to come free; doubles
DISK_PAUSE = 5.0
#: bytes by which the free space must have grown to be worth an earlier try
FREED = 2**20
#: seconds within which SIGTERM counts once: GNU ``timeout`` sends it to the process that it started, and again to its group
ECHO = 1.0


class Executor(Protocol):
    """Where commands run."""

    #: how many commands may be with the executor at once, and how many that ask for the same resources: what waits for one kind of
    #: device must not keep others idle
    window: int
    share: int
    #: name of the place, for the journal
    node: str

    def submit(self, spec: CommandSpec, attempt: int) -> None:
        """Start one attempt; returns at once (inline: runs at the next :meth:`wait`)."""

    def wait(self, timeout: float) -> list[Outcome]:
        """All attempts that ended; waits up to ``timeout`` seconds for the first of them."""

    def stop(self, *, force: bool) -> None:
        """Running attempts are to stop: on their own at the next good moment, or (``force``) at once."""

    def abort(self, key: str) -> str:
        """End the running attempt of one command at once; returns what its stack looked like, if that can be told."""

    def close(self) -> None:
        """Free everything; no process of the run is left."""


class Store(Protocol):
    """The part of the run store that the loop uses."""

    def start(self, requests: list[dict[str, Any]]) -> list[int]: ...
    def commit(self, outcomes: list[dict[str, Any]]) -> list[dict[str, str]]: ...
    def fail(self, failures: list[dict[str, Any]]) -> None: ...
    def progress(self) -> dict[str, dict[str, Any]]: ...
    def request_stop(self) -> None: ...


class Display(Protocol):
    """What shows the user how far the run is."""

    def event(self, spec: CommandSpec, state: str, detail: str = "") -> None: ...
    def tick(self, board: Board, progress: Mapping[str, Mapping[str, Any]]) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What to do when something fails. Times in seconds."""

    retries_system: int = 3
    retries_exception: int = 0
    stop_on_failure: bool = False
    backoff: float = 1.0
    backoff_limit: float = 60.0
    stall_timeout: float = 0.0
    min_free_bytes: int = 0
    watch: tuple[Path, ...] = ()
    grace: float = 120.0

    def delay(self, failures: int) -> float:
        """How long to wait before the attempt after ``failures`` failed ones: doubles, up to a limit."""
        return float(min(self.backoff_limit, self.backoff * 2.0 ** (failures - 1)))


@dataclass(slots=True)
class RunSummary:
    """How a run ended."""

    committed: int = 0
    total: int = 0
    failures: dict[str, Outcome] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    return_value: float | None = None

    @property
    def exit_code(self) -> int:
        """0: all committed; 1: some failed; 2: all that failed did so of something the user can mend; 130: interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.failures and all(outcome.users_mistake for outcome in self.failures.values()):
            return EXIT_USER
        return EXIT_OK if self.committed == self.total and not self.failures else EXIT_FAILED


class Interrupt:
    """Counts requests to stop (Ctrl-C, SIGTERM): the first is polite, the second is not.

    ``inline`` is for commands that run in the very thread that gets the signal: the first request is passed on at once
    through it, the second raises ``KeyboardInterrupt`` where the command stands.
    """

    def __init__(self) -> None:
        self.count = 0
        self.inline: Callable[[], None] | None = None
        self._terminated = -math.inf

    def __call__(self, number: int = signal.SIGINT, *_: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM:
            since, self._terminated = now - self._terminated, now
            if since < ECHO:
                return
        self.count += 1
        if self.inline is not None:
            if self.count > 1:
                raise KeyboardInterrupt
            self.inline()


class Loop:
    """Drives one plan to its end. One thread; state lives in the board and the store."""

    def __init__(
        self, board: Board, store: Store, executor: Executor, *, policy: FailurePolicy, display: Display, interrupt: Interrupt
    ) -> None:
        self.board, self.store, self.executor = board, store, executor
        self.policy, self.display, self.interrupt = policy, display, interrupt
        self.summary = RunSummary(total=len(board.plan.commands))
        self._flying: dict[str, float] = {}
        self._failed_attempts: dict[str, dict[str, int]] = {}
        self._later: list[tuple[float, str]] = []
        self._full: dict[str, tuple[float, int]] = {}  # what met a full disk: not before this time, and how much was free
        self._seen: dict[str, tuple[Any, float]] = {}
        self._stopping = False
        self._paused = False
        self._polite = 0.0
        self._next_look = 0.0

    def run(self) -> RunSummary:
        """Until everything committed, or nothing more can be done."""
        started = time.monotonic()
        while not self._finished():
            self._mind_interrupts()
            self._bring_back()
            self._submit()
            outcomes = self.executor.wait(self._patience())
            self._mind_interrupts()  # what an interrupted command left is not to be tried again
            if outcomes:
                self._settle(outcomes)
            self._look_around()
        self.summary.committed = self.board.count()["committed"]
        self.summary.seconds = time.monotonic() - started
        self.summary.interrupted = self.interrupt.count > 0 and not self.board.all_committed
        return self.summary

    def _finished(self) -> bool:
        if self._flying:
            return False
        return self._stopping or not (self._later or self.board.peek())

    def _patience(self) -> float:
        if self._flying:
            return 0.5
        return 0.05 if self.board.peek() and not self._paused else 0.25

    # -- submitting ---------------------------------------------------------------------------------------------------------
    def _submit(self) -> None:
        if self._stopping or self._low_on_disk():
            return
        batch: list[CommandSpec] = []
        asked = Counter(self.board.commands[key].resources for key in self._flying)
        while len(self._flying) + len(batch) < self.executor.window:
            spec = self.board.take({request for request, count in asked.items() if count >= self.executor.share})
            if spec is None:
                break
            asked[spec.resources] += 1
            batch.append(spec)
        if not batch:
            return
        node = self.executor.node
        requests = [{"command": s.key, "position": s.position, "node": node, "pid": 0} for s in batch]
        attempts = self._persist(lambda: self.store.start(requests))
        failpoint("driver.after_start")
        now = time.monotonic()
        for spec, attempt in zip(batch, attempts, strict=True):
            self._flying[spec.key] = now
            self.executor.submit(spec, attempt)
            self.display.event(spec, "submitted", f"attempt {attempt}" if attempt > 1 else "")

    def _low_on_disk(self) -> bool:
        """Whether to wait before anything new starts; said once when it begins and once when it ends."""
        if not self.policy.min_free_bytes or not self.board.peek():
            return False
        low = [(path, free) for path in self.policy.watch if (free := _free_bytes(path)) < self.policy.min_free_bytes]
        if low and not self._paused:
            path, free = low[0]
            self.display.note(
                f"Paused: {free / 2**30:.2f} GiB free at {path}, {self.policy.min_free_bytes / 2**30:.2f} GiB wanted "
                "(sys.min_free_disk_gb). Running commands go on; free some space and the run goes on by itself."
            )
        elif self._paused and not low:
            self.display.note("Space is free again: the run goes on.")
        self._paused = bool(low)
        return self._paused

    def _bring_back(self) -> None:
        now = time.monotonic()
        due = [key for when, key in self._later if when <= now or self._has_space(key, now)]
        self._later = [item for item in self._later if item[1] not in due]
        for key in due:
            self._full.pop(key, None)
            self.board.put_back(key)

    def _has_space(self, key: str, now: float) -> bool:
        """Whether a command that met a full disk finds more space now."""
        earliest, before = self._full.get(key, (math.inf, 0))
        return earliest <= now and self._free() > before + FREED

    def _free(self) -> int:
        return min(map(_free_bytes, self.policy.watch), default=0)

    def _persist(self, write: Callable[[], T]) -> T:
        return patiently(write, say=self.display.note, hurry=lambda: self.interrupt.count > 1, pause=self.policy.backoff)

    # -- outcomes --------------------------------------------------------------------------------------------------------------
    def _settle(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._flying.pop(outcome.command, None)
            self._seen.pop(outcome.command, None)
        done = [outcome for outcome in outcomes if outcome.status == "done"]
        failpoint("driver.before_commit")
        answers = self._persist(lambda: self.store.commit([outcome.to_commit() for outcome in done])) if done else []
        failpoint("driver.after_commit")
        failed = [outcome for outcome in outcomes if outcome.status != "done"]
        for outcome, answer in zip(done, answers, strict=True):
            if answer["status"] == "committed":
                self.board.commit(outcome.command)
                self.display.event(self.board.commands[outcome.command], "committed", _seconds(outcome.seconds))
            else:
                failed.append(_not_committed(outcome, answer))
        if failed:
            self._persist(lambda: self.store.fail([_failure_record(outcome) for outcome in failed]))
        for outcome in failed:
            self._after_failure(outcome)

    def _after_failure(self, outcome: Outcome) -> None:
        spec = self.board.commands[outcome.command]
        if outcome.status == "interrupted":
            self.display.event(spec, "interrupted", outcome.error.get("message", ""))
            if not self._stopping and not self._again(spec, outcome):
                self._give_up(spec, outcome)
            return
        if self._stopping or not self._again(spec, outcome):
            self._give_up(spec, outcome)

    def _give_up(self, spec: CommandSpec, outcome: Outcome) -> None:
        self.summary.failures[spec.key] = outcome
        skipped = self.board.fail(spec.key)
        self.summary.skipped += skipped
        self.display.event(spec, "failed", outcome.error.get("message", ""))
        if skipped:
            self.display.note(f"{len(skipped)} command(s) that depend on {spec.title} are skipped.")
        if self.policy.stop_on_failure:
            self._stop("a command failed and on_failure=stop")

    def _again(self, spec: CommandSpec, outcome: Outcome) -> bool:
        """Plan a further attempt if the policy has one left; says so."""
        system = outcome.status in SYSTEM_FAILURES or outcome.status == "interrupted"
        kind = "system" if system else "exception"
        counts = self._failed_attempts.setdefault(spec.key, {})
        counts[kind] = counts.get(kind, 0) + 1
        own = self.policy.retries_exception if spec.retries is None else spec.retries
        allowed = self.policy.retries_system if system else own
        if outcome.status == "disk":
            counts[kind] -= 1
            self._wait_for_space(spec, outcome)
            return True
        if counts[kind] > allowed:
            return False
        delay = self.policy.delay(counts[kind])
        self.display.event(
            spec, "retried", f"{outcome.error.get('message', outcome.status)} (retry {counts[kind]} of {allowed} in {delay:g} s)"
        )
        self._later.append((time.monotonic() + delay, spec.key))
        return True

    def _wait_for_space(self, spec: CommandSpec, outcome: Outcome) -> None:
        """Try again once there is more, and now and again: the disk may be another than those that are watched."""
        counts = self._failed_attempts[spec.key]
        counts["disk"] = counts.get("disk", 0) + 1
        now, pause = time.monotonic(), min(self.policy.backoff_limit, DISK_PAUSE * 2.0 ** (counts["disk"] - 1))
        self._full[spec.key] = (now + self.policy.backoff, self._free())
        self._later.append((now + pause, spec.key))
        self.display.event(spec, "retried", f"the disk is full; the run waits for space: {outcome.error.get('message', '')}")

    # -- interrupts, stalls, display ----------------------------------------------------------------------------------------------
    def _mind_interrupts(self) -> None:
        if self.interrupt.count >= 1 and not self._stopping:
            self._stop("interrupted: running commands write a checkpoint and stop; once more ends them at once")
        overdue = self._polite and time.monotonic() - self._polite > self.policy.grace
        if self._stopping and self._flying and (self.interrupt.count >= 2 or overdue):
            self.executor.stop(force=True)

    def _stop(self, why: str) -> None:
        self._stopping = True
        self._polite = time.monotonic()
        self.display.note(f"Stopping: {why}.")
        self.store.request_stop()
        self.executor.stop(force=False)

    def _look_around(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 0.5
        if self._stopping and self._flying:
            self.store.request_stop()  # again: a store that was restarted does not know
        progress = self.store.progress()
        self.display.tick(self.board, progress)
        if self.policy.stall_timeout:
            self._mind_stalls(progress, now)

    def _mind_stalls(self, progress: Mapping[str, Any], now: float) -> None:
        for key in list(self._flying):
            said = progress.get(key)
            if said is None:  # still queued
                continue
            before, since = self._seen.get(key, (None, now))
            if said != before:
                self._seen[key] = (said, now)
            elif now - since > self.policy.stall_timeout:
                self._seen.pop(key)
                stack = self.executor.abort(key)
                spec = self.board.commands[key]
                self.display.note(f"{spec.title}: no sign of life for {self.policy.stall_timeout:g} s; ended. {stack}".rstrip())


def run_plan(
    board: Board, store: Store, executor: Executor, *, policy: FailurePolicy, display: Display, interrupt: Interrupt
) -> RunSummary:
    """Run what is left of a plan; see :class:`Loop`."""
    return Loop(board, store, executor, policy=policy, display=display, interrupt=interrupt).run()


def _failure_record(outcome: Outcome) -> dict[str, Any]:
    message = outcome.error.get("message", "")
    where = {"node": outcome.node, "pid": outcome.pid}
    return {"command": outcome.command, "attempt": outcome.attempt, "reason": outcome.status, "message": message[:2000], **where}


def _not_committed(outcome: Outcome, answer: Mapping[str, str]) -> Outcome:
    status = "lost" if answer["status"] == "refused" else "failed"
    error = {"type": "StructConflictError" if status == "failed" else "FencedError", "message": answer["reason"], "traceback": ""}
    place = {"seconds": outcome.seconds, "node": outcome.node, "pid": outcome.pid}
    return Outcome(outcome.command, outcome.attempt, status, error=error, **place)  # type: ignore[arg-type]


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        log.warning("Cannot tell the free space of %s: %s", path, error)
        return 2**62


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"
