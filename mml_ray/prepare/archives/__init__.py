"""Unpacking of archives: nothing is written outside the folder, and a refused archive leaves nothing behind."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import uuid
import zipfile
import zlib
from pathlib import Path

from mml_ray.errors import ArchiveError
from mml_ray.prepare.archives.base import DataArchive, DataKind, Extractor, Limits, Target, check_sum
from mml_ray.prepare.archives.plain import extract_file, extract_folder
from mml_ray.prepare.archives.rars import extract_rar
from mml_ray.prepare.archives.tars import extract_gz, extract_tar
from mml_ray.prepare.archives.zips import extract_zip
from mml_ray.registry import registry
from mml_ray.store.data_root import writing

__all__ = ["DataArchive", "DataKind", "Extractor", "Limits", "Target", "archive_suffixes", "check_sum", "extract", "is_archive"]

for _suffix in (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz"):
    registry.add("archive_extractor", _suffix, extract_tar)
registry.add("archive_extractor", ".zip", extract_zip)
registry.add("archive_extractor", ".gz", extract_gz)
registry.add("archive_extractor", ".rar", extract_rar)
registry.add("archive_extractor", "file", extract_file)
registry.add("archive_extractor", "folder", extract_folder)

_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, KeyError, IndexError,
)  # fmt: skip


#: what odd offsets and names in an archive lead to
_ODD = {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR}


def extractor_name(path: Path) -> str:
    """The registered suffix that ``path`` ends with (the longest one), else ``folder`` or ``file``."""
    if path.is_dir():
        return "folder"
    fitting = [name for name in registry.names("archive_extractor") if name.startswith(".") and path.name.lower().endswith(name)]
    return max(fitting, key=len, default="file")


def is_archive(path: Path) -> bool:
    """Whether the name of a file says that other files are in it."""
    return extractor_name(path) not in ("file", "folder")


def archive_suffixes() -> list[str]:
    """The endings of file names that can be unpacked."""
    return sorted(name for name in registry.names("archive_extractor") if name.startswith("."))


def extract(archive: DataArchive, folder: Path) -> None:
    """Unpack into ``folder``, made if need be. Afterwards everything is there, or nothing and :class:`ArchiveError` says why."""
    archive.verify()
    extractor: Extractor = registry.lookup("archive_extractor", extractor_name(archive.path))
    parts = folder.parent / f".unpacking-{uuid.uuid4().hex[:12]}"
    with writing(folder):
        parts.mkdir(parents=True)
        try:
            target = Target(parts, archive)
            _unpack(extractor, archive, target)
            if not target.entries:
                raise ArchiveError(f"The archive {archive.path} contains no files: it is empty, damaged or not an archive.")
            _merge(_content(parts, archive), folder, target=target)
        finally:
            shutil.rmtree(parts, ignore_errors=True)


def _unpack(extractor: Extractor, archive: DataArchive, target: Target) -> None:
    try:
        extractor(archive, target)
    except ArchiveError:
        raise
    except _DAMAGE as error:
        raise ArchiveError(f"The archive {archive.path} is damaged: {error or type(error).__name__}.") from error
    except OSError as error:
        if error.errno is None or error.errno in _ODD:  # None: what bz2, gzip and lzma say of damaged data
            raise ArchiveError(f"The archive {archive.path} is damaged: {error}.") from error
        raise


def _content(parts: Path, archive: DataArchive) -> Path:
    """The folder whose content is wanted."""
    inside = list(parts.iterdir())
    if not archive.keep_top_level and len(inside) == 1 and inside[0].is_dir():
        return inside[0]
    return parts


def _merge(source: Path, folder: Path, *, target: Target) -> None:
    """Move everything from ``source`` into ``folder``; files that are already there are an error before the first move."""
    moves = [(path, folder / path.relative_to(source)) for path in sorted(source.rglob("*"))]
    for path, new in moves:
        if new.exists() and not (path.is_dir() and new.is_dir()):
            raise target.refuse(path.relative_to(source).as_posix(), f"{new} already exists")
    folder.mkdir(parents=True, exist_ok=True)
    for path, new in moves:
        if path.is_dir():
            new.mkdir(exist_ok=True)
        else:
            path.rename(new)
