"""What one call of the command line asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # omegaconf is slow to import, and the flags alone are needed without it
    from omegaconf import DictConfig

    from mml_ray.composition.overrides import Value


@dataclass(frozen=True)
class RunFlags:
    """The flags that concern a run (``--plan``, ``--debug``, ...)."""

    plan: Literal["", "text", "json"] = ""
    debug: bool = False
    auto_continue: bool = False
    #: ``hydra.verbose``: true, or the names of loggers
    verbose: bool | tuple[str, ...] = False


@dataclass(frozen=True)
class RunRequest:
    """A composed configuration, with what it was made from.

    ``overrides`` are the normalized arguments (the mode as ``mode=<name>``), ``groups`` those of them that choose options of groups,
    ``values`` the others; ``choices`` is the option that each group ended with; ``mode`` is the mode that was asked for, or ``None``
    (``mml-ray continue=latest``); ``notices`` are lines for the terminal.
    """

    cfg: DictConfig
    overrides: tuple[str, ...]
    flags: RunFlags = field(default_factory=RunFlags)
    mode: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
