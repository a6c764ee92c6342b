"""Waiting for a full disk to have space again, instead of losing what is to be written."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
#: what a write fails with where there is no space left
FULL = (errno.ENOSPC, errno.EDQUOT)


def retry_when_space(
    write: Callable[[], T], *, notify: Callable[[str], None], give_up: Callable[[], bool], pause: float = 1.0
) -> T:
    """Call ``write``, which must be idempotent; while the disk is full, say so once and repeat it every ``pause`` seconds.

    Raises:
        OSError: any other error, or the disk is still full and ``give_up`` returns true.
    """
    notified = False
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in FULL or give_up():
                raise
            if not notified:
                notify(f"Paused: {error} Ctrl-C twice ends the run.")
            notified = True
            time.sleep(pause)


def free_bytes(path: Path) -> int:
    """Return the free space of the disk at ``path``; if it cannot be found out, log a warning and assume that there is plenty."""
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        log.warning("The free space of %s is unknown: %s", path, error)
        return 2**62
