"""What a disk may hold after the machine lost its power: a model of files and folders whose changes become durable only by fsync.

Everything a process did through ``atomic.fs`` is recorded. A crash at any moment keeps what was made durable, and of the rest any
choice: of each file any subset of the writes since its last fsync (the last of them also in part), of each folder any first part
of the changes of names since its last fsync. A write that is kept behind one that is lost leaves a hole of NUL bytes.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_ray import atomic

Event = tuple[Any, ...]


class Recorder(atomic.FileSystem):
    """Does everything for real, and keeps what was done. Files are numbered; names map to numbers."""

    def __init__(self, base: Path) -> None:
        self.base, self.events = base, list[Event]()
        self._files: dict[str, int] = {}
        self._open: dict[int, tuple[str, int | None, int]] = {}
        self._count = 0

    def _name(self, path: Path | str) -> str:
        return os.path.relpath(os.path.abspath(path), self.base)

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
        name, existed = self._name(path), os.path.exists(path)
        descriptor = super().open(path, flags, mode)
        if os.path.isdir(path):
            self._open[descriptor] = (name, None, 0)
            return descriptor
        if not existed:
            self._count += 1
            self._files[name] = self._count
            self.events.append(("create", name, self._count))
        elif flags & os.O_TRUNC:
            self.events.append(("truncate", self._files[name], 0))
        append = bool(flags & os.O_APPEND)
        self._open[descriptor] = (name, self._files[name], -1 if append else 0)
        return descriptor

    def write(self, descriptor: int, data: bytes) -> int:
        name, file, place = self._open[descriptor]
        offset = os.fstat(descriptor).st_size if place < 0 else place
        written = super().write(descriptor, data)
        self.events.append(("write", file, offset, data[:written]))
        self._open[descriptor] = (name, file, place if place < 0 else place + written)
        return written

    def fsync(self, descriptor: int) -> None:
        name, file, _ = self._open[descriptor]
        self.events.append(("syncdir", name) if file is None else ("sync", file))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._open.pop(descriptor)

    def replace(self, source: Path | str, target: Path | str) -> None:
        super().replace(source, target)
        before, after = self._name(source), self._name(target)
        self._files[after] = self._files.pop(before)
        self.events.append(("rename", before, after))

    def link(self, source: Path | str, target: Path | str) -> None:
        super().link(source, target)
        self._files[self._name(target)] = self._files[self._name(source)]
        self.events.append(("create", self._name(target), self._files[self._name(source)]))

    def unlink(self, path: Path | str) -> None:
        super().unlink(path)
        self.events.append(("unlink", self._name(path)))

    def mkdir(self, path: Path | str) -> None:
        missing = [folder for folder in (Path(path), *Path(path).parents) if not folder.exists()]
        super().mkdir(path)
        self.events += [("mkdir", self._name(folder)) for folder in reversed(missing)]

    def rmdir(self, path: Path | str) -> None:
        super().rmdir(path)
        self.events.append(("unlink", self._name(path)))

    def truncate(self, path: Path | str | int, size: int) -> None:
        super().truncate(path, size)
        file = self._open[path][1] if isinstance(path, int) else self._files[self._name(path)]
        self.events.append(("truncate", file, size))


@dataclass
class _Pending:
    """Changes of one file or folder that are not durable yet."""

    durable: list[Event] = field(default_factory=list)
    volatile: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        self.durable += self.volatile
        self.volatile.clear()


class Crash:
    """The disk after a crash behind the first ``length`` events; ``choose`` makes the choices."""

    def __init__(self, events: list[Event], length: int, choose: random.Random, style: str) -> None:
        self._choose, self._style = choose, style
        self._data: dict[int, _Pending] = {}
        self._names: dict[str, _Pending] = {}
        for event in events[:length]:
            self._record(event)

    def _record(self, event: Event) -> None:
        kind = event[0]
        if kind in ("write", "truncate"):
            self._data.setdefault(event[1], _Pending()).volatile.append(event)
        elif kind == "sync":
            self._data.setdefault(event[1], _Pending()).sync()
        elif kind == "syncdir":
            self._names.setdefault(event[1], _Pending()).sync()
        elif kind in ("create", "mkdir", "unlink", "rename"):
            self._names.setdefault(os.path.dirname(event[1]) or ".", _Pending()).volatile.append(event)

    def materialise(self, base: Path) -> None:
        """Write the disk to an empty folder."""
        self._folder(".", base)

    def _folder(self, name: str, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        entries: dict[str, int | None] = {}
        for event in self._surviving_names(self._names.get(name, _Pending())):
            entry = os.path.basename(event[1])
            if event[0] == "create":
                entries[entry] = event[2]
            elif event[0] == "mkdir":
                entries[entry] = None
            elif event[0] == "unlink":
                entries.pop(entry, None)
            elif entry in entries:
                entries[os.path.basename(event[2])] = entries.pop(entry)
        for entry, file in entries.items():
            if file is None:
                self._folder(os.path.normpath(os.path.join(name, entry)), path / entry)
            else:
                (path / entry).write_bytes(self._content(self._data.get(file, _Pending())))

    def _surviving_names(self, pending: _Pending) -> list[Event]:
        count = {"none": 0, "names": len(pending.volatile), "data": 0, "all": len(pending.volatile)}.get(self._style)
        kept = self._choose.randint(0, len(pending.volatile)) if count is None else count
        return pending.durable + pending.volatile[:kept]

    def _content(self, pending: _Pending) -> bytes:
        content = bytearray()
        for event in pending.durable:
            _apply(content, event)
        for event in pending.volatile:
            keep = {"none": False, "names": False, "data": True, "all": True}.get(self._style)
            if self._choose.random() < 0.5 if keep is None else keep:
                partial = keep is None and event[0] == "write" and self._choose.random() < 0.3
                _apply(content, (*event[:3], event[3][: self._choose.randint(0, len(event[3]))]) if partial else event)
        return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event[0] == "truncate":
        del content[event[2] :]
        content.extend(b"\0" * (event[2] - len(content)))
        return
    _, _, offset, data = event
    content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(data)] = data
