"""SIGTERM that comes to all processes of a run at once: from GNU ``timeout``, from SLURM at the time limit, from ``systemctl stop``.

The driver answers it, and needs the others for that. What Ray starts holds the signal back (Ray does the same with Ctrl-C); a worker lets it pass,
so that what commands start can be ended with it as always; and loader processes obey their own parent only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

_TERM = {signal.SIGTERM}
_forking = threading.local()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block SIGTERM for processes and threads that are started within; in this thread it is delivered at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_pass() -> None:
    """In the main thread of a process that blocks SIGTERM: receive it without effect from here on, so that what this process starts does
    not block it. A forked child dies of it, as a child that runs another program does.
    """
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        signal.signal(signal.SIGTERM, _nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERM)
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_as_usual)


def obey_only(parent: int) -> None:
    """In a process that was started where SIGTERM is :func:`held_back`: let it end this process if ``parent`` sent it, and ignore it from
    others. Where the system does not name the sender (macOS), it acts as usual.
    """
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_wait, args=(parent,), name="mml-ray-sigterm", daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERM)


def _wait(parent: int) -> None:
    while signal.sigwaitinfo(_TERM).si_pid != parent:
        continue
    os._exit(0)


def _nothing(*_: object) -> None:
    """A handler, since a signal that is ignored would stay ignored in the programs that are started."""


def _hold() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TERM)  # until the child has its own answer


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _as_usual() -> None:
    if signal.getsignal(signal.SIGTERM) is _nothing:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()
