"""RAR archives, unpacked by the program ``unrar``."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mml_ray.errors import ArchiveError
from mml_ray.prepare.archives.base import DataArchive, Target


@dataclass
class _Listed:
    name: str
    kind: str
    size: int


def extract_rar(archive: DataArchive, target: Target) -> None:
    """List, check every entry, unpack into a folder of its own, check again what is really there, then move it to the target."""
    program = shutil.which("unrar")
    if program is None:
        raise ArchiveError(
            f"{archive.path} needs the program 'unrar', which is not installed. Install it, or unpack the archive yourself and "
            "give the folder."
        )
    entries = _list(program, archive)
    files = [entry for entry in entries if entry.kind != "Directory"]
    for entry in entries:
        target.resolve(entry.name)
        if entry.kind not in ("File", "Directory"):
            raise target.refuse(entry.name, f"it is a {entry.kind.lower() or 'nameless entry'}, not a plain file")
    if files:
        target.declare(sum(entry.size for entry in files), len(files), max(files, key=lambda entry: entry.size).name)
    inside = target.folder / ".rar"
    inside.mkdir()
    _run([program, "x", "-o-", "-idq", _password(archive), "--", str(archive.path), f"{inside}/"], archive)
    _take_over(inside, target)


def _take_over(inside: Path, target: Target) -> None:
    for path in sorted(inside.rglob("*")):
        name = path.relative_to(inside).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise target.refuse(name, "it is not a plain file")
        if path.is_file():
            with path.open("rb") as stream:
                target.add_file(name, stream)
            path.unlink()
    shutil.rmtree(inside)


def _list(program: str, archive: DataArchive) -> list[_Listed]:
    """The technical listing: blocks of ``Name:``, ``Type:``, ``Size:`` lines."""
    entries: list[_Listed] = []
    for line in _run([program, "lt", _password(archive), "--", str(archive.path)], archive).splitlines():
        key, _, value = line.strip().partition(": ")
        if key == "Name":
            entries.append(_Listed(value, "", 0))
        elif entries and key == "Type":
            entries[-1].kind = value
        elif entries and key == "Size" and value.isdigit():
            entries[-1].size = int(value)
    return entries


def _password(archive: DataArchive) -> str:
    return f"-p{archive.password}" if archive.password is not None else "-p-"


def _run(command: list[str], archive: DataArchive) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    if done.returncode == 11:
        raise ArchiveError(f"The archive {archive.path} is encrypted, and the password (source.password) is missing or wrong.")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ArchiveError(f"The archive {archive.path} cannot be unpacked (unrar: {said[-1] if said else done.returncode}).")
    return done.stdout
