"""The folders that hold sockets and logs of local Rays: created here, and removed when their driver was killed.

Ray opens its own folder to everybody (mode 0777) and loads code from it, so it lies in one of mode 0700. A file in the outer folder says which
process it belongs to. That file is removed last, so that a removal that was killed is repeated by the next local run.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from mml_ray.driver.ray.reaper import OWNER_FILES, remove_folder
from mml_ray.journal.owner import current_owner, process_start

_PREFIX = "mmlray-"
_OWNER, _MACHINE = OWNER_FILES
#: how earlier versions named them: ``mml-ray-<pid>-<random>``, with the machine alone in a file
_OLD_PREFIX = "mml-ray-"
#: seconds after which a folder that names no owner is not one that is being created
_CREATION = 600.0


def parent() -> Path:
    """Where they lie. A short path: Ray's sockets in them may have names of at most 107 bytes, of which this may use 40."""
    return Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())


def create() -> Path:
    """A new folder of this process, which no other user can enter."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent()))  # mode 0700
    (folder / _OWNER).write_text(json.dumps(current_owner()))
    return folder


def ray_folder(folder: Path) -> Path:
    """What Ray is given as its own."""
    return folder / "r"


def remove_stale() -> None:
    """Remove those whose process has ended; it is looked for only where it ran: on this machine, in this container of it."""
    for folder in (*parent().glob(f"{_PREFIX}*"), *parent().glob(f"{_OLD_PREFIX}*-*")):
        with contextlib.suppress(OSError):  # another driver may be removing it
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            owner = _owner_of(folder)
            if owner is None:
                # nobody can tell whose it is, so only what a killed creation or removal leaves goes: an owner file that cannot be read
                if time.time() - found.st_mtime > _CREATION and set(os.listdir(folder)) <= {_OWNER}:
                    remove_folder(folder)
            elif owner["machine"] == current_owner()["machine"]:
                started = process_start(owner["pid"])
                if started is None or owner["start_time"] not in (None, started):
                    remove_folder(folder)


def _owner_of(folder: Path) -> dict[str, Any] | None:
    try:
        if folder.name.startswith(_OLD_PREFIX):
            return {"machine": (folder / _MACHINE).read_text(), "pid": int(folder.name.split("-")[2]), "start_time": None}
        owner = json.loads((folder / _OWNER).read_text())
        return {"machine": owner["machine"], "pid": int(owner["pid"]), "start_time": owner["start_time"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
