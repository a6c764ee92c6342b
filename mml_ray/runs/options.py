"""The options of a run: where and how it runs (groups ``sys`` and ``resources``), not what it computes."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import field_validator

from mml_ray.driver.executor import FailurePolicy
from mml_ray.driver.resources import Node, local_node
from mml_ray.options import Field, Options, Text

Amount = Annotated[float, Field(ge=0)]
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class ResourceOptions(Options):
    """One entry of the group ``resources``; ``None`` and ``auto`` leave a number to what the nodes have."""

    num_cpus: Literal["auto"] | Amount | None = None
    num_gpus: Literal["auto"] | Amount | None = None
    memory: int | Text | None = None
    custom: dict[str, Amount] | None = None
    label_selector: dict[str, Text] | None = None
    retries: Annotated[int, Field(ge=0)] | None = None

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: Any) -> Any:
        if isinstance(value, float) and value > 1 and not value.is_integer():
            raise ValueError(f"must be a whole number above 1, got {value:g}.")
        return value

    @field_validator("memory")
    @classmethod
    def _in_bytes(cls, value: Any) -> Any:
        return None if value in (None, "auto") else parse_memory(value)


def parse_memory(value: int | str) -> int:
    """Bytes of ``4294967296``, ``"4G"``, ``"4GiB"``, ``"512 MB"`` (powers of 1024).

    Raises:
        ValueError: anything else, in words that follow the name of the setting.
    """
    text = str(value).strip().lower()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip().removesuffix("ib").removesuffix("b")
    try:
        amount = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise ValueError(f"must be bytes or a number with a unit such as 4GiB, got '{value}'.")
    return int(amount)


class RetryOptions(Options):
    """``sys.retries``: new attempts after a worker, a node or the memory gave out, and after an exception."""

    system: int = Field(default=3, ge=0)
    exception: int = Field(default=0, ge=0)


class SysOptions(Options):
    """The group ``sys``."""

    group = "sys"

    executor: Literal["auto", "inline", "ray"] = "auto"
    address: Text | None = None
    num_cpus: Annotated[float, Field(gt=0)] | None = None
    num_gpus: Amount | None = None
    on_failure: Literal["finish_others", "stop"] = "finish_others"
    retries: RetryOptions = RetryOptions()
    stall_timeout: Annotated[float, Field(gt=0)] | None = None
    min_free_disk_gb: float = Field(default=0.0, ge=0)


class RunOptions(Options):
    """Everything that a run needs to know beside its plan. ``seed``: ``None`` seeds nothing; ``live``: whether a terminal shows a live
    display.
    """

    sys: SysOptions = SysOptions()
    resources: dict[str, ResourceOptions] = {}
    seed: int | None = None
    allow_gpu: bool = True
    live: bool = True

    @property
    def cluster_address(self) -> str:
        """``sys.address``, else the variable ``RAY_ADDRESS``, which a submitted Ray job has; empty: a local Ray of this run's own, which is
        also what ``local`` asks for.
        """
        given = self.sys.address or os.environ.get("RAY_ADDRESS") or ""
        return "" if given == "local" else given

    def local_node(self) -> Node:
        """What a local Ray of this run's own has: this machine, unless ``sys.num_cpus`` and ``sys.num_gpus`` say otherwise."""
        node = local_node()
        cpus, gpus = self.sys.num_cpus, self.sys.num_gpus
        return replace(node, num_cpus=node.num_cpus if cpus is None else cpus, num_gpus=node.num_gpus if gpus is None else gpus)

    def failure_policy(self, run_dir: Path) -> FailurePolicy:
        """How failures of the commands are met; the free space that counts is that of ``run_dir``."""
        return FailurePolicy(
            retries_system=self.sys.retries.system,
            retries_exception=self.sys.retries.exception,
            stop_on_failure=self.sys.on_failure == "stop",
            stall_timeout=self.sys.stall_timeout or 0.0,
            min_free_bytes=int(self.sys.min_free_disk_gb * 2**30),
            watch=(run_dir,),
        )
