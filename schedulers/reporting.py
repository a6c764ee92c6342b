"""What a long command tells meanwhile: how far it is, and what the user should know of the data."""

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
    """To be called with ``(done, total, what)``; raises :class:`CommandInterrupted` when the run is to stop.

    The run hears of it at most twice a second.
    """

    def __init__(self, manager: MMLFileManager, what: str = "") -> None:
        self._manager, self._what = manager, what
        self._told = 0.0

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """Report ``done`` of ``total`` (0: not known)."""
        now = time.monotonic()
        if now - self._told < _SECONDS and done != total:
            return
        self._told = now
        if self._manager.report({"step": done, "steps": total, "text": what or self._what}):
            raise CommandInterrupted("Stopped as asked.")


@contextlib.contextmanager
def warnings_as_messages(logger: logging.Logger) -> Iterator[None]:
    """Warnings meant for the user (``UserWarning``) are logged as they are, without the line of code they come from."""
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
