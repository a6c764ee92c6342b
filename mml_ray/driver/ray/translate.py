"""Translates Ray's nodes and errors into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mml_ray.driver.command import CommandSpec
from mml_ray.driver.resources import Node


def node_of(entry: Mapping[str, Any]) -> Node:
    """The node that an entry of ``ray.nodes()`` describes."""
    resources = dict(entry["Resources"])
    predefined = {"CPU", "GPU", "memory", "object_store_memory"}
    custom = {k: v for k, v in resources.items() if k not in predefined and not k.startswith(("node:", "accelerator_type:"))}
    return Node(
        name=str(entry.get("NodeName") or entry["NodeManagerAddress"]),
        num_cpus=float(resources.get("CPU", 0)),
        num_gpus=float(resources.get("GPU", 0)),
        memory=int(resources.get("memory", 0)),
        custom=tuple(sorted((k, float(v)) for k, v in custom.items())),
        labels=tuple(sorted((str(k), str(v)) for k, v in (entry.get("Labels") or {}).items())),
    )


def first_line(error: BaseException) -> str:
    """The first line of an error, preceded by its type."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return f"{type(error).__name__}: {text}" if not text.startswith(type(error).__name__) else text


def oom_message(spec: CommandSpec, error: BaseException) -> str:
    """What the command used, what it was granted, and what its node had, extracted from Ray's long message."""
    text = " ".join(str(error).split())
    own = re.search(rf"task name={re.escape(spec.key)}, .*?actual memory used=([\d.]+ ?\w+)", text)
    node = re.search(r"was ([\d.]+ ?\w+) used / ([\d.]+ ?\w+) limit", text)
    if own is None or node is None:
        return f"out of memory. Message of Ray: {text[:400]}"
    requested = spec.resources.memory
    granted = f"granted {requested / 2**30:.2f} GiB" if requested else "no memory was requested"
    return (
        f"out of memory: the command used {own[1]} ({granted}), its node {node[1]} of {node[2]}. Request what it needs "
        f"(resources.{spec.name}.memory), or let fewer commands run side by side (resources.{spec.name}.num_cpus)."
    )
