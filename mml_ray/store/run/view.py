"""What can be asked of an opened run, and how far its running attempts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mml_ray.errors import CommandError
from mml_ray.journal.lease import Lease
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run.state import RunState


class RunView:
    """The reading half of a run store. Everything returned is plain data."""

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
        """How far an attempt is; kept in memory. The answer says whether it is to stop: asked for, or it is no longer the current
        attempt.
        """
        current = self.state.current(str(attempt["command"]))
        if current is None or current.number != attempt["attempt"] or current.status != "running":
            return {"stop": True}
        self._progress.setdefault(current.command, {}).update(progress)
        return {"stop": self._stop or bool(self._lease.lost)}

    def progress(self) -> dict[str, dict[str, Any]]:
        """By command: what its running attempt reported."""
        return {key: dict(said) for key, said in self._progress.items()}

    def request_stop(self) -> None:
        """Every report is answered with ``stop`` from now on."""
        self._stop = True

    # -- reading -----------------------------------------------------------------------------------------------------------
    def task_state(self, task: str) -> dict[str, Any]:
        """``{"paths": {key: stored path}, "models": [stored path]}`` of everything committed for a task."""
        self._current_view()
        return self.state.task_state(task)

    def all_task_states(self) -> dict[str, dict[str, Any]]:
        """:meth:`task_state` of every task that a commit changed."""
        self._current_view()
        return {task: self.state.task_state(task) for task in self.state.tasks()}

    def results(self, name: str) -> list[dict[str, Any]]:
        """``[{"key", "params", "result"}]`` of the committed commands of this name, in the order of the plan."""
        self._current_view()
        wanted = (entry for entry in self.state.commands.values() if entry["name"] == name and entry["key"] in self.state.commits)
        return [{"key": e["key"], "params": e["params"], "result": self.state.commits[e["key"]]["result"]} for e in wanted]

    def result(self, key: str) -> Any:
        """What one command returned.

        Raises:
            CommandError: it has not committed.
        """
        self._current_view()
        if key not in self.state.commits:
            raise CommandError(f"{key} has not committed, so it has no result.")
        return self.state.commits[key]["result"]

    def committed(self) -> dict[str, dict[str, Any]]:
        """By command: attempt, result, artifacts, structs, models_update, seconds, at."""
        self._current_view()
        return {key: dict(commit) for key, commit in self.state.commits.items()}

    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        """By command: every attempt with its number, status, reason, message, node, pid, started and ended (seconds since 1970)."""
        names = ("number", "status", "reason", "message", "node", "pid", "started", "ended")
        return {
            key: [{name: getattr(item, name) for name in names} for item in listed] for key, listed in self.state.attempts.items()
        }

    def summary(self) -> dict[str, Any]:
        """Run, manifest, status, token, owner, and how many commands stand where."""
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
        }

    def _current_view(self) -> None:
        """A store that was replaced by a later incarnation must not answer with what it knew."""
        if not self._closed:
            self._lease.check()
