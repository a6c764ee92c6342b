"""Progress and warnings of a long command."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any

from mml_ray.errors import CommandInterrupted
from mml_ray.store.manager import MMLFileManager

_SECONDS = 0.5


class Reporter:
    """Reports how far a command is, at most twice a second. A call raises :class:`CommandInterrupted` when the run is to stop."""

    def __init__(self, manager: MMLFileManager, what: str = "") -> None:
        self._manager, self._what = manager, what
        self._reported_at = 0.0

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """Report ``done`` of ``total`` (0: unknown)."""
        now = time.monotonic()
        if now - self._reported_at < _SECONDS and done != total:
            return
        self._reported_at = now
        if self._manager.report({"step": done, "steps": total, "text": what or self._what}):
            raise CommandInterrupted("The command stopped because the run was interrupted.")


@contextlib.contextmanager
def warnings_as_messages(logger: logging.Logger) -> Iterator[None]:
    """Log warnings meant for the user (``UserWarning``) as they are, without the line of code that they come from."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, UserWarning):
            logger.warning("%s", message)
        else:
            before(message, category, *place, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
