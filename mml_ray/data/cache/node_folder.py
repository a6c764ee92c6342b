"""The folder of a node's stores (:mod:`mml_ray.data.cache.node`): its place, its stores, the claim to write. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

#: stores that were not opened for so long are deleted when another one is created
_UNUSED_SECONDS = 14 * 86400.0
_LOCK = "writer.lock"


def default_cache_dir() -> Path:
    """``$MML_CACHE_PATH``, else a folder of this user on this node: in ``$TMPDIR``, ``/var/tmp`` or the temporary folder."""
    if chosen := os.environ.get("MML_CACHE_PATH"):
        return Path(chosen)
    base = os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
    return Path(base) / f"mml_ray_cache_{os.getuid()}"


def stores_of_node() -> dict[Path, Path]:
    """The stores below :func:`default_cache_dir` that can be read, and the folder of the files that each was made from."""
    found: dict[Path, Path] = {}
    for described in sorted(default_cache_dir().glob("*/store.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found[described.parent] = Path(json.loads(described.read_text(encoding="utf-8"))["definition"]["root"])
    return found


class Claim:
    """The right to write to a store: a file lock, which ends with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self, *, create: bool = False) -> bool:
        """Try to get it; also ``True`` if it is held already.

        With ``create`` the store's folder is made if need be and tidied, and a folder that cannot be written is warned about;
        without, only the claim of a store that exists is acquired.
        """
        if self._descriptor is not None:
            return True
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        except OSError as error:
            if create:
                warnings.warn(f"The cache {self.folder} cannot be written: {error}", UserWarning, stacklevel=2)
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        if create:
            self._tidy()
        return True

    def release(self) -> None:
        """Let others write."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def _tidy(self) -> None:
        """Delete temporary files of killed writers, and stores that have not been used for long."""
        os.utime(self.folder)
        for leftover in self.folder.glob(".part-*"):
            leftover.unlink(missing_ok=True)
        for other in self.folder.parent.iterdir():
            if other != self.folder and other.is_dir() and time.time() - other.stat().st_mtime > _UNUSED_SECONDS:
                claim = Claim(other)
                if claim.acquire():
                    shutil.rmtree(other, ignore_errors=True)
                    claim.release()
