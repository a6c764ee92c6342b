"""The folders that local Rays keep their sockets and logs in: made here, and removed when their driver was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from mml_ray.journal.owner import current_owner, process_start

_PREFIX = "mml-ray-"
#: file in a folder that says what the process number in its name means something within
_MACHINE = "machine"


def place() -> Path:
    """Where they lie: a short path, for the sockets in them."""
    return Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())


def make() -> Path:
    """A new one, of this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place()))
    (folder / _MACHINE).write_text(current_owner()["machine"])
    return folder


def remove_stale() -> None:
    """Those of processes that are gone; on this machine, and in this container of it."""
    here = current_owner()["machine"]
    for folder in place().glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).split("-")[0]
        with contextlib.suppress(OSError):  # another driver may be removing it
            if (folder / _MACHINE).read_text() == here and number.isdigit() and process_start(int(number)) is None:
                shutil.rmtree(folder, ignore_errors=True)
