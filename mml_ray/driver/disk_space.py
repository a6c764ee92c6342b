"""Waiting for a full disk to have space again, instead of losing what is to be written."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
#: what a write fails with where there is no space left
FULL = (errno.ENOSPC, errno.EDQUOT)


def patiently(write: Callable[[], T], *, say: Callable[[str], None], hurry: Callable[[], bool], pause: float = 1.0) -> T:
    """``write`` to the store, which is idempotent; while its disk is full, say so once and try again every ``pause`` seconds.

    Raises:
        OSError: any other error, or the disk is still full and ``hurry`` says that nobody wants to wait.
    """
    said = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL or hurry():
                raise
            if not said:
                say(f"Paused: {error} Ctrl-C twice ends it.")
            said = True
            time.sleep(pause)
