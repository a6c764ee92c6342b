"""What an attempt wrote, made durable and measured, before it is offered for a commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import StorageError
from mml_ray.failpoints import failpoint
from mml_ray.store.run.markers import read_marker


def settle_artifacts(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """``[{"path", "size", "sha256"}]`` of those reserved paths that were written; content and names are durable (fsync) on
    return.

    A path whose marker was never overwritten is removed and left out, one that is missing is left out. Files are read in pieces.

    Raises:
        StorageError: a folder stands where a file was reserved.
        OSError: a file cannot be read or made durable.
    """
    found: dict[Path, dict[str, Any]] = {}
    changed: dict[Path, None] = {}
    for path in dict.fromkeys(Path(path) for path in paths):
        if path.is_dir():
            raise StorageError(f"{path} was reserved for a file and is a folder: write one file (an archive, if there are many).")
        if read_marker(path) is not None:
            atomic.fs.unlink(path)
            changed[path.parent] = None
            failpoint("settle.after_unlink")
        elif path.exists():
            failpoint("settle.before_fsync")
            atomic.sync_file(path)
            changed[path.parent] = None
            found[path] = {"path": str(path), **measure(path)}
    for folder in changed:
        atomic.sync_folder(folder)
    failpoint("settle.after_fsync")
    return list(found.values())


def measure(path: Path) -> dict[str, Any]:
    """``{"size", "sha256"}`` of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}
