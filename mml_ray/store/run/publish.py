"""What an attempt wrote, published and measured before it is offered for a commit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mml_ray.errors import StorageError
from mml_ray.failpoints import failpoint
from mml_ray.store.files import LOCAL, Files
from mml_ray.store.run.markers import read_marker


def publish_artifacts(paths: Iterable[Path], files: Files = LOCAL) -> list[dict[str, Any]]:
    """``[{"path", "size", "sha256"}]`` of those reserved paths that were written; content and names are durable on return.

    A path that still holds its marker is removed and left out, a missing one is left out.

    Raises:
        StorageError: a folder stands where a file was reserved.
        OSError: a file cannot be read or made durable.
    """
    found: list[dict[str, Any]] = []
    for path in dict.fromkeys(paths):
        if path.is_dir():
            raise StorageError(f"{path} was reserved for a file and is a folder: write one file (an archive, if there are many).")
        if read_marker(path, files) is not None:
            files.remove(path)
            failpoint("publish.after_unlink")
        elif files.exists(path):
            failpoint("publish.before_put")
            files.put(path)
            found.append({"path": str(path), **measure(path, files)})
    failpoint("publish.after_put")
    return found


def measure(path: Path, files: Files = LOCAL) -> dict[str, Any]:
    """``{"size", "sha256"}`` of a file."""
    return {"size": files.size(path), "sha256": files.digest(path)}
