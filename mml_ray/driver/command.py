"""What a command is to the driver: its specification, one attempt at it, and the outcome of the attempt."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mml_ray.driver.resources import Resources

if TYPE_CHECKING:
    from mml_ray.store.manager import MMLFileManager

F = TypeVar("F", bound=Callable[..., Any])
Status = Literal["done", "failed", "lost", "oom", "interrupted", "stalled", "disk"]
#: the commands that the driver itself runs before and after all others
PREPARE, FINISH = FRAME = ("prepare_exp", "finish_exp")

#: the statuses that are the system's fault, not the command's: retried up to ``retries.system``
SYSTEM_FAILURES: frozenset[str] = frozenset({"lost", "oom", "stalled"})
_ATTRIBUTE = "__mml_command__"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandDefaults:
    """The defaults of the command that a scheduler's method becomes: ``@command(num_gpus=1)`` before the method.

    ``memory`` is in bytes; ``retries`` counts restarts after an exception; ``sequential`` lets the entries of one
    stage run one after the other instead of side by side. ``None`` leaves the choice to the configuration, whose group ``resources``
    overrides all of them by command name.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    retries: int | None = None
    sequential: bool = False

    def __call__(self, method: F) -> F:
        setattr(method, _ATTRIBUTE, self)
        return method


command = CommandDefaults


def defaults_of(method: Callable[..., Any]) -> CommandDefaults:
    """Return what ``@command`` declares for ``method``; without the decorator, everything is left to the configuration."""
    found = getattr(method, _ATTRIBUTE, None)
    return found if isinstance(found, CommandDefaults) else CommandDefaults()


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One command of a plan.

    ``position`` counts from 1. A command waits for the keys in ``needs``; with a ``barrier`` it waits for every command
    whose position is below it instead. ``unit`` names the group of commands it belongs to ("fold 3"); empty: it belongs to none.
    ``where`` says which process runs it: any worker, or the driver itself, whatever the executor.
    """

    key: str
    position: int
    name: str
    params: tuple[Any, ...]
    needs: tuple[str, ...] = ()
    barrier: int = 0
    resources: Resources = field(default_factory=Resources)
    retries: int | None = None
    unit: str = ""
    where: Literal["worker", "driver"] = "worker"

    def to_json(self) -> dict[str, Any]:
        """Plain data, the form in which ``plan.json`` holds it."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "params": list(self.params), "needs": list(self.needs), "resources": self.resources.to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CommandSpec:
        """The inverse of :meth:`to_json`. Fields of other versions are ignored, those they lack have their defaults."""
        plain = {item.name: content[item.name] for item in fields(cls) if item.name in content}
        plain.setdefault("where", "driver" if plain["name"] in FRAME else "worker")
        plain["params"], plain["needs"] = tuple(plain["params"]), tuple(plain["needs"])
        plain["resources"] = Resources.from_json(plain["resources"])
        return cls(**plain)

    @property
    def title(self) -> str:
        """For people: the name and the parameters."""
        return " ".join([self.name, *(_readable(param) for param in self.params if param is not None)])


@dataclass(slots=True)
class Outcome:
    """How one attempt ended. Plain data: it travels from the worker to the driver and into the journal."""

    command: str
    attempt: int
    status: Status
    result: Any = None
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    structs: dict[str, Any] = field(default_factory=dict)
    models_update: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    #: where it ran; empty if that is unknown, because its process was killed
    node: str = ""
    pid: int = 0

    @property
    def is_user_error(self) -> bool:
        """Whether the command failed because of something that the user can fix (a :class:`UserError`)."""
        return bool(self.error.get("user"))

    def to_commit(self) -> dict[str, Any]:
        """The part that ``RunStore.commit`` takes."""
        names = ("command", "attempt", "result", "artifacts", "structs", "models_update", "seconds", "node", "pid")
        return {name: getattr(self, name) for name in names}


class Workload(Protocol):
    """What an attempt needs of a scheduler. It is pickled once for each run and used in worker processes."""

    def attach(self, manager: MMLFileManager) -> None:
        """Use this file manager, which is that of the worker process, from now on."""

    def execute(self, name: str, params: Sequence[Any]) -> Any:
        """Run one command; whatever it returns must be plain JSON data."""

    def collect_deltas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the command changed: struct deltas by task, updates of model storages by path."""

    def forget(self) -> None:
        """Drop what the command left behind in this process."""


class PlannedWorkload(Workload, Protocol):
    """What a run needs of a scheduler: beside its commands, where and on what they run."""

    @property
    def gpu_commands(self) -> frozenset[str]:
        """Names of the commands that may use a GPU when ``resources.<name>.num_gpus`` is ``auto``."""

    @property
    def uses_ray_when_sequential(self) -> bool:
        """Whether ``sys.executor=auto`` picks Ray even for a purely sequential plan."""

    def command_defaults(self, name: str) -> CommandDefaults | None:
        """Return what ``@command`` declares for the command of this name; ``None`` if there is no such command."""


def command_key(name: str, params: Sequence[Any], *, repetition: int = 0, digest_size: int = 4) -> str:
    """Return a name for a command that is safe in file names and stays the same when a plan grows.

    ``<name>--<readable params>-<8 hex digits of both>``; the ``repetition``-th further entry that is equal gets ``~n``. ``digest_size`` is
    raised where two entries of a plan would share a key.
    """
    document = json.dumps([name, list(params)], sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(document.encode(), digest_size=digest_size).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.=]+", "-", "_".join(_readable(param) for param in params)).strip("-.")[:60]
    key = f"{name}--{readable}-{digest}" if readable else f"{name}--{digest}"
    return f"{key}~{repetition + 1}" if repetition else key


def _readable(param: Any) -> str:
    return param if isinstance(param, str) else json.dumps(param, sort_keys=True, separators=(",", ":"))
