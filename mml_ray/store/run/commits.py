"""Which outcomes may be committed: decided from the state of the run, and a check that the artifacts exist."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mml_ray.errors import UserError
from mml_ray.journal.plain import normalized
from mml_ray.store.files import Files
from mml_ray.store.paths import Roots
from mml_ray.store.run.model_updates import check_delta
from mml_ray.store.run.protocol import CommitAnswer
from mml_ray.store.run.state import Attempt, RunState

Status = Literal["committed", "refused", "conflict"]


class OutcomeRejected(Exception):
    """Why an outcome is not committed."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def place_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The node and the process of an attempt, if its outcome names them."""
    return {"node": str(outcome["node"]), "pid": int(outcome.get("pid") or 0)} if outcome.get("node") else {}


@dataclass
class Decider:
    """Decides the outcomes of one call; those it accepted count for the ones that follow. ``accepted``: by command, the
    fields of its ``committed`` operation.
    """

    state: RunState
    roots: Roots
    files: Files
    at: float
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    _keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def decide(self, outcome: Mapping[str, Any]) -> CommitAnswer:
        """Decide one outcome. Never raises for its content; the answer says what is wrong with it."""
        command = str(outcome.get("command"))
        try:
            attempt = self._current(command, outcome)
            if attempt is not None:
                self._accept(self._fields(attempt, outcome))
        except OutcomeRejected as rejected:
            return {"command": command, "status": rejected.status, "reason": rejected.reason}
        return {"command": command, "status": "committed", "reason": ""}

    def _accept(self, fields: dict[str, Any]) -> None:
        self.accepted[fields["command"]] = fields
        for task, delta in fields["structs"].items():
            for key, path in delta["set_paths"].items():
                self._keys[task, key] = (path, fields["command"])

    def _current(self, command: str, outcome: Mapping[str, Any]) -> Attempt | None:
        """The attempt, if it may commit; ``None`` if it has already."""
        number = outcome.get("attempt")
        latest = self.state.current(command)
        commit = self.state.commits.get(command)
        if commit is not None and commit["attempt"] == number:
            return None
        if commit is not None or command in self.accepted:
            by = f"attempt {commit['attempt']}" if commit else "this call"
            raise OutcomeRejected("refused", f"{command} was already committed, by {by}")
        if latest is None:
            raise OutcomeRejected("refused", f"no attempt at {command} was started")
        if latest.number != number:
            raise OutcomeRejected("refused", f"attempt {number} of {command} was replaced by attempt {latest.number}")
        if latest.status != "running":
            raise OutcomeRejected(
                "refused", f"attempt {number} of {command} had already failed ({latest.reason}: {latest.message})"
            )
        return latest

    def _fields(self, attempt: Attempt, outcome: Mapping[str, Any]) -> dict[str, Any]:
        try:
            content = normalized({name: outcome.get(name) for name in ("result", "seconds")}, f"The result of {attempt.command}")
            artifacts = [self._artifact(attempt, item) for item in outcome.get("artifacts") or ()]
            updates = self._updates(normalized(outcome.get("models_update") or {}, "models_update"))
            structs = self._structs(attempt, normalized(outcome.get("structs") or {}, "structs"))
        except UserError as error:
            raise OutcomeRejected("refused", str(error)) from None
        seconds = float(outcome.get("seconds") or 0.0)
        return {
            "command": attempt.command,
            "attempt": attempt.number,
            "result": content["result"],
            "artifacts": artifacts,
            "structs": structs,
            "models_update": updates,
            "seconds": round(seconds, 3),
            "at": self.at,
            **place_of(outcome),
        }

    def _artifact(self, attempt: Attempt, item: Mapping[str, Any]) -> dict[str, Any]:
        given = str(item["path"])
        path = self.roots.stored(given) if os.path.isabs(given) else given
        reserved = next((item for item in attempt.reserved if item.path == path), None)
        if reserved is None:
            raise OutcomeRejected("refused", f"{path} was not reserved by attempt {attempt.number} of {attempt.command}")
        try:
            size = self.files.size(self.roots.absolute(path))
        except OSError as error:
            raise OutcomeRejected("refused", f"artifact {path} cannot be read: {error.strerror}") from None
        if size != item["size"]:
            raise OutcomeRejected("refused", f"artifact {path} has {size} bytes, but had {item['size']} when it was measured")
        return {"path": path, "key": reserved.key, "size": size, "sha256": str(item["sha256"])}

    def _updates(self, updates: Mapping[str, Any]) -> dict[str, Any]:
        for path, delta in updates.items():
            check_delta(path, delta)
            if not self.files.exists(self.roots.absolute(path)):
                raise OutcomeRejected("refused", f"{path}, which the command changed, is not a file")
        return dict(updates)

    def _structs(self, attempt: Attempt, structs: Mapping[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for task, delta in structs.items():
            paths, models = dict(delta.get("set_paths") or {}), list(delta.get("append_models") or ())
            for path in (*paths.values(), *models):
                self.roots.absolute(path)
            for key, path in paths.items():
                self._refuse_conflict(attempt.command, task, key, path)
            checked[task] = {"set_paths": paths, "append_models": models}
        return checked

    def _refuse_conflict(self, command: str, task: str, key: str, path: str) -> None:
        found = self._keys.get((task, key)) or self.state.struct_paths.get(task, {}).get(key)
        if found is None:
            return
        value, other = found
        if value == path or other == command or self.state.precedes(other, command):
            return
        raise OutcomeRejected(
            "conflict",
            f"{command} and {other} both set the path '{key}' of task '{task}' (to {path} and {value}), and neither waits for the "
            "other. Use distinct keys, append to the models instead, or let one wait for the other (after=[...]).",
        )
