"""TAR archives in all compressions, and single compressed files."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from typing import IO, Self, cast

from mml_ray.prepare.archives.base import DataArchive, Target


class _StrictInfo(tarfile.TarInfo):
    """Python's reader stops silently at a damaged header and at a missing end; both mean that entries are lost."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            is_end = type(error).__name__ == "EOFHeaderError"  # two blocks of zeros, as it should be
            if is_end or tar.offset == 0:
                raise
            raise tarfile.ReadError(f"it is truncated or damaged at byte {tar.offset}") from error


def extract_tar(archive: DataArchive, target: Target) -> None:
    """Unpack plain files and folders; links and devices are refused."""
    with tarfile.open(archive.path, "r:*", tarinfo=_StrictInfo) as opened:
        for info in opened:
            if info.isdir():
                target.add_folder(info.name)
                continue
            if info.issym() or info.islnk():
                raise target.refuse(info.name, f"it is a link (to {info.linkname!r})")
            stream = opened.extractfile(info) if info.isreg() else None
            if stream is None:
                raise target.refuse(info.name, "it is not a plain file (a device?)")
            target.declare(target.written + info.size, 1, info.name)
            target.add_file(info.name, stream)
        if opened.fileobj is not None:
            target.drain(cast(IO[bytes], opened.fileobj))


def _is_tar(archive: DataArchive) -> bool:
    """Whether the first entry can be read (a file of zeros is an empty TAR archive to Python)."""
    try:
        with tarfile.open(archive.path, "r:*") as opened:
            return opened.next() is not None
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError):
        return False


def extract_gz(archive: DataArchive, target: Target) -> None:
    """A compressed TAR archive under this short suffix, else the one file it holds."""
    if _is_tar(archive):
        extract_tar(archive, target)
        return
    if not archive.path.stat().st_size:
        raise EOFError("it is empty")
    with gzip.open(archive.path) as stream:
        target.add_file(archive.path.stem, cast(IO[bytes], stream))
