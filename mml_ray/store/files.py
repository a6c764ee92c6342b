"""The one place that knows where the files of commands lie: artifacts, checkpoints, logs.

A command writes to plain local paths, with whatever library it likes, and then publishes them here; whoever reads asks here first.
So a worker without the driver's disk needs another implementation of :class:`Files`, and no other code. Journal, lease and the
reserved names stay on a POSIX file system, and do not come by here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mml_ray import atomic


class Files(Protocol):
    """Files by their path in this process, whether or not their content is on its disk.

    What this process wrote and has not published yet is there for this process alone. A file that is missing raises
    FileNotFoundError, other faults another OSError.
    """

    def put(self, path: Path) -> None:
        """Publish what was written at ``path``; content and name survive a power failure on return."""

    def append(self, path: Path) -> None:
        """Publish what this process added to a log at ``path``; that may be lost with the machine."""

    def replacing(self, path: Path) -> AbstractContextManager[Path]:
        """Give a local path to write to; its content is published as ``path``, durably, if the block ends well."""

    def get(self, path: Path) -> Path:
        """A local path with the content of ``path``, for libraries that open files themselves. It is for reading only."""

    def read(self, path: Path) -> bytes:
        """All of a file."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file; a folder is none."""

    def size(self, path: Path) -> int:
        """The size in bytes, as of now: not from a cache that lags behind another node."""

    def digest(self, path: Path) -> str:
        """The sha256 of the content, in hexadecimal."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted; none if it is missing or is a file."""

    def remove(self, path: Path) -> None:
        """Remove a file, durably; a missing one is fine."""


class LocalFiles:
    """Files on a disk that every process sees: a path is where its content lies."""

    def put(self, path: Path) -> None:
        atomic.sync(path)
        atomic.sync(path.parent)

    def append(self, path: Path) -> None:
        pass

    def replacing(self, path: Path) -> AbstractContextManager[Path]:
        return atomic.replacing(path)

    def get(self, path: Path) -> Path:
        return path

    def read(self, path: Path) -> bytes:
        return atomic.read_bytes(path)

    def exists(self, path: Path) -> bool:
        return path.is_file()

    def size(self, path: Path) -> int:
        try:
            found = atomic.identity(path)  # opened, so that a network file system asks its server
        except OSError:  # opening asks for more rights than the size does
            found = None
        return os.stat(path).st_size if found is None else found[2]

    def digest(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def names(self, folder: Path) -> list[str]:
        try:
            return sorted(atomic.fs.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            atomic.fs.unlink(path)
            atomic.sync(path.parent)


LOCAL = LocalFiles()
