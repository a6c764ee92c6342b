"""The reading half of a run store: committed state, and the progress of running attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mml_ray.errors import CommandError
from mml_ray.journal.lease import Lease
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run.protocol import CommandResult, EpochRow
from mml_ray.store.run.state import RunState


class RunView:
    """An opened run, for reading; its methods are described in :class:`~mml_ray.store.run.protocol.RunStoreProtocol`."""

    def __init__(self, paths: RunPaths, roots: Roots, lease: Lease, state: RunState) -> None:
        self.paths, self.roots, self.state = paths, roots, state
        self._lease = lease
        self._progress: dict[str, dict[str, Any]] = {}
        self._stop = False
        self._closed = ""

    @property
    def token(self) -> int:
        """The token of this incarnation."""
        return self._lease.token

    # -- progress ----------------------------------------------------------------------------------------------------------
    def report(self, attempt: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, bool]:
        current = self.state.current(str(attempt["command"]))
        if current is None or current.number != attempt["attempt"] or current.status != "running":
            return {"stop": True}
        shown = {name: value for name, value in progress.items() if name != "values"}
        self._progress.setdefault(current.command, {}).update(shown)
        return {"stop": self._stop or bool(self._lease.lost)}

    def progress(self) -> dict[str, dict[str, Any]]:
        return {key: dict(reported) for key, reported in self._progress.items()}

    def request_stop(self) -> None:
        self._stop = True

    # -- reading -----------------------------------------------------------------------------------------------------------
    def task_state(self, task: str) -> dict[str, Any]:
        self._check_current()
        return self.state.task_state(task)

    def results(self, name: str) -> list[CommandResult]:
        self._check_current()
        commits = self.state.commits
        return [
            {"key": key, "params": entry["params"], "unit": self.state.unit_of(key), "result": commits[key]["result"]}
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

    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        names = ("number", "status", "reason", "message", "node", "pid", "started", "ended")
        return {
            key: [{"unit": self.state.unit_of(key), **{name: getattr(item, name) for name in names}} for item in listed]
            for key, listed in self.state.attempts.items()
        }

    def learning_curves(self) -> dict[str, list[EpochRow]]:
        return {key: list(rows) for key, rows in self.state.curves.items()}

    def summary(self) -> dict[str, Any]:
        total = self.state.commands or self.state.commits
        latest = Counter(listed[-1].status for key, listed in self.state.attempts.items() if key not in self.state.commits)
        counts = {"total": len(total), "committed": sum(key in self.state.commits for key in total)}
        counts |= {"running": latest["running"], "failed": latest["failed"]}
        return {
            "run": self.state.run,
            "path": str(self.paths.run_dir),
            "manifest": self.state.manifest,
            "status": self.state.status,
            "opened": self.state.opened,
            "token": self.token,
            "owner": dict(self._lease.owner),
            "commands": counts,
            "units": self.state.counts_by_unit(),
        }

    def _check_current(self) -> None:
        """A store that was replaced by a later incarnation must not answer with what it knew."""
        if not self._closed:
            self._lease.check()
