"""The markers that hold a reserved name until its artifact is written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

import orjson

from mml_ray import atomic
from mml_ray.failpoints import failpoint
from mml_ray.journal.folder import create_exclusively
from mml_ray.store.files import LOCAL, Files

_FIELD = b'{"mml_ray_reserved":'
_LIMIT = 4096


def read_marker(path: Path, files: Files = LOCAL) -> dict[str, Any] | None:
    """The marker in ``path``; ``None`` if the file is missing or holds something else."""
    try:
        if files.size(path) > _LIMIT:
            return None
        data = files.read(path)
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
    """Create ``path`` exclusively with a marker. ``ours``: it had a marker of this run, which was replaced; ``foreign``: it is taken.

    The caller makes sure that no running attempt of this run holds ``path``.
    """
    data = orjson.dumps({"mml_ray_reserved": {"run": run, "command": command, "attempt": attempt}})
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
