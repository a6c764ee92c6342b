"""What commands ask for and what nodes have, as values; nothing here talks to a cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mml_ray.errors import InfeasibleResourcesError

T = TypeVar("T")
#: a mapping that can be hashed
Pairs = tuple[tuple[str, T], ...]


@dataclass(frozen=True, slots=True)
class Resources:
    """What one command holds while it runs; ``memory`` in bytes (0: not asked for)."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: int = 0
    custom: Pairs[float] = ()
    label_selector: Pairs[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "custom": dict(self.custom), "label_selector": dict(self.label_selector)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Resources:
        """The inverse of :meth:`to_json`."""
        pairs = {name: tuple(sorted(content[name].items())) for name in ("custom", "label_selector")}
        return cls(**{**{item.name: content[item.name] for item in fields(cls)}, **pairs})

    def describe(self) -> str:
        """For people: ``2 CPU, 0.5 GPU, 4.0 GiB``."""
        gpus = [f"{self.num_gpus:g} GPU"] if self.num_gpus else []
        return ", ".join([f"{self.num_cpus:g} CPU", *gpus, *_others(self.memory, self.custom, self.label_selector)])

    @property
    def threads(self) -> int:
        """The threads a command may use: its CPUs, at least one."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has; ``memory`` in bytes (0: unknown, not checked)."""

    name: str
    num_cpus: float
    num_gpus: float = 0.0
    memory: int = 0
    custom: Pairs[float] = ()
    labels: Pairs[str] = ()

    def holds(self, request: Resources) -> bool:
        """Whether the node, were it idle, could run a command with this request."""
        have = dict(self.custom)
        return (
            request.num_cpus <= self.num_cpus
            and request.num_gpus <= self.num_gpus
            and (not self.memory or request.memory <= self.memory)
            and all(have.get(name, 0.0) >= amount for name, amount in request.custom)
            and all(_label_matches(dict(self.labels).get(name), wanted) for name, wanted in request.label_selector)
        )

    def slots(self, request: Resources) -> int:
        """How many such commands it can run side by side."""
        if not self.holds(request):
            return 0
        limits = [math.inf]
        if request.num_cpus:
            limits.append(self.num_cpus // request.num_cpus)
        if request.num_gpus:
            limits.append(self.num_gpus / request.num_gpus if request.num_gpus < 1 else self.num_gpus // request.num_gpus)
        if request.memory and self.memory:
            limits.append(self.memory // request.memory)
        best = min(limits)
        return int(best) if math.isfinite(best) else 1024

    def describe(self) -> str:
        """For people."""
        parts = [f"{self.num_cpus:g} CPU", f"{self.num_gpus:g} GPU", *_others(self.memory, self.custom, self.labels)]
        return f"{self.name}: {', '.join(parts)}"


def _others(memory: int, custom: Pairs[float], labels: Pairs[str]) -> list[str]:
    amounts = [f"{amount:g} {name}" for name, amount in custom]
    return [*([f"{memory / 2**30:.1f} GiB"] if memory else []), *amounts, *(f"{name}={value}" for name, value in labels)]


def local_node() -> Node:
    """This machine, as far as this process may use it by its CPU affinity and ``CUDA_VISIBLE_DEVICES``."""
    import psutil

    memory = int(psutil.virtual_memory().total)
    return Node(name="this machine", num_cpus=len(os.sched_getaffinity(0)), num_gpus=_local_gpus(), memory=memory)


def _local_gpus() -> float:
    """NVIDIA GPUs that this process may see, counted without loading a driver library."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return float(len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]))
    try:
        return float(len(os.listdir("/proc/driver/nvidia/gpus")))
    except OSError:
        return 0.0


def check_feasible(requests: Iterable[tuple[str, Resources]], nodes: Sequence[Node]) -> None:
    """Refuse what no node can ever hold (Ray would leave it pending for ever), naming the largest node.

    Raises:
        InfeasibleResourcesError: names the first such command, its request, and what every node has.
    """
    known: set[Resources] = set()
    for name, request in requests:
        if request in known:
            continue
        known.add(request)
        if not any(node.holds(request) for node in nodes):
            largest = max(nodes, key=lambda node: (node.num_gpus, node.num_cpus))
            rest = "; ".join(node.describe() for node in nodes[:8])
            raise InfeasibleResourcesError(
                f"Command '{name}' asks for {request.describe()}, which no node can hold. The largest node has {largest.describe()}. "
                f"Nodes: {rest}. Lower resources.{name}.* or start a larger node."
            )


def slots(nodes: Sequence[Node], request: Resources) -> int:
    """How many commands with this request all nodes together can run side by side."""
    return sum(node.slots(request) for node in nodes)


def _label_matches(value: str | None, wanted: str) -> bool:
    if wanted.startswith(("!in(", "in(")):
        inside = value in [item.strip() for item in wanted[wanted.index("(") + 1 : -1].split(",")]
        return inside != wanted.startswith("!")
    if wanted.startswith("!"):
        return value != wanted[1:]
    return value == wanted
