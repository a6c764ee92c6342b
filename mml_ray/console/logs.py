"""Log records on the terminal: short lines, what went wrong in color."""

from __future__ import annotations

import logging
import os
import re
import sys

from mml_ray.composition.request import RunRequest

_COLORS = {logging.WARNING: "33", logging.ERROR: "1;31", logging.CRITICAL: "1;31", logging.DEBUG: "2"}


class TerminalHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at the time, so that a live display can take it over."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def emit(self, record: logging.LogRecord) -> None:
        """One line, prefixed by the level unless it is plain information."""
        try:
            text = _as_said(self.format(record)) if record.name == "py.warnings" else self.format(record)
            if record.levelno != logging.INFO:
                text = f"{self._level(record)} {text}"
            # around a command sys.stderr also writes to the command's log, which gets the record from its own handler
            print(text, file=getattr(sys.stderr, "terminal", sys.stderr), flush=True)
        except Exception:
            self.handleError(record)

    def _level(self, record: logging.LogRecord) -> str:
        name = f"{record.levelname.lower()}:"
        code = _COLORS.get(record.levelno)
        colored = self._color and code and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        return f"\033[{code}m{name}\033[0m" if colored else name


def _as_said(warning: str) -> str:
    """Of a captured warning (``<file>:<line>: <category>: <text>``, then the line of code) its text alone, if it is meant for users.

    A warning about code keeps the place it speaks of.
    """
    match = re.fullmatch(r"(?:\S+: )?\S+:\d+: UserWarning: (.*)\n  [^\n]*\s*", warning, re.DOTALL)
    return match.group(1) if match else warning.rstrip()


def configure(request: RunRequest) -> None:
    """Set up logging as the configuration group ``logging`` and ``hydra.verbose`` say; once for each process."""
    settings, verbose = request.cfg.logging, request.flags.verbose
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, TerminalHandler)]:
        root.removeHandler(handler)
    handler = TerminalHandler(color=bool(settings.render.color))
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s" if verbose else "%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose is True else logging.WARNING)
    logging.getLogger("mml_ray").setLevel(logging.DEBUG if verbose is True else logging.INFO)
    for name in verbose if isinstance(verbose, tuple) else ():
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.captureWarnings(bool(settings.capture_warnings))
