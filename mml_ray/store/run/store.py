"""RunStore: the single writer of one run folder. Everything it is given and returns is plain data.

Nothing is believed before it is in the journal: every method first appends, then changes its state by replaying what it appended,
then touches other files. So a kill between any two steps is mended by the next :meth:`RunStore.open`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import CommandError, FencedError, JournalError, MMLError, StorageError, UserError
from mml_ray.failpoints import failpoint
from mml_ray.journal import log as journal
from mml_ray.journal.lease import Lease
from mml_ray.journal.log import Journal, Operation
from mml_ray.journal.owner import PATIENCE, Heartbeat, current_owner
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run import model_updates, opening, reserving
from mml_ray.store.run.cleaning import UNCOMMITTED, Cleaner
from mml_ray.store.run.commits import Decider, finish_blockers, where
from mml_ray.store.run.inspection import RunInfo, find_runs, pending_updates, read_run, verify
from mml_ray.store.run.markers import withdraw
from mml_ray.store.run.planning import check_extension, check_same_plan
from mml_ray.store.run.state import FINISHED, Attempt, RunState
from mml_ray.store.run.view import RunView

log = logging.getLogger(__name__)
STATUSES = (FINISHED, "failed", "interrupted")
__all__ = ["RunInfo", "RunStore", "current_owner", "find_runs", "read_run", "verify"]


class RunStore(RunView):
    """An opened run. Build it with :meth:`create` or :meth:`open`."""

    def __init__(self, paths: RunPaths, roots: Roots, *, lease: Lease, journal_: Journal, state: RunState) -> None:
        super().__init__(paths, roots, lease, state)
        self._journal = journal_
        self._cleaner = Cleaner(paths, roots, state, append=lambda operations: self._append(operations, durable=True))
        self._heartbeat: Heartbeat | None = None
        self._unprojected: dict[str, list[dict[str, Any]]] = {}

    # -- opening and closing -----------------------------------------------------------------------------------------------
    @classmethod
    def create(
        cls,
        run_dir: Path | str,
        *,
        roots: Mapping[str, str],
        owner: Mapping[str, Any] | None = None,
        beat: bool = False,
        manifest: Mapping[str, Any],
    ) -> RunStore:
        """A new run in a folder that holds none. ``owner``: who holds the lease (``None``: this process); ``beat``: also start
        its heartbeat.

        Raises:
            RunLockedError: another live process is creating it.
            StorageError: the folder cannot be written, or holds a run already.
        """
        paths, known = RunPaths(run_dir), Roots.of(roots, run_dir)
        lease, writer, state = opening.begin(paths, known, owner=owner or current_owner(), manifest=manifest)
        return cls(paths, known, lease=lease, journal_=writer, state=state)._begin(beat)

    @classmethod
    def open(
        cls,
        run_dir: Path | str,
        *,
        roots: Mapping[str, str],
        owner: Mapping[str, Any] | None = None,
        adopt: bool = False,
        beat: bool = False,
        patience: float = PATIENCE,
    ) -> RunStore:
        """Open an existing run for writing: take the lease over from a dead owner, replay, remove what dead attempts left behind.

        Attempts that were running are lost, unless ``adopt`` is given and the lease is held by ``owner`` itself: then this is a
        further incarnation of its store (an actor that came back), and running attempts may still commit. ``patience``: seconds
        to wait for the heartbeat of an owner on another machine.

        Raises:
            RunLockedError: a live owner holds it; names host, process and since when.
            JournalError: the journal is missing, damaged or from a newer version; nothing was changed.
            StorageFailure: the folder cannot be written.
        """
        paths, known = RunPaths(run_dir), Roots.of(roots, run_dir)
        lease, writer, state = opening.reopen(paths, known, owner=owner or current_owner(), adopt=adopt, patience=patience)
        return cls(paths, known, lease=lease, journal_=writer, state=state)._begin(beat)

    def _begin(self, beat: bool) -> RunStore:
        """What is left to do once the lease is held and the journal is ours."""
        if beat:
            self._heartbeat = Heartbeat(self.paths.beat, self._lease.owner, still_mine=self._lease.is_owners)
            self._heartbeat.start()
        try:
            with self._storage("clean up"):
                failpoint("open.before_clean")
                self._cleaner.sweep(self.token)
                self._cleaner.finish_releases()
                self._cleaner.release(self.state.garbage(), UNCOMMITTED)
                failpoint("open.after_clean")
                self._write_plan()
            self._unprojected = pending_updates(self.state)
            self._project()
        except BaseException:
            self._abandon()
            raise
        return self

    def hand_over(self) -> None:
        """From now on another incarnation (opened with ``adopt``) writes; heartbeat and ownership stay until :meth:`close`."""
        self._writable()
        self._journal.close()
        self._closed = "handed over to the run's actor"

    def close(self) -> None:
        """Give the run free; harmless when repeated. Nothing is lost without it: the next owner finds this one dead."""
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._closed != "closed":
            with self._storage("close"):
                if not self._closed:
                    self._journal.close()
                self._closed = "closed"
                self._lease.release()

    def _abandon(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
        with contextlib.suppress(OSError):
            self._journal.close()
        with contextlib.suppress(OSError, JournalError):
            self._lease.release()
        self._closed = "closed"

    # -- writing -----------------------------------------------------------------------------------------------------------
    def set_plan(self, plan: Mapping[str, Any], extend: bool = False) -> None:
        """Journal the plan ``{"fingerprint", "commands": [{"key", "position", "name", "params", ...}]}`` the first time; later
        compare.

        With ``extend`` another plan takes its place if it holds every command that has committed.

        Raises:
            PlanMismatchError: names the first difference.
        """
        self._writable()
        if self.state.plan:
            if self.state.plan["fingerprint"] == plan["fingerprint"]:
                return
            check_extension(self.state, plan) if extend else check_same_plan(self.state, plan)
        self._append([("plan", {"plan": plan})], durable=True)
        failpoint("plan.after_append")
        with self._storage("write the plan of"):
            self._write_plan()

    def start(self, requests: Sequence[Mapping[str, Any]]) -> list[int]:
        """Start attempts ``[{"command", "position", "node", "pid"}]``; returns their numbers (from 1, by command).

        An older attempt at the same command is fenced, and the files it had reserved are removed. Does not wait for the disk.
        """
        self._writable()
        count: Counter[str] = Counter()
        operations: list[Operation] = []
        numbers: list[int] = []
        for request in requests:
            command = str(request["command"])
            self._known(command)
            count[command] += 1
            numbers.append(len(self.state.attempts.get(command, ())) + count[command])
            fields = {"node": "", "pid": 0, **request, "attempt": numbers[-1], "at": opening.now()}
            operations.append(("attempt_started", fields))
        if operations:
            self._append(operations, durable=False)
            failpoint("start.after_append")
            with self._storage("clean up"):
                self._cleaner.release(self.state.garbage(count), UNCOMMITTED)
            failpoint("start.after_clean")
        return numbers

    def reserve(self, attempt: Mapping[str, Any], *, assignment: Mapping[str, Any], task: str | None, file: str | None) -> str:
        """Reserve the path of an artifact for a running attempt; returns the stored path (``results:...``, see
        ``store/paths.py``).

        ``assignment``: ``{"key", "template", "numbering"}``. With numbering the file is created, holding a marker; without it is
        not. ``attempt`` may say how many paths it has got so far (``reserved``): a call whose answer was lost, because this store
        was restarted, can then be repeated.

        Raises:
            FencedError: the attempt is not the current one of its command.
        """
        self._writable()
        current = self._running(attempt)
        known: int | None = attempt.get("reserved")
        if known is not None and known < len(current.reserved):
            return current.reserved[known].path
        self._lease.check()
        with self._storage("reserve a path in"):
            path, operations = reserving.reserve(self.state, self.roots, current, assignment=assignment, task=task, file=file)
        failpoint("reserve.after_create")
        try:
            self._append(operations, durable=True)
        except FencedError:  # nobody knows of the marker, so nobody else would remove it
            withdraw(self.roots.absolute(path), self.state.run, current.command, current.number)
            raise
        failpoint("reserve.after_append")
        return path

    def commit(self, outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        """Commit finished attempts together: one append, one fsync. Returns ``[{"command", "status", "reason"}]`` in the order
        given.

        ``committed`` (also when this attempt had committed before), ``refused`` (it is not the current attempt, or what it claims
        is not there), ``conflict`` (another command set the same path key of a struct; the attempt has failed then). What is
        committed is durable, and what it changes in model storages can be read.

        Raises:
            StorageFailure: it may be durable or not; the same call again (when there is space, say) finds out.
        """
        self._writable()
        decider = Decider(self.state, self.roots, at=opening.now())
        decisions = [decider.decide(outcome) for outcome in outcomes]
        operations: list[Operation] = [("committed", item.fields) for item in decisions if item.fields is not None]
        for outcome, item in zip(outcomes, decisions, strict=True):
            if item.status == "conflict":
                operations.append(_failure(item.command, outcome["attempt"], item.status, item.reason, where(outcome)))
        if operations:
            failpoint("commit.before_append")
            self._append(operations, durable=True)
            for item in decisions:
                if item.fields is not None:
                    self._after_commit(item.command, item.fields)
            failpoint("commit.after_append")
        self._project()
        failpoint("commit.after_update")
        return [item.answer() for item in decisions]

    def _after_commit(self, command: str, fields: Mapping[str, Any]) -> None:
        self._progress.pop(command, None)
        for path, delta in fields["models_update"].items():
            change = model_updates.entry(self.state.run, command, self.state.position(command), delta)
            self._unprojected.setdefault(path, []).append(change)

    def fail(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Attempts that ended without a commit: ``[{"command", "attempt", "reason", "message", "node", "pid"}]``; without the last
        two, the place is the one it last reported from. One that is not running is left as it is.
        """
        self._writable()
        operations = []
        for item in failures:
            current = self.state.current(str(item["command"]))
            if current is not None and current.number == item["attempt"] and current.status == "running":
                said = self._progress.pop(current.command, {})
                place = where(item) or where({"node": said.get("host"), "pid": said.get("pid")})
                reason, message = str(item["reason"]), str(item.get("message", ""))
                operations.append(_failure(current.command, current.number, reason, message, place))
        if operations:
            self._append(operations, durable=False)
            failpoint("fail.after_append")

    def finish(self, status: str, *, remove: Mapping[str, bool]) -> dict[str, Any]:
        """End the run as ``finished``, ``failed`` or ``interrupted``.

        ``finished``: removes the artifacts of this run whose key is enabled in ``remove`` (missing files are fine), TEMP and
        CHECKPOINTS. Returns ``{"status", "removed": {key: number}, "unused": [enabled keys without artifacts]}``.

        Raises:
            CommandError: ``finished``, but a command of the plan has not committed.
        """
        self._writable()
        if status not in STATUSES:
            raise ValueError(f"A run ends as one of {', '.join(STATUSES)}, not '{status}'.")
        summary: dict[str, Any] = {"status": status, "removed": {}, "unused": []}
        if status == FINISHED:
            open_ = finish_blockers(self.state)
            if open_:
                raise CommandError(
                    f"The run cannot be finished: {len(open_)} of its commands have not committed, first {open_[0]}."
                )
            self._project(must=True)
        with self._storage("clean up"):
            self._cleaner.release(self.state.garbage(), UNCOMMITTED)
            if status == FINISHED:
                summary.update(self._cleaner.remove(remove))
        self._append([("run_finished", {"status": status, "at": opening.now(), **summary})], durable=True)
        failpoint("finish.after_append")
        return summary

    # -- details -----------------------------------------------------------------------------------------------------------
    def _append(self, operations: Sequence[Operation], *, durable: bool) -> None:
        opening.replay_all(self.state, self._journal.append(operations, durable=durable))

    def _writable(self) -> None:
        if self._closed:
            raise MMLError(f"Run {self.paths.run_dir} cannot be written here any more: it was {self._closed}.")

    def _known(self, command: str) -> None:
        if command not in self.state.commands:
            raise CommandError(f"'{command}' is not in the plan of run {self.paths.run_dir}; set_plan comes first.")

    def _running(self, attempt: Mapping[str, Any]) -> Attempt:
        command, number = str(attempt["command"]), attempt["attempt"]
        current = self.state.current(command)
        if current is None or current.number != number or current.status != "running":
            why = "was never started" if current is None else f"is not the current one: {current.number} is {current.status}"
            raise FencedError(f"Attempt {number} of {command} {why}. Nothing it still writes counts.")
        return current

    def _write_plan(self) -> None:
        """plan.json is what the journal says; a kill may have come between the two."""
        if not self.state.plan:
            return
        data = (json.dumps(self.state.plan) + "\n").encode()
        try:
            if atomic.read_bytes(self.paths.plan) == data:
                return
        except FileNotFoundError:
            pass
        atomic.write_bytes(self.paths.plan, data)
        failpoint("plan.after_write")

    def _project(self, *, must: bool = False) -> None:
        """Bring committed changes into the files of their model storages. One that is missing, or is no storage any more, is tried
        again later, at the latest at the end.
        """
        for path, entries in list(self._unprojected.items()):
            try:
                model_updates.project(self.roots.absolute(path), entries)
            except (FileNotFoundError, UserError) as error:
                if must:
                    raise StorageError(f"Committed changes cannot be written to {path}: {error}") from error
                log.warning("Committed changes of %s could not be written yet: %s", path, error)
            except OSError as error:
                if error.errno not in atomic.DENIED or self.roots.absolute(path).is_relative_to(self.roots.project):
                    # no command may start that would read the file without them
                    raise journal.failure("write committed changes to", path, error) from error
                log.warning(
                    "%s of another project cannot be written (%s): what it is told stays in this run.", path, error.strerror
                )
                del self._unprojected[path]
            else:
                del self._unprojected[path]

    @contextlib.contextmanager
    def _storage(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            raise journal.failure(what, error.filename or self.paths.run_dir, error) from error


def _failure(command: str, attempt: int, reason: str, message: str, place: Mapping[str, Any]) -> Operation:
    fields = {"command": command, "attempt": attempt, "reason": reason, "message": message, "at": opening.now(), **place}
    return "attempt_failed", fields
