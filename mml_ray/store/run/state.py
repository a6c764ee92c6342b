"""The state of a run: a pure replay of its journal. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mml_ray.journal.replay import State
from mml_ray.store.run.protocol import EpochRow

#: the status of a run that committed everything
FINISHED = "finished"
Identity = tuple[int, int, int]


@dataclass(slots=True)
class Reservation:
    """A path that an attempt may write. ``existed``: the file existed before (only without a number), so it is never removed."""

    path: str
    key: str
    series: str = ""
    existed: bool = False


@dataclass(slots=True)
class Attempt:
    """One attempt at one command. ``status``: running, committed or failed; ``reason``: why it failed. Times as ``time.time()``."""

    command: str
    number: int
    position: int
    node: str = ""
    pid: int = 0
    started: float = 0.0
    ended: float = 0.0
    status: str = "running"
    reason: str = ""
    message: str = ""
    reserved: list[Reservation] = field(default_factory=list)

    def fail(self, reason: str, message: str, at: float) -> None:
        """Record that it ended without a commit."""
        self.status, self.reason, self.message, self.ended = "failed", reason, message, at

    def set_place(self, op: Mapping[str, Any]) -> None:
        """Record where it ran; the operation of its end may know that better than the one of its start."""
        self.node, self.pid = op.get("node", self.node), op.get("pid", self.pid)


class RunState(State):
    """Everything known about a run."""

    kind = "run"

    def __init__(self) -> None:
        super().__init__()
        self.generation = 0
        self.plan: dict[str, Any] = {}
        self.commands: dict[str, dict[str, Any]] = {}
        self.attempts: dict[str, list[Attempt]] = {}
        self.commits: dict[str, dict[str, Any]] = {}
        self.bases: dict[str, tuple[int, int]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.released: dict[str, Identity] = {}
        self.curves: dict[str, list[EpochRow]] = {}
        #: by task and key: the path, and the command of the last commit that set it
        self.struct_paths: dict[str, dict[str, tuple[str, str]]] = {}
        self._holders: dict[str, Attempt] = {}
        self._models: dict[str, list[tuple[str, int, str]]] = {}

    # -- questions ---------------------------------------------------------------------------------------------------------
    @property
    def run(self) -> str:
        """The id of the run, which its reservations and model updates carry."""
        return self.id

    @property
    def finished(self) -> bool:
        """Whether the run ended with everything committed."""
        return self.status == FINISHED

    def current(self, command: str) -> Attempt | None:
        """The latest attempt of a command."""
        listed = self.attempts.get(command)
        return listed[-1] if listed else None

    def running(self) -> Iterator[Attempt]:
        """All attempts that may still commit."""
        return (listed[-1] for listed in self.attempts.values() if listed[-1].status == "running")

    def task_state(self, task: str) -> dict[str, Any]:
        """``{"paths": {key: stored path}, "models": [stored path]}`` of what is committed; models in the order of the plan."""
        models = sorted(self._models.get(task, []), key=lambda item: (self.position(item[0]), item[1]))
        return {
            "paths": {key: path for key, (path, _) in self.struct_paths.get(task, {}).items()},
            "models": list(dict.fromkeys(path for _, _, path in models)),
        }

    def position(self, command: str) -> int:
        """The command's position in the plan, or that of its last attempt if the plan no longer has it."""
        if command in self.commands:
            return int(self.commands[command]["position"])
        latest = self.current(command)
        return latest.position if latest else 0

    def precedes(self, first: str, second: str) -> bool:
        """Whether the plan lets ``second`` start only after ``first`` has committed. Position 0, the preparation, precedes all."""
        wanted = self.position(first)
        if not wanted:
            return True
        seen, stack = {second}, [second]
        while stack:
            entry = self.commands.get(stack.pop())
            if entry is None:
                continue
            if int(entry.get("barrier") or 0) > wanted:
                return True
            for key in entry.get("needs") or ():
                if key == first:
                    return True
                if key not in seen:
                    seen.add(key)
                    stack.append(key)
        return False

    def garbage(self, commands: Iterable[str] | None = None) -> list[str]:
        """Stored paths that failed attempts at these commands (or at all) left behind, without those that another attempt holds."""
        found: list[str] = []
        for command in self.attempts if commands is None else commands:
            for attempt in self.attempts.get(command, ()):
                if attempt.status == "failed":
                    left = (item.path for item in attempt.reserved if not item.existed)
                    found += [path for path in left if self._holders.get(path) is attempt and path not in self.artifacts]
        return found

    def uncommitted(self) -> Iterator[str]:
        """Stored paths that were reserved and neither committed nor released."""
        for path, attempt in self._holders.items():
            if path not in self.artifacts and attempt.status != "committed":
                yield path

    def is_held(self, path: str) -> bool:
        """Whether a running attempt may write this path, or it is committed."""
        holder = self._holders.get(path)
        return path in self.artifacts or (holder is not None and holder.status == "running")

    # -- operations --------------------------------------------------------------------------------------------------------
    def _on_opened(self, op: Mapping[str, Any]) -> None:
        super()._on_opened(op)
        if not op["adopted"]:
            for attempt in list(self.running()):
                attempt.fail("lost", "its driver ended before it did", op["at"])

    def _on_plan(self, op: Mapping[str, Any]) -> None:
        self.plan = op["plan"]
        self.commands = {entry["key"]: entry for entry in self.plan["commands"]}
        self.generation += 1

    def _on_attempt_started(self, op: Mapping[str, Any]) -> None:
        listed = self.attempts.setdefault(op["command"], [])
        if listed and listed[-1].status == "running":
            listed[-1].fail("superseded", f"attempt {op['attempt']} was started", op["at"])
        listed.append(Attempt(op["command"], op["attempt"], op["position"], node=op["node"], pid=op["pid"], started=op["at"]))

    def _on_numbering(self, op: Mapping[str, Any]) -> None:
        self.bases[op["series"]] = (self.generation, op["base"])

    def _on_path_reserved(self, op: Mapping[str, Any]) -> None:
        attempt = self.attempts[op["command"]][op["attempt"] - 1]
        attempt.reserved.append(Reservation(op["path"], op["key"], op["series"], op["existed"]))
        self._holders[op["path"]] = attempt
        self.released.pop(op["path"], None)

    def _on_paths_released(self, op: Mapping[str, Any]) -> None:
        for path, (inode, changed, size) in op["paths"].items():
            self.released[path] = (inode, changed, size)
            self._holders.pop(path, None)
            self.artifacts.pop(path, None)

    def _on_committed(self, op: Mapping[str, Any]) -> None:
        command = op["command"]
        attempt = self.attempts[command][op["attempt"] - 1]
        attempt.status, attempt.ended = "committed", op["at"]
        attempt.set_place(op)
        self.commits[command] = {name: op[name] for name in _COMMIT_FIELDS}
        for item in op["artifacts"]:
            self.artifacts[item["path"]] = {**item, "command": command}
        for task, delta in op["structs"].items():
            for key, path in delta.get("set_paths", {}).items():
                self.struct_paths.setdefault(task, {})[key] = (path, command)
            for index, path in enumerate(delta.get("append_models", ())):
                self._models.setdefault(task, []).append((command, index, path))

    def _on_progressed(self, op: Mapping[str, Any]) -> None:
        attempt, epoch = op["attempt"], op["epoch"]
        rows = self.curves.setdefault(op["command"], [])
        row: EpochRow = {"attempt": attempt, "epoch": epoch, "values": op["values"]}
        if rows and rows[-1]["epoch"] >= epoch:  # a resumed attempt repeats epochs; reports of one attempt may overtake another
            kept = [r for r in rows if r["epoch"] < epoch or (r["epoch"] > epoch and r["attempt"] == attempt)]
            rows[:] = sorted([*kept, row], key=lambda r: r["epoch"])
        else:
            rows.append(row)

    def _on_attempt_failed(self, op: Mapping[str, Any]) -> None:
        attempt = self.attempts[op["command"]][op["attempt"] - 1]
        attempt.fail(op["reason"], op["message"], op["at"])
        attempt.set_place(op)


_COMMIT_FIELDS = ("attempt", "result", "artifacts", "structs", "models_update", "seconds", "at", "seq")
