"""The one single-threaded loop that drives a plan through an executor."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mml_ray.driver.command import SYSTEM_FAILURES, CommandSpec, Outcome, Status
from mml_ray.driver.disk_space import free_bytes, retry_when_space
from mml_ray.driver.executor import Display, Executor, FailurePolicy, RunSummary
from mml_ray.driver.graph import Board
from mml_ray.failpoints import failpoint
from mml_ray.store.run.protocol import CommitAnswer, RunStoreProtocol

log = logging.getLogger(__name__)
T = TypeVar("T")
#: seconds before a command that met a full disk is retried although the free space did not grow; doubles
DISK_PAUSE = 5.0
#: bytes by which the free space must have grown to be worth an earlier retry
FREED = 2**20
#: seconds within which SIGTERM counts once: GNU ``timeout`` sends it to the process that it started, and again to its group
ECHO = 1.0


class Interrupt:
    """Counts requests to stop (Ctrl-C, SIGTERM): the first lets running commands stop by themselves, the second ends them.

    ``inline`` is for commands that run in the very thread that gets the signal: it is called at the first request, and the second
    raises ``KeyboardInterrupt`` where the command stands.
    """

    def __init__(self) -> None:
        self.count = 0
        self.inline: Callable[[], None] | None = None
        self._terminated_at = -math.inf

    def __call__(self, number: int = signal.SIGINT, *_: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM:
            since, self._terminated_at = now - self._terminated_at, now
            if since < ECHO:
                return
        self.count += 1
        if self.inline is not None:
            if self.count > 1:
                raise KeyboardInterrupt
            self.inline()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Let the second request raise within the block, where no loop looks at the count."""
        before, self.inline = self.inline, self.inline or (lambda: None)
        try:
            yield
        finally:
            self.inline = before


class Loop:
    """Drives one plan to its end. One thread; state lives in the board and the store. What the driver itself runs goes to ``inline``."""

    def __init__(
        self,
        board: Board,
        store: RunStoreProtocol,
        executor: Executor,
        *,
        inline: Executor | None = None,
        policy: FailurePolicy,
        display: Display,
        interrupt: Interrupt,
    ) -> None:
        self.board, self.store, self.executor, self.inline = board, store, executor, inline or executor
        self.policy, self.display, self.interrupt = policy, display, interrupt
        self.summary = RunSummary(total=len(board.worker_commands))
        self._in_flight: set[str] = set()
        self._failures: dict[str, Counter[str]] = {}  # by command: how many attempts failed, by what is retried apart
        self._retry_queue: list[tuple[float, str]] = []
        self._waiting_for_disk: dict[str, tuple[float, int]] = {}  # earliest retry, and the free space when the disk was full
        self._last_progress: dict[str, tuple[Any, float]] = {}
        self._stop_requested_at = math.inf
        self._paused = False
        self._next_housekeeping = 0.0

    def run(self) -> RunSummary:
        """Run until everything has committed or nothing more can be done."""
        started = time.monotonic()
        while not self._is_finished():
            self._handle_interrupts()
            self._requeue_due()
            self._submit()
            outcomes = self._wait()
            self._handle_interrupts()  # first: what an interrupted command left is not to be retried
            if outcomes:
                self._handle_outcomes(outcomes)
            self._housekeeping()
        self.summary.committed = self.board.count()["committed"]
        self.summary.seconds = time.monotonic() - started
        self.summary.interrupted = self.interrupt.count > 0 and not self.board.all_committed
        return self.summary

    @property
    def _stopping(self) -> bool:
        return self._stop_requested_at < math.inf

    def _is_finished(self) -> bool:
        if self._in_flight:
            return False
        return self._stopping or not (self._retry_queue or self.board.has_ready())

    def _wait(self) -> list[Outcome]:
        if self.inline is not self.executor and any(self.board.commands[key].where == "driver" for key in self._in_flight):
            with self.interrupt.raising():
                return self.inline.wait(0.0)
        timeout = 0.5 if self._in_flight else 0.05 if self.board.has_ready() and not self._paused else 0.25
        return self.executor.wait(timeout)

    # -- submitting ---------------------------------------------------------------------------------------------------------
    def _submit(self) -> None:
        if self._stopping or self._is_low_on_disk():
            return
        batch: list[CommandSpec] = []
        asked = Counter(self.board.commands[key].resources for key in self._in_flight)
        while len(self._in_flight) + len(batch) < self.executor.window:
            spec = self.board.take({request for request, count in asked.items() if count >= self.executor.share})
            if spec is None:
                break
            asked[spec.resources] += 1
            batch.append(spec)
        if not batch:
            return
        nodes = {"worker": self.executor.node, "driver": platform.node()}
        requests = [{"command": spec.key, "position": spec.position, "node": nodes[spec.where], "pid": 0} for spec in batch]
        attempts = self._persist(lambda: self.store.start(requests))
        failpoint("driver.after_start")
        for spec, attempt in zip(batch, attempts, strict=True):
            self._in_flight.add(spec.key)
            (self.inline if spec.where == "driver" else self.executor).submit(spec, attempt)
            self._show(spec, "submitted", f"attempt {attempt}" if attempt > 1 else "")

    def _is_low_on_disk(self) -> bool:
        """Whether to wait before anything new starts; a note is shown when the waiting begins and when it ends."""
        if not self.policy.min_free_bytes or not self.board.has_ready():
            return False
        low = [(path, free) for path in self.policy.watch if (free := free_bytes(path)) < self.policy.min_free_bytes]
        if low and not self._paused:
            path, free = low[0]
            self.display.note(
                f"Paused: {free / 2**30:.2f} GiB free at {path}, {self.policy.min_free_bytes / 2**30:.2f} GiB wanted "
                "(sys.min_free_disk_gb). Running commands continue; free some space and the run resumes by itself."
            )
        elif self._paused and not low:
            self.display.note("Space is free again: the run resumes.")
        self._paused = bool(low)
        return self._paused

    def _requeue_due(self) -> None:
        now = time.monotonic()
        due = [key for when, key in self._retry_queue if when <= now or self._has_space(key, now)]
        self._retry_queue = [item for item in self._retry_queue if item[1] not in due]
        for key in due:
            self._waiting_for_disk.pop(key, None)
            self.board.make_ready(key)

    def _has_space(self, key: str, now: float) -> bool:
        """Whether a command that met a full disk finds more space now."""
        earliest, before = self._waiting_for_disk.get(key, (math.inf, 0))
        return earliest <= now and self._free_bytes() > before + FREED

    def _free_bytes(self) -> int:
        return min(map(free_bytes, self.policy.watch), default=0)

    def _persist(self, write: Callable[[], T]) -> T:
        give_up = lambda: self.interrupt.count > 1  # noqa: E731
        return retry_when_space(write, notify=self.display.note, give_up=give_up, pause=self.policy.backoff)

    # -- outcomes --------------------------------------------------------------------------------------------------------------
    def _handle_outcomes(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self._in_flight.discard(outcome.command)
            self._last_progress.pop(outcome.command, None)
        finished = [outcome for outcome in outcomes if outcome.status == "done"]
        repeated = [outcome for outcome in finished if outcome.command in self.board.repeated]
        done = [outcome for outcome in finished if outcome.command not in self.board.repeated]
        failpoint("driver.before_commit")
        answers = self._persist(lambda: self.store.commit([outcome.to_commit() for outcome in done])) if done else []
        failpoint("driver.after_commit")
        failed = [outcome for outcome in outcomes if outcome.status != "done"]
        for outcome, answer in zip(done, answers, strict=True):
            if answer["status"] == "committed":
                self._mark_committed(outcome)
            else:
                failed.append(_not_committed(outcome, answer))
        if failed or repeated:
            self._persist(lambda: self.store.fail([_failure_record(outcome) for outcome in [*failed, *repeated]]))
        for outcome in repeated:
            self._mark_committed(outcome)
        for outcome in failed:
            self._handle_failure(outcome)

    def _mark_committed(self, outcome: Outcome) -> None:
        self.board.commit(outcome.command)
        self._show(self.board.commands[outcome.command], "committed", f"{outcome.seconds:.1f} s")

    def _show(self, spec: CommandSpec, state: str, detail: str) -> None:
        """Tell of the frame only where it does not go as it should."""
        if spec.where == "worker" or state not in ("submitted", "committed"):
            self.display.event(spec, state, detail)

    def _handle_failure(self, outcome: Outcome) -> None:
        spec = self.board.commands[outcome.command]
        interrupted = outcome.status == "interrupted"
        if interrupted:
            self._show(spec, "interrupted", outcome.error.get("message", ""))
        if self._stopping and interrupted:
            return
        if self._stopping or not self._schedule_retry(spec, outcome):
            self._give_up(spec, outcome)

    def _give_up(self, spec: CommandSpec, outcome: Outcome) -> None:
        self.summary.failures[spec.key] = outcome
        skipped = self.board.fail(spec.key)
        self.summary.skipped += skipped
        self._show(spec, "failed", outcome.error.get("message", ""))
        if skipped:
            self.display.note(f"{len(skipped)} command(s) that depend on {spec.title} are skipped.")
        if self.policy.stop_on_failure:
            self._stop("a command failed and on_failure=stop")

    def _schedule_retry(self, spec: CommandSpec, outcome: Outcome) -> bool:
        """Plan a further attempt if the policy has one left, and show it."""
        failures = self._failures.setdefault(spec.key, Counter())
        if outcome.status == "disk":
            failures["disk"] += 1
            self._wait_for_space(spec, outcome, failures["disk"])
            return True
        kind = "system" if outcome.status in SYSTEM_FAILURES or outcome.status == "interrupted" else "exception"
        failures[kind] += 1
        own = self.policy.retries_exception if spec.retries is None else spec.retries
        allowed = self.policy.retries_system if kind == "system" else own
        if failures[kind] > allowed:
            return False
        delay = self.policy.delay(failures[kind])
        message = outcome.error.get("message", outcome.status)
        self._show(spec, "retried", f"{message} (retry {failures[kind]} of {allowed} in {delay:g} s)")
        self._retry_queue.append((time.monotonic() + delay, spec.key))
        return True

    def _wait_for_space(self, spec: CommandSpec, outcome: Outcome, failures: int) -> None:
        """Retry once there is more space, and from time to time in any case: the full disk may be another than those that are watched."""
        now, pause = time.monotonic(), min(self.policy.backoff_limit, DISK_PAUSE * 2.0 ** (failures - 1))
        self._waiting_for_disk[spec.key] = (now + self.policy.backoff, self._free_bytes())
        self._retry_queue.append((now + pause, spec.key))
        self._show(spec, "retried", f"the disk is full; the run waits for space: {outcome.error.get('message', '')}")

    # -- interrupts, stalls, display ----------------------------------------------------------------------------------------------
    def _handle_interrupts(self) -> None:
        if self.interrupt.count >= 1 and not self._stopping:
            self._stop("interrupted: running commands write a checkpoint and stop; Ctrl-C again ends them at once")
        overdue = time.monotonic() - self._stop_requested_at > self.policy.grace
        if self._stopping and self._in_flight and (self.interrupt.count >= 2 or overdue):
            self.executor.stop(force=True)

    def _stop(self, why: str) -> None:
        self._stop_requested_at = time.monotonic()
        self.display.note(f"Stopping: {why}.")
        self.store.request_stop()
        self.executor.stop(force=False)

    def _housekeeping(self) -> None:
        now = time.monotonic()
        if now < self._next_housekeeping:
            return
        self._next_housekeeping = now + 0.5
        if self._stopping and self._in_flight:
            self.store.request_stop()  # repeatedly: a store that was restarted has forgotten it
        progress = self.store.progress()
        self.display.tick(self.board, progress)
        if self.policy.stall_timeout:
            self._abort_stalled(progress, now)

    def _abort_stalled(self, progress: Mapping[str, Any], now: float) -> None:
        for key in list(self._in_flight):
            reported = progress.get(key)
            if reported is None:  # still queued
                continue
            before, since = self._last_progress.get(key, (None, now))
            if reported != before:
                self._last_progress[key] = (reported, now)
            elif now - since > self.policy.stall_timeout:
                self._last_progress.pop(key)
                stack = self.executor.abort(key)
                spec = self.board.commands[key]
                message = f"{spec.title} was ended: it gave no sign of life for {self.policy.stall_timeout:g} s. {stack}"
                self.display.note(message.rstrip())


def _failure_record(outcome: Outcome) -> dict[str, Any]:
    """What ``RunStore.fail`` takes. What is ``done`` here had committed before: the first command runs at every start."""
    reason, message = outcome.status, outcome.error.get("message", "")[:2000]
    if outcome.status == "done":
        reason, message = "repeated", "it runs at every start; what it committed first counts"  # type: ignore[assignment]
    where = {"node": outcome.node, "pid": outcome.pid}
    return {"command": outcome.command, "attempt": outcome.attempt, "reason": reason, "message": message, **where}


def _not_committed(outcome: Outcome, answer: CommitAnswer) -> Outcome:
    status: Status = "lost" if answer["status"] == "refused" else "failed"
    error = {"type": "StructConflictError" if status == "failed" else "FencedError", "message": answer["reason"], "traceback": ""}
    return replace(outcome, status=status, error=error)
