"""What Ray tells, in our words: its nodes and its errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mml_ray.driver.command import CommandSpec
from mml_ray.driver.resources import Node


def node_of(entry: Mapping[str, Any]) -> Node:
    """A living node as Ray describes it (an entry of ``ray.nodes()``)."""
    have = dict(entry["Resources"])
    special = {"CPU", "GPU", "memory", "object_store_memory"}
    custom = {k: v for k, v in have.items() if k not in special and not k.startswith(("node:", "accelerator_type:"))}
    return Node(
        name=str(entry.get("NodeName") or entry["NodeManagerAddress"]),
        num_cpus=float(have.get("CPU", 0)),
        num_gpus=float(have.get("GPU", 0)),
        memory=int(have.get("memory", 0)),
        custom=tuple(sorted((k, float(v)) for k, v in custom.items())),
        labels=tuple(sorted((str(k), str(v)) for k, v in (entry.get("Labels") or {}).items())),
    )


def first_line(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return f"{type(error).__name__}: {text}" if not text.startswith(type(error).__name__) else text


def oom_message(spec: CommandSpec, error: BaseException) -> str:
    """What it used, what it was granted, and what the node had, out of Ray's long text."""
    text = " ".join(str(error).split())
    own = re.search(rf"task name={re.escape(spec.key)}, .*?actual memory used=([\d.]+ ?\w+)", text)
    node = re.search(r"was ([\d.]+ ?\w+) used / ([\d.]+ ?\w+) limit", text)
    if own is None or node is None:
        return f"out of memory. Ray says: {text[:400]}"
    asked = spec.resources.memory
    granted = f"granted {asked / 2**30:.2f} GiB" if asked else "none was asked for"
    return (
        f"out of memory: the command used {own[1]} ({granted}), its node {node[1]} of {node[2]}. Ask for what it needs "
        f"(resources.{spec.name}.memory), or let fewer run side by side (resources.{spec.name}.num_cpus)."
    )
