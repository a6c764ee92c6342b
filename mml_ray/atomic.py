"""Files that are either whole or not there: temporary name, fsync, rename, fsync of the folder.

Every primitive goes through :data:`fs`, so a test can make the n-th of them fail or record them all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: what the operating system says to one who may not write
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class FileSystem:
    """The primitives that durable writing is made of: each is the function of :mod:`os` of its name, where nothing else is said."""

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: bytes) -> int:
        """The number of bytes written, which may be less than asked for."""
        return os.write(descriptor, data)

    def read(self, descriptor: int, size: int) -> bytes:
        """At most ``size`` bytes, none at the end."""
        return os.read(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def replace(self, source: Path | str, target: Path | str) -> None:
        os.replace(source, target)

    def link(self, source: Path | str, target: Path | str) -> None:
        """Fails where ``target`` exists."""
        os.link(source, target)

    def unlink(self, path: Path | str) -> None:
        os.unlink(path)

    def truncate(self, path: Path | str | int, size: int) -> None:
        """Also takes a file descriptor."""
        os.truncate(path, size)

    def mkdir(self, path: Path | str) -> None:
        """``os.makedirs`` with ``exist_ok``."""
        os.makedirs(path, exist_ok=True)

    def rmdir(self, path: Path | str) -> None:
        os.rmdir(path)

    def listdir(self, path: Path | str) -> list[str]:
        return os.listdir(path)


fs: FileSystem = FileSystem()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, however short the single writes are."""
    view = memoryview(data)
    while view:
        written = fs.write(descriptor, bytes(view))
        if written <= 0:
            raise OSError(f"A write of {len(view)} bytes wrote none.")
        view = view[written:]


@contextlib.contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of ``path`` that is closed at the end of the block."""
    descriptor = fs.open(path, flags)
    try:
        yield descriptor
    finally:
        fs.close(descriptor)


def read_bytes(path: Path | str) -> bytes:
    """All of ``path``."""
    with opened(path) as descriptor:
        return b"".join(iter(lambda: fs.read(descriptor, 1 << 24), b""))


def identity(path: Path | str) -> tuple[int, int, int] | None:
    """Inode, time of the last change (ns) and size of ``path``, or ``None`` if there is no such file.

    The file is opened for it: a network file system then asks its server, where ``stat`` alone may answer from a cache.
    """
    try:
        with opened(path) as descriptor:
            status = os.fstat(descriptor)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def remove_tree(folder: Path | str) -> None:
    """Remove ``folder`` with everything in it; links in it are removed, not followed. A missing folder is fine."""
    if os.path.islink(folder):
        fs.unlink(folder)
        return
    with contextlib.suppress(FileNotFoundError):
        for name in fs.listdir(folder):
            path = os.path.join(folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                remove_tree(path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    fs.unlink(path)
        fs.rmdir(folder)


def make_folder(path: Path | str) -> None:
    """Create a folder with its parents, durably: what is put into it later is not lost with its name."""
    missing = []
    folder = Path(os.path.abspath(path))
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = folder.parent
    if missing:
        fs.mkdir(missing[0])
        for created in reversed(missing):
            sync(created.parent)


def sync(path: Path | str) -> None:
    """Make durable the content of a file, written by anybody, or the names in a folder."""
    with opened(path) as descriptor:
        fs.fsync(descriptor)


def write_bytes(path: Path | str, data: bytes) -> None:
    """``path`` holds ``data`` afterwards, or what it held before."""
    with replacing(path) as temporary, opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        write_all(descriptor, data)


def write_text(path: Path | str, text: str) -> None:
    """As :func:`write_bytes`, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, content: Any, *, indent: int | None = 2) -> None:
    """As :func:`write_bytes`, JSON with its keys in the order given."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what was written there replaces ``path`` if the block ends well.

    The temporary file is made durable first and is removed if the block raises. Its suffix is that of ``path``, for
    writers that look at it.
    """
    target = Path(path)
    fs.mkdir(target.parent)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}.tmp{target.suffix}")
    try:
        yield temporary
        sync(temporary)
        fs.replace(temporary, target)
        sync(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
