"""Sources that are not archives: a folder, a single file."""

from __future__ import annotations

import os
from pathlib import Path

from mml_ray.prepare.archives.base import DataArchive, Target


def extract_folder(archive: DataArchive, target: Target) -> None:
    """Copy a folder with everything in it; links are refused, since what they lead to may not be meant."""
    top = archive.path.resolve()
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in [*folders, *sorted(files)]:
            path = Path(folder, name)
            entry = (Path(top.name) / path.relative_to(top)).as_posix()
            if path.is_symlink():
                raise target.refuse(entry, "it is a link")
            if path.is_dir():
                target.add_folder(entry)
            elif path.is_file():
                with path.open("rb") as stream:
                    target.add_file(entry, stream)
            else:
                raise target.refuse(entry, "it is not a plain file (a device?)")


def extract_file(archive: DataArchive, target: Target) -> None:
    """Copy a file as it is."""
    with archive.path.open("rb") as stream:
        target.add_file(archive.path.name, stream)
