"""What a creation is told: where to, how to split, where the source lies, what to do with broken samples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.splitting import check_folds

#: (done, total, what): called now and then by long steps
Progress = Callable[[int, int, str], None]
ON_BROKEN = ("raise", "refuse", "skip")


def default_workers() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class CreationContext:
    """Settings of one ``create``; every creator function gets it (or reads it through :func:`current`)."""

    data_root: DataRoot
    #: what ``split_folds`` uses unless its caller says otherwise
    n_folds: int = 5
    ensure_balancing: bool = True
    #: options of the source: ``path``, ``name``, ``password``, and what the creator at hand understands
    source: Mapping[str, Any] = field(default_factory=dict)
    #: a sample that cannot be read ends the creation (``raise`` or ``refuse``), or is left out with a warning (``skip``)
    on_broken: str = "raise"
    #: refuse tasks with equal images, or one group, in splits that should be disjoint
    forbid_leakage: bool = False
    workers: int = field(default_factory=default_workers)
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_folds(self.n_folds)
        if not isinstance(self.ensure_balancing, bool):
            raise MMLMisconfigurationException(f"ensure_balancing must be true or false, got {self.ensure_balancing!r}.")
        if self.on_broken not in ON_BROKEN:
            raise MMLMisconfigurationException(f"on_broken must be one of {', '.join(ON_BROKEN)}, got {self.on_broken!r}.")

    def report(self, done: int, total: int, what: str) -> None:
        """Pass progress on, if anybody listens."""
        if self.progress is not None:
            self.progress(done, total, what)

    def required(self, option: str, meaning: str) -> Any:
        """The option ``source.<option>``; raises if it is not given."""
        value = self.source.get(option)
        if value in (None, ""):
            raise MMLMisconfigurationException(f"source.{option} is missing: {meaning}.")
        return value


_current: ContextVar[CreationContext | None] = ContextVar("creation", default=None)


def current() -> CreationContext | None:
    """The context of the creation that runs right now, if one does."""
    return _current.get()


@contextlib.contextmanager
def activated(context: CreationContext) -> Iterator[None]:
    """``context`` is :func:`current` within the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
