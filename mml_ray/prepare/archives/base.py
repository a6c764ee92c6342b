"""Archives, and the target folder that checks every entry before it is written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from mml_ray.errors import ArchiveError, DataError, MMLMisconfigurationException
from mml_ray.tasks.open_enum import OpenEnum, member

_CHUNK = 1 << 20
_MEGA, _GIGA = 1 << 20, 1 << 30
_DRIVE = re.compile(r"^[A-Za-z]:")


class DataKind(OpenEnum):
    """What an archive holds; also the folder of the dataset it is unpacked to. Archives are unpacked in this order."""

    MIXED_DATA = member("mixed_data")
    UNLABELED_DATA = member("unlabeled_data")
    TRAINING_DATA = member("training_data")
    TRAINING_LABELS = member("training_labels")
    TESTING_DATA = member("testing_data")
    TESTING_LABELS = member("testing_labels")


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to. The ratio (unpacked to packed size) is looked at beyond ``ratio_from`` bytes."""

    max_total: int = 1024 * _GIGA
    max_ratio: float = 200.0
    ratio_from: int = 256 * _MEGA
    max_entries: int = 5_000_000


@dataclass(frozen=True)
class DataArchive:
    """A file or folder that a dataset is made from.

    ``keep_top_level=False`` leaves out a single folder around everything; of a folder, its own name.
    """

    path: Path
    kind: DataKind = DataKind.MIXED_DATA
    md5sum: str | None = None
    password: str | None = field(default=None, repr=False)
    keep_top_level: bool = True
    limits: Limits = Limits()

    def verify(self) -> None:
        """Raise if the file is not there or its checksum is another one."""
        if not self.path.exists():
            raise DataError(f"The archive {self.path} does not exist.")
        if self.md5sum is None:
            return
        if self.path.is_dir():
            raise MMLMisconfigurationException(f"md5sum must not be given for a folder, got one for {self.path}.")
        check_sum(self.path, self.md5sum)


def check_sum(path: Path, expected: str) -> None:
    """Compare with a checksum in hexadecimal digits: md5 (32), sha1 (40) or sha256 (64)."""
    algorithm = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(expected))
    if algorithm is None:
        raise MMLMisconfigurationException(f"'{expected}' is not an md5, sha1 or sha256 checksum.")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected.lower():
        raise DataError(f"{path} has the {algorithm} checksum {found}, expected is {expected}. Download it again.")


class Target:
    """An empty folder that takes the entries of one archive, and nothing that is not a plain file or folder below it."""

    def __init__(self, folder: Path, archive: DataArchive) -> None:
        self.folder = folder
        self.archive = archive
        self.written = 0
        self.entries = 0
        self._allowed = self._allowed_bytes()

    def _allowed_bytes(self) -> int:
        limits = self.archive.limits
        if self.archive.path.is_dir():
            return limits.max_total
        packed = self.archive.path.stat().st_size
        return min(limits.max_total, max(limits.ratio_from, int(packed * limits.max_ratio)))

    def refuse(self, entry: str, why: str) -> ArchiveError:
        """The error for an entry; to be raised by the caller."""
        return ArchiveError(f"The archive {self.archive.path} was refused because of its entry {entry!r}: {why}.")

    def declare(self, total: int, entries: int, largest: str) -> None:
        """What the archive says it will unpack to: refused at once if that is too much."""
        if entries > self.archive.limits.max_entries:
            raise self.refuse(largest, f"it is one of {entries} entries, {self.archive.limits.max_entries} are allowed")
        if total > self._allowed:
            raise self.refuse(largest, self._too_large(total))

    def drain(self, stream: IO[bytes]) -> None:
        """Read what follows the last entry, so that the checksum at the end of a stream is checked."""
        left = self._allowed
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise self.refuse("(end of the archive)", self._too_large(self._allowed - left))

    def _too_large(self, total: int) -> str:
        return (
            f"unpacking would take {total / _MEGA:.0f} MB or more, {self._allowed / _MEGA:.0f} MB are allowed for an archive of "
            f"{self.archive.path.stat().st_size / _MEGA:.2f} MB (a decompression bomb?). If it can be trusted, unpack it "
            "yourself and give the folder"
        )

    def resolve(self, name: str) -> Path | None:
        """Where the entry ``name`` belongs, ``None`` for the top itself and for what file managers leave behind."""
        if "\0" in name:
            raise self.refuse(name, "its name has a NUL character")
        plain = name.replace("\\", "/")
        if plain.startswith("/") or _DRIVE.match(plain):
            raise self.refuse(name, "its name is absolute")
        parts = [part for part in PurePosixPath(plain).parts if part != "."]
        if ".." in parts:
            raise self.refuse(name, "its name leads out of the archive")
        if any(len(os.fsencode(part)) > 255 for part in parts) or len(plain) > 2048:
            raise self.refuse(name[:80] + "...", "its name is too long")
        if not parts or parts[0] == "__MACOSX" or parts[-1] == ".DS_Store":
            return None
        return self.folder.joinpath(*parts)

    def add_folder(self, name: str) -> None:
        """Make a folder."""
        path = self.resolve(name)
        if path is not None:
            self._make_folder(path, name)

    def add_file(self, name: str, stream: IO[bytes]) -> None:
        """Write a file; it must be new."""
        path = self.resolve(name)
        if path is None:
            return
        self.entries += 1
        if self.entries > self.archive.limits.max_entries:
            raise self.refuse(name, f"there are more than {self.archive.limits.max_entries} entries")
        self._make_folder(path.parent, name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except FileExistsError:
            raise self.refuse(name, "there are two entries of this name") from None
        with os.fdopen(descriptor, "wb") as file:
            while chunk := stream.read(_CHUNK):
                self.written += len(chunk)
                if self.written > self._allowed:
                    raise self.refuse(name, self._too_large(self.written))
                file.write(chunk)

    def _make_folder(self, path: Path, name: str) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self.refuse(name, "another entry is a file where this one needs a folder") from None


#: unpacks an archive into a target; registered as kind ``archive_extractor`` by suffix
Extractor = Callable[[DataArchive, Target], None]
