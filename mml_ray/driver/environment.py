"""The environment of a command in its process: thread limits, its log, and the pulse that shows that it is alive."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mml_ray.store.files import LOCAL, Files

log = logging.getLogger(__name__)

# -- threads -----------------------------------------------------------------------------------------------------------
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_POOLED = ("numpy", "scipy", "sklearn", "torch", "cv2")
_applied: tuple[int, tuple[str, ...]] | None = None
_limits: Any = None
_before: dict[str, str | None] = {}


def limit_threads(threads: int) -> None:
    """Limit every thread pool to ``threads`` threads: those loaded already, and those still to be loaded (environment).

    The limit holds until the next call or :func:`release_threads`; a call costs nothing while neither the number nor the loaded
    libraries change.
    """
    global _applied, _limits
    loaded = tuple(name for name in _POOLED if name in sys.modules)
    if _applied == (threads, loaded):
        return
    if _applied is None:
        _before.update({name: os.environ.get(name) for name in _THREAD_VARIABLES})
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    if loaded:
        from threadpoolctl import threadpool_limits

        if _limits is not None:
            _limits.restore_original_limits()
        _limits = threadpool_limits(limits=threads)
    if "cv2" in loaded:
        sys.modules["cv2"].setNumThreads(threads if threads > 1 else 0)
    if "torch" in loaded:
        sys.modules["torch"].set_num_threads(threads)
    _applied = (threads, loaded)


def release_threads() -> None:
    """Undo :func:`limit_threads`, for processes that outlive a run."""
    global _applied, _limits
    if _limits is not None:
        _limits.restore_original_limits()
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
    _applied = _limits = None


_TIME = "%Y-%m-%d %H:%M:%S"
#: begins the last entry of an attempt that failed
FAILED = "--- failed: "


# -- log ---------------------------------------------------------------------------------------------------------------
class CommandLog:
    """The log of one attempt. The file is opened when there is something to write, or the pulse asks for it."""

    def __init__(self, path: Path, attempt: int, files: Files = LOCAL) -> None:
        self._path, self._attempt, self._files = path, attempt, files
        self._file: TextIO | None = None
        self._failed = False
        self._lock = threading.RLock()

    def open(self) -> TextIO | None:
        """Return the file; ``None`` if it cannot be written, which is logged once as a warning."""
        with self._lock:
            if self._file is None and not self._failed:
                try:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = self._path.open("a", encoding="utf-8", errors="replace")
                    self._file.write(f"--- attempt {self._attempt}, process {os.getpid()}, {time.strftime(_TIME)}\n")
                    self._file.flush()
                    faulthandler.register(signal.SIGUSR1, file=self._file, all_threads=True)  # the watchdog asks for the stacks
                except OSError as error:
                    self._failed = True
                    log.warning("The log of this command cannot be written: %s", error)
            return self._file

    def write(self, text: str) -> None:
        """Append ``text``; a full disk must not turn a print into a failed command."""
        file = self.open()
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                file.write(text)
                file.flush()

    def close(self) -> None:
        """Close and publish the file; harmless if it was never opened."""
        with self._lock:
            if self._file is not None:
                faulthandler.unregister(signal.SIGUSR1)
                with contextlib.suppress(OSError):
                    self._file.close()
                    self._files.append(self._path)
            self._file, self._failed = None, True


def started_at(path: Path, attempt: int) -> float | None:
    """When the process of this attempt opened the log at ``path`` (``time.time()``, to the second), a moment after it started; ``None`` if it
    did not start.
    """
    try:
        found = re.findall(rb"^--- attempt %d, process \d+, ([\d: -]+)$" % attempt, path.read_bytes(), re.MULTILINE)
        return time.mktime(time.strptime(found[-1].decode(), _TIME)) if found else None
    except (OSError, ValueError):
        return None


class _Tee(io.TextIOBase):
    """Writes to the log of the command and to the stream that it replaces."""

    def __init__(self, command_log: CommandLog, terminal: TextIO) -> None:
        self._log, self.terminal = command_log, terminal

    def write(self, text: str) -> int:
        self._log.write(text)
        self.terminal.write(text)
        return len(text)

    def flush(self) -> None:
        self.terminal.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.terminal.fileno()


@contextlib.contextmanager
def logged(path: Path, attempt: int, files: Files = LOCAL) -> Iterator[CommandLog]:
    """Copy stdout, stderr and log records to ``path`` within the block."""
    command_log = CommandLog(path, attempt, files)
    handler = logging.StreamHandler(command_log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    out, err = _Tee(command_log, sys.stdout), _Tee(command_log, sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield command_log
    finally:
        root.removeHandler(handler)
        command_log.close()


# -- pulse -------------------------------------------------------------------------------------------------------------
class Pulse(threading.Thread):
    """Announces commands that last: opens their log and calls ``announce`` with the attempt, every few seconds, since the receiver may be
    restarted and forget.

    Commands that are over in a moment cost nothing this way. One thread for each worker process.
    """

    def __init__(self, announce: Callable[[Mapping[str, Any]], object], *, every: float = 0.25, again: float = 5.0) -> None:
        super().__init__(name="mml-ray-pulse", daemon=True)
        self._announce, self._every, self._again = announce, every, again
        #: the attempt to be watched, and its log
        self.current: tuple[Mapping[str, Any], CommandLog] | None = None

    def run(self) -> None:
        seen = announced = None
        due = 0.0
        while True:
            time.sleep(self._every)
            now = self.current
            if now is not None and now is seen and (now is not announced or time.monotonic() > due):
                if now is not announced:
                    now[1].open()
                announced, due = now, time.monotonic() + self._again
                self._announce(now[0])
            seen = now
