"""RunStore: the single writer of one run folder.

Nothing counts before it is in the journal: every method first appends, then changes its state by replaying what it appended, then
touches other files. So a kill between any two steps is repaired by the next :meth:`RunStore.open`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import CommandError, FencedError, JournalError, MMLError, StorageError, StorageFailure, UserError
from mml_ray.failpoints import failpoint
from mml_ray.journal import opening
from mml_ray.journal.lease import Lease
from mml_ray.journal.log import Journal, Operation
from mml_ray.journal.owner import HEARTBEAT_TIMEOUT, Heartbeat, current_owner
from mml_ray.store.files import LOCAL, Files
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run import model_updates, reserving
from mml_ray.store.run.cleaning import UNCOMMITTED, Cleaner
from mml_ray.store.run.commits import Decider, place_of
from mml_ray.store.run.inspection import RunInfo, committed_updates, find_runs, pending_updates, read_run, verify
from mml_ray.store.run.markers import withdraw
from mml_ray.store.run.planning import check_plan
from mml_ray.store.run.protocol import CommandResult, CommitAnswer
from mml_ray.store.run.state import FINISHED, Attempt, RunState

log = logging.getLogger(__name__)
STATUSES = (FINISHED, "failed", "interrupted")
#: seconds for which the values of epochs are gathered before they are written, so that they never slow a training
_GATHER_EPOCHS = 1.0
__all__ = ["RunInfo", "RunStore", "current_owner", "find_runs", "read_run", "verify"]


class RunStore:
    """An opened run, built with :meth:`create` or :meth:`open`; its methods are described in
    :class:`~mml_ray.store.run.protocol.RunStoreProtocol`.
    """

    def __init__(self, paths: RunPaths, roots: Roots, *, lease: Lease, journal_: Journal, state: RunState, files: Files) -> None:
        self.paths, self.roots, self.state = paths, roots, state
        self._lease, self._journal, self._files = lease, journal_, files
        self._cleaner = Cleaner(paths, roots, state, append=lambda operations: self._append(operations, durable=True))
        self._heartbeat: Heartbeat | None = None
        self._updates: dict[str, list[dict[str, Any]]] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._stop_requested = False
        #: why this object can no longer write; empty: it can
        self._closed = ""
        self._epochs: list[Operation] = []
        self._epochs_written = -math.inf

    # -- opening and closing -----------------------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        run_dir: Path | str,
        *,
        roots: Mapping[str, str],
        owner: Mapping[str, Any] | None = None,
        heartbeat: bool = False,
        manifest: Mapping[str, Any],
        files: Files = LOCAL,
    ) -> RunStore:
        """Create a run in a folder that holds none. ``owner`` holds the lease (``None``: this process); ``heartbeat``: also start
        its heartbeat; ``files``: where artifacts lie. Errors as :func:`mml_ray.journal.opening.create`.
        """
        paths, known = RunPaths(run_dir), Roots.of(roots, run_dir)
        lease, writer, state = opening.create(
            paths, RunState, roots=known.to_journal(), owner=owner or current_owner(), manifest=manifest
        )
        return cls(paths, known, lease=lease, journal_=writer, state=state, files=files)._prepare(heartbeat)

    @classmethod
    def open(
        cls,
        run_dir: Path | str,
        *,
        roots: Mapping[str, str],
        owner: Mapping[str, Any] | None = None,
        adopt: bool = False,
        heartbeat: bool = False,
        timeout: float = HEARTBEAT_TIMEOUT,
        files: Files = LOCAL,
    ) -> RunStore:
        """Open an existing run for writing: take the lease over from a dead owner, replay, remove what dead attempts left behind.

        Attempts that were running are lost, unless ``adopt`` is given, which needs a lease that ``owner`` itself holds: then this
        is a further incarnation of its store (a restarted actor), and running attempts may still commit. ``timeout``: seconds
        to wait for the heartbeat of an owner on another machine. Errors as :func:`mml_ray.journal.opening.reopen`.
        """
        paths, known = RunPaths(run_dir), Roots.of(roots, run_dir)
        lease, writer, state = opening.reopen(
            paths, RunState, roots=known.to_journal(), owner=owner or current_owner(), adopt=adopt, timeout=timeout
        )
        return cls(paths, known, lease=lease, journal_=writer, state=state, files=files)._prepare(heartbeat)

    def _prepare(self, heartbeat: bool) -> RunStore:
        """Clean up and catch up, once the lease is held and the journal is open."""
        if heartbeat:
            self._heartbeat = Heartbeat(self.paths.heartbeat, self._lease.owner, still_mine=self._lease.is_still_held)
            self._heartbeat.start()
        try:
            with self._storage_errors("clean up"):
                failpoint("open.before_clean")
                self._cleaner.sweep(self.token)
                self._cleaner.release(self.state.garbage(), UNCOMMITTED)
                failpoint("open.after_clean")
                self._write_plan()
            self._updates = pending_updates(self.state)
            self._write_updates()
        except BaseException:
            with contextlib.suppress(StorageFailure, JournalError):
                self.close()
            raise
        return self

    def hand_over(self) -> None:
        """From now on another incarnation (opened with ``adopt``) writes; heartbeat and ownership stay until :meth:`close`."""
        self._check_open()
        self._journal.close()
        self._closed = "handed over to the run's actor"

    def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._closed != "closed":
            self._write_epochs()
            with self._storage_errors("close"):
                try:
                    if not self._closed:
                        self._journal.close()
                finally:
                    self._closed = "closed"
                    self._lease.release()

    # -- writing -----------------------------------------------------------------------------------------------------------
    def set_plan(self, plan: Mapping[str, Any], extend: bool = False) -> None:
        self._check_open()
        if self.state.plan:
            if self.state.plan["fingerprint"] == plan["fingerprint"]:
                return
            check_plan(self.state, plan, extend=extend)
        self._append([("plan", {"plan": plan})], durable=True)
        failpoint("plan.after_append")
        with self._storage_errors("write the plan of"):
            self._write_plan()

    def start(self, requests: Sequence[Mapping[str, Any]]) -> list[int]:
        self._check_open()
        count: Counter[str] = Counter()
        operations: list[Operation] = []
        numbers: list[int] = []
        for request in requests:
            command = str(request["command"])
            if command not in self.state.commands:
                raise CommandError(f"'{command}' is not in the plan of run {self.paths.run_dir}; set_plan comes first.")
            count[command] += 1
            numbers.append(len(self.state.attempts.get(command, ())) + count[command])
            fields = {"node": "", "pid": 0, **request, "attempt": numbers[-1], "at": opening.now()}
            operations.append(("attempt_started", fields))
        if operations:
            self._append(operations, durable=False)
            failpoint("start.after_append")
            with self._storage_errors("clean up"):
                self._cleaner.release(self.state.garbage(count), UNCOMMITTED)
            failpoint("start.after_clean")
        return numbers

    def reserve(self, attempt: Mapping[str, Any], *, assignment: Mapping[str, Any], task: str | None, file: str | None) -> str:
        self._check_open()
        command, number = str(attempt["command"]), attempt["attempt"]
        current = self.state.current(command)
        if current is None or current.number != number or current.status != "running":
            why = "was never started" if current is None else f"is not the current one: {current.number} is {current.status}"
            raise FencedError(f"Attempt {number} of {command} {why}. Nothing it still writes counts.")
        known: int | None = attempt.get("reserved")
        if known is not None and known < len(current.reserved):
            return current.reserved[known].path
        self._lease.check()
        with self._storage_errors("reserve a path in"):
            path, operations = reserving.reserve(self.state, self.roots, current, assignment=assignment, task=task, file=file)
        failpoint("reserve.after_create")
        try:
            self._append(operations, durable=True)
        except FencedError:  # the marker is in no journal, so no later owner would remove it
            withdraw(self.roots.absolute(path), self.state.run, command, number)
            raise
        failpoint("reserve.after_append")
        return path

    def commit(self, outcomes: Sequence[Mapping[str, Any]]) -> list[CommitAnswer]:
        self._check_open()
        decider = Decider(self.state, self.roots, self._files, at=opening.now())
        answers = [decider.decide(outcome) for outcome in outcomes]
        operations: list[Operation] = [("committed", fields) for fields in decider.accepted.values()]
        for outcome, item in zip(outcomes, answers, strict=True):
            if item["status"] == "conflict":
                operations.append(_failure(item["command"], outcome["attempt"], "conflict", item["reason"], place_of(outcome)))
        if operations:
            failpoint("commit.before_append")
            self._append(operations, durable=True)
            for command in decider.accepted:
                self._progress.pop(command, None)
                for path, change in committed_updates(self.state, command):
                    self._updates.setdefault(path, []).append(change)
            failpoint("commit.after_append")
        self._write_updates()
        failpoint("commit.after_update")
        return answers

    def fail(self, failures: Sequence[Mapping[str, Any]]) -> None:
        self._check_open()
        operations = []
        for item in failures:
            current = self.state.current(str(item["command"]))
            if current is not None and current.number == item["attempt"] and current.status == "running":
                reported = self._progress.pop(current.command, {})
                place = place_of(item) or place_of({"node": reported.get("host"), "pid": reported.get("pid")})
                reason, message = str(item["reason"]), str(item.get("message", ""))
                operations.append(_failure(current.command, current.number, reason, message, place))
        if operations:
            self._append(operations, durable=False)
            failpoint("fail.after_append")

    def report(self, attempt: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, bool]:
        current = self.state.current(str(attempt["command"]))
        if current is None or current.number != attempt["attempt"]:
            return {"stop": True}
        if progress.get("values"):
            self._add_epoch(current, progress)  # also after the end of the attempt, which may overtake its last report
        if current.status != "running":
            return {"stop": True}
        shown = {name: value for name, value in progress.items() if name != "values"}
        self._progress.setdefault(current.command, {}).update(shown)
        return {"stop": self._stop_requested or bool(self._lease.lost)}

    def _add_epoch(self, attempt: Attempt, progress: Mapping[str, Any]) -> None:
        """Journal the values of an epoch, together with others of the same second. An error is left to the next operation, which
        writes them again: the training that reports can do nothing about it.
        """
        values = {str(name): float(value) for name, value in progress["values"].items() if isinstance(value, int | float)}
        fields = {"command": attempt.command, "attempt": attempt.number, "epoch": int(progress["epoch"]), "values": values}
        self._epochs.append(("progressed", fields))
        if time.monotonic() - self._epochs_written > _GATHER_EPOCHS:
            self._write_epochs()

    def _write_epochs(self) -> None:
        if self._epochs and not self._closed:
            with contextlib.suppress(StorageFailure, FencedError):
                self._append([], durable=False)

    def finish(self, status: str, *, remove: Mapping[str, bool]) -> dict[str, Any]:
        self._check_open()
        if status not in STATUSES:
            raise ValueError(f"The status of a run must be one of {', '.join(STATUSES)}, got '{status}'.")
        summary: dict[str, Any] = {"status": status, "removed": {}, "unused": []}
        if status == FINISHED:
            missing = [key for key in self.state.commands if key not in self.state.commits]
            if missing:
                raise CommandError(
                    f"The run cannot be finished: {len(missing)} of its commands have not committed, the first is {missing[0]}."
                )
            self._write_updates(required=True)
        with self._storage_errors("clean up"):
            self._cleaner.release(self.state.garbage(), UNCOMMITTED)
            if status == FINISHED:
                summary.update(self._cleaner.remove(remove))
        self._append([("run_finished", {"status": status, "at": opening.now(), **summary})], durable=True)
        failpoint("finish.after_append")
        return summary

    # -- reading -----------------------------------------------------------------------------------------------------------
    @property
    def token(self) -> int:
        """The token of this incarnation."""
        return self._lease.token

    def progress(self) -> dict[str, dict[str, Any]]:
        return {key: dict(reported) for key, reported in self._progress.items()}

    def request_stop(self) -> None:
        self._stop_requested = True

    def task_state(self, task: str) -> dict[str, Any]:
        self._check_current()
        return self.state.task_state(task)

    def results(self, name: str) -> list[CommandResult]:
        self._check_current()
        commits = self.state.commits
        return [
            {"key": key, "params": entry["params"], "unit": entry.get("unit") or "", "result": commits[key]["result"]}
            for key, entry in self.state.commands.items()
            if entry["name"] == name and key in commits
        ]

    def result(self, key: str) -> Any:
        self._check_current()
        if key not in self.state.commits:
            raise CommandError(f"{key} has not committed, so it has no result.")
        return self.state.commits[key]["result"]

    def committed(self) -> dict[str, dict[str, Any]]:
        self._check_current()
        return {key: dict(commit) for key, commit in self.state.commits.items()}

    # -- details -----------------------------------------------------------------------------------------------------------
    def _append(self, operations: Sequence[Operation], *, durable: bool) -> None:
        self.state.apply(*self._journal.append([*self._epochs, *operations], durable=durable))
        self._epochs.clear()
        self._epochs_written = time.monotonic()

    def _check_open(self) -> None:
        if self._closed:
            raise MMLError(f"Run {self.paths.run_dir} can no longer be written by this process: it was {self._closed}.")

    def _check_current(self) -> None:
        """A store that was replaced by a later incarnation must not answer with what it knew."""
        if not self._closed:
            self._lease.check()

    def _write_plan(self) -> None:
        """plan.json is what the journal says; a kill may have come between the two."""
        if not self.state.plan:
            return
        data = (json.dumps(self.state.plan) + "\n").encode()
        with contextlib.suppress(FileNotFoundError):
            if atomic.read_bytes(self.paths.plan) == data:
                return
        atomic.write_bytes(self.paths.plan, data)
        failpoint("plan.after_write")

    def _write_updates(self, *, required: bool = False) -> None:
        """Write committed changes into the files of their model storages. A file that is missing, or is not a storage, is tried
        again later, at the latest at the end.
        """
        for path, entries in list(self._updates.items()):
            try:
                model_updates.write_updates(self.roots.absolute(path), entries)
            except (FileNotFoundError, UserError) as error:
                if required:
                    raise StorageError(f"Committed changes cannot be written to {path}: {error}") from error
                log.warning("Committed changes of %s could not be written yet: %s", path, error)
            except OSError as error:
                if error.errno not in atomic.DENIED or self.roots.absolute(path).is_relative_to(self.roots.project):
                    # no command may start that would read the file without them
                    raise StorageFailure.of("write committed changes to", path, error) from error
                log.warning("%s of another project cannot be written (%s): its changes stay in this run.", path, error.strerror)
                del self._updates[path]
            else:
                del self._updates[path]

    @contextlib.contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            raise StorageFailure.of(what, error.filename or self.paths.run_dir, error) from error


def _failure(command: str, attempt: int, reason: str, message: str, place: Mapping[str, Any]) -> Operation:
    fields = {"command": command, "attempt": attempt, "reason": reason, "message": message, "at": opening.now(), **place}
    return "attempt_failed", fields
