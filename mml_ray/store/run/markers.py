"""Exclusive creation of whole files, and the markers that hold a reserved name until its artifact is written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any, Literal

import orjson

from mml_ray import atomic
from mml_ray.failpoints import failpoint

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_FIELD = b'{"mml_ray_reserved":'
_LIMIT = 4096


def create_exclusively(path: Path, data: bytes, *, temporary: Path) -> bool:
    """Create ``path`` with ``data``, whole, unless it exists; returns whether this call created it."""
    descriptor = atomic.fs.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        atomic.write_all(descriptor, data)
        atomic.fs.fsync(descriptor)
    finally:
        atomic.fs.close(descriptor)
    try:
        failpoint("marker.before_link")
        atomic.fs.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:  # a later owner swept the temporary file of one that comes too late
        if not path.exists():
            raise
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_plainly(path, data)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _create_plainly(path: Path, data: bytes) -> bool:
    """For file systems without hard links; a kill between the two steps leaves an empty file."""
    try:
        descriptor = atomic.fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    try:
        atomic.write_all(descriptor, data)
        atomic.fs.fsync(descriptor)
    finally:
        atomic.fs.close(descriptor)
    return True


def marker(run: str, command: str, attempt: int) -> bytes:
    """What a reserved file holds before its artifact: which attempt of which command of which run it belongs to."""
    return orjson.dumps({"mml_ray_reserved": {"run": run, "command": command, "attempt": attempt}})


def read_marker(path: Path) -> dict[str, Any] | None:
    """The marker in ``path``; ``None`` if the file is missing or holds something else."""
    try:
        if os.stat(path).st_size > _LIMIT:
            return None
        data = atomic.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError):
        return None
    if not data.startswith(_FIELD):
        return None
    try:
        content: dict[str, Any] = orjson.loads(data)["mml_ray_reserved"]
    except ValueError:
        return None
    return content


def occupy(path: Path, run: str, command: str, attempt: int) -> Literal["created", "ours", "foreign"]:
    """Create ``path`` exclusively with a marker. ``ours``: it held a marker of this run, which was replaced; ``foreign``: it is
    taken.

    The caller makes sure that no living attempt of this run holds ``path``.
    """
    data = marker(run, command, attempt)
    temporary = path.with_name(f".{path.name}.{run[:12]}.tmp")
    failpoint("reserve.before_create")
    if create_exclusively(path, data, temporary=temporary):
        return "created"
    found = read_marker(path)
    if found is None or found.get("run") != run:
        return "foreign"
    atomic.write_bytes(path, data)
    return "ours"


def withdraw(path: Path, run: str, command: str, attempt: int) -> None:
    """Remove the marker of this very attempt, if it is still there."""
    if read_marker(path) == {"run": run, "command": command, "attempt": attempt}:
        with contextlib.suppress(FileNotFoundError):
            atomic.fs.unlink(path)
