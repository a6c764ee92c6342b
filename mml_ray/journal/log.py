"""The journal: one JSON object per line, ``{"crc":"xxxxxxxx","seq":n,"op":...}``; the CRC-32 covers the bytes after its comma.

What a crash can leave behind is cut off at the next open: an unfinished last line, and a hole (NUL bytes) in the lines that had
not been made durable. Any other line with a wrong checksum is an error that names file and line. To tell the two apart, the first
line of a batch says up to which ``seq`` everything was durable when it was written (``synced``).

The file is never changed in place. Opening a run for writing replaces it by a copy, so a former owner that wakes up late
appends to a file that is no longer read.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mml_ray import atomic
from mml_ray.errors import JournalError, StorageFailure
from mml_ray.failpoints import failpoint
from mml_ray.journal.plain import from_plain, to_plain

#: 1: the first; 2: with `progressed`, and with units in the plan
FORMAT = 2
_HEAD = len('{"crc":"xxxxxxxx",')
Operation = tuple[str, Mapping[str, Any]]


def encode(seq: int, op: str, fields: Mapping[str, Any]) -> bytes:
    """One line, with its line end."""
    body = orjson.dumps({"seq": seq, "op": op, **to_plain(fields, f"operation {op}")})[1:]
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body)


def decode(line: bytes) -> dict[str, Any] | None:
    """The object of a line without its line end; ``None`` if its checksum is wrong."""
    if line[:8] != b'{"crc":"' or line[16:_HEAD] != b'",':
        return None
    try:
        if int(line[8:16], 16) != zlib.crc32(line[_HEAD:]):
            return None
        content: dict[str, Any] = orjson.loads(line)
    except ValueError:
        return None
    return from_plain(content) if b'"$float"' in line else content


@dataclass
class Content:
    """The operations of a journal, and their size in bytes; what follows in the file was torn by a crash."""

    operations: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    @property
    def seq(self) -> int:
        """The number of the last operation."""
        return len(self.operations)


def read(path: Path) -> Content:
    """Read a journal without changing it.

    Raises:
        JournalError: missing, empty, damaged, or written by a newer version; names file and line.
        StorageFailure: it cannot be read.
    """
    return parse(path, read_raw(path))


def read_raw(path: Path) -> bytes:
    """The bytes of a journal; errors as :func:`read`."""
    try:
        data = atomic.read_bytes(path)
    except FileNotFoundError:
        raise JournalError(
            f"There is no journal at {path}: it was removed, or its owner was killed before it began. Start over in another folder."
        ) from None
    except OSError as error:
        raise StorageFailure.of("read", path, error) from error
    if not data:
        raise JournalError(
            f"The journal {path} is empty, which a crash does not cause. Restore it from a backup, or start over in another folder."
        )
    return data


def parse(path: Path, data: bytes) -> Content:
    """The content of the bytes of a journal; ``path`` is for messages. Errors as :func:`read`."""
    *lines, tail = data.split(b"\n")
    content = Content()
    for line in lines:
        operation = decode(line)
        seq = content.seq + 1
        if seq == 1 or (operation is not None and "version" in operation):  # a later owner may have continued it with a newer one
            _check_format(path, line, operation)
        if operation is None:
            _check_torn(path, lines, seq)
            break
        if operation.get("seq") != seq:
            raise JournalError(
                f"{path}, line {seq}: expected operation {seq}, found {operation.get('seq')}. Lines are missing or were added. "
                "Nothing was changed. Restore the file from a backup."
            )
        content.operations.append(operation)
        content.size += len(line) + 1
    if not content.operations:
        raise JournalError(
            f"{path} has {len(tail)} bytes but no complete line: its owner was killed before it began. Start over in another folder."
        )
    return content


def _check_format(path: Path, line: bytes, operation: dict[str, Any] | None) -> None:
    loose = operation or _parsed(line)
    version = loose.get("version") if isinstance(loose, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise JournalError(
            f"{path} was written by a newer mml-ray (journal format {version}; this one reads up to {FORMAT}). Update mml-ray to "
            "continue."
        )


def _check_torn(path: Path, lines: Sequence[bytes], seq: int) -> None:
    """Raise unless a crash can have left the line ``seq`` (from 1) like this."""
    line, later = lines[seq - 1], [found for text in lines[seq:] if (found := decode(text)) is not None]
    hole = b"\0" in line and all(found.get("synced", 0) < seq for found in later)
    torn_end = not lines[seq:] and _parsed(line) is None
    if not hole and not torn_end:
        why = "a crash can only damage the end of the file" if lines[seq:] else "a crash does not cause this"
        raise JournalError(
            f"{path}, line {seq} is damaged or was edited: its checksum does not match, and {why}. Nothing was changed. "
            "Restore the file from a backup, or start over in another folder."
        )


def _parsed(line: bytes) -> Any:
    """The JSON of a line whatever its checksum; ``None`` if it is not JSON."""
    try:
        return orjson.loads(line)
    except ValueError:
        return None


class Journal:
    """The writer of one journal. ``guard`` is called before each append and after each fsync; it raises where another owner took
    over.

    Lines are written when :meth:`append` returns, and durable where it was asked for that. Nothing of a failed append counts; the
    next one first cuts off what was left of it.
    """

    def __init__(self, path: Path, descriptor: int, *, seq: int, size: int, guard: Callable[[], None]) -> None:
        self.path, self.seq = path, seq
        self._descriptor, self._guard = descriptor, guard
        self._durable_size, self._durable_seq = size, seq
        self._tail = b""
        self._needs_repair = False

    @classmethod
    def take_over(
        cls, path: Path, kept: bytes, *, operations: Sequence[Operation], seq: int, token: int, guard: Callable[[], None]
    ) -> tuple[Journal, list[dict[str, Any]]]:
        """Replace the journal by ``kept`` (its first ``seq`` lines) and ``operations``, durably; returns the writer and the lines
        added.

        Raises:
            StorageFailure: it could not be written; the journal is as it was.
        """
        data, added = _encoded(operations, seq, synced=seq)
        temporary = path.with_name(f".{path.stem}.{token}.tmp{path.suffix}")
        try:
            descriptor = atomic.fs.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            try:
                atomic.write_all(descriptor, kept + data)
                atomic.fs.fsync(descriptor)
                guard()
                failpoint("journal.before_replace")
                atomic.fs.replace(temporary, path)
                atomic.sync(path.parent)
                failpoint("journal.after_replace")
                guard()
            except BaseException:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise StorageFailure.of("write", path, error) from error
        return cls(path, descriptor, seq=seq + len(added), size=len(kept) + len(data), guard=guard), added

    def append(self, operations: Sequence[Operation], *, durable: bool) -> list[dict[str, Any]]:
        """Write the operations in one piece and return them as a replay will see them.

        Raises:
            StorageFailure: nothing of it counts.
            FencedError: from the guard; after an fsync the next owner decides whether it counts.
        """
        data, added = _encoded(operations, self.seq, synced=self._durable_seq)
        self._guard()
        failpoint("journal.before_append")
        try:
            self._repair()
            self._needs_repair = True
            atomic.write_all(self._descriptor, data)
            failpoint("journal.after_write")
            if durable:
                atomic.fs.fsync(self._descriptor)
                failpoint("journal.after_fsync")
                self._keep_file()
        except OSError as error:
            raise StorageFailure.of("write", self.path, error) from error
        if durable:
            self._guard()
        self._needs_repair = False
        self.seq += len(added)
        self._tail += data
        if durable:
            self._durable_size += len(self._tail)
            self._durable_seq, self._tail = self.seq, b""
        return added

    def close(self) -> None:
        """Close the file. Lines that are not durable stay so."""
        atomic.fs.close(self._descriptor)

    def _repair(self) -> None:
        """After a failed append: cut the file to its durable part, and write again what counts without being durable."""
        if self._needs_repair:
            atomic.fs.truncate(self._descriptor, self._durable_size)
            atomic.write_all(self._descriptor, self._tail)

    def _keep_file(self) -> None:
        """Put the file back where an older owner, stopped in the middle of its take-over, has just replaced it by a copy."""
        if os.fstat(self._descriptor).st_nlink:
            return
        self._guard()
        data = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        with atomic.replacing(self.path) as temporary:
            descriptor = atomic.fs.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            atomic.write_all(descriptor, data)
        atomic.fs.close(self._descriptor)
        self._descriptor = descriptor


def _encoded(operations: Sequence[Operation], seq: int, *, synced: int) -> tuple[bytes, list[dict[str, Any]]]:
    lines = []
    for number, (op, fields) in enumerate(operations):
        marked = {"synced": synced, **fields} if number == 0 and synced else fields
        lines.append(encode(seq + number + 1, op, marked))
    decoded = [decode(line[:-1]) for line in lines]
    return b"".join(lines), [operation for operation in decoded if operation is not None]
