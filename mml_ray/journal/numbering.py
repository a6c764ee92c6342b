"""Which file a reservation gets. Numbers follow from the plan, not from the order of the reservations (docs/architecture.md,
2.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mml_ray import atomic
from mml_ray.errors import MMLMisconfigurationException

PROJ, TEMP, TASK, FILE = "PROJ_PATH", "TEMP_PATH", "TASK_NAME", "FILE_NAME"


@dataclass(frozen=True)
class Target:
    """A folder and the name that files there share but for their number."""

    folder: Path
    stem: str
    suffix: str

    @property
    def plain(self) -> Path:
        """The file without a number."""
        return self.folder / f"{self.stem}{self.suffix}"

    def numbered(self, number: int) -> Path:
        """The file with this number, four digits or more."""
        return self.folder / f"{self.stem}_{number:04d}{self.suffix}"

    def number_of(self, name: str) -> int | None:
        """The number of a file name of this series; ``None`` for any other name."""
        found = re.fullmatch(rf"{re.escape(self.stem)}_(\d+){re.escape(self.suffix)}", name)
        return int(found[1]) if found else None

    def highest(self, ignore: Callable[[Path], bool] = lambda path: False) -> int:
        """The highest number in the folder, without the files at the top that ``ignore`` names; 0 if there is none."""
        try:
            names = atomic.fs.listdir(self.folder)
        except FileNotFoundError:
            return 0
        numbers = sorted((number for name in names if (number := self.number_of(name)) is not None), reverse=True)
        return next((number for number in numbers if not ignore(self.numbered(number))), 0)


def target(template: str, *, roots: Mapping[str, Path], task: str | None, file: str | None) -> Target:
    """Fill in a template; ``roots`` holds the folders behind ``PROJ_PATH`` and ``TEMP_PATH``.

    Raises:
        MMLMisconfigurationException: a name that the template needs is missing, or one that is no single path part.
    """
    first, *parts = PurePosixPath(template).parts
    given = {TASK: task, FILE: file}
    filled = [_part(part, given[part], template) if part in given else part for part in parts]
    name = PurePosixPath(filled[-1])
    return Target(roots[first].joinpath(*filled[:-1]), name.stem, name.suffix)


def _part(token: str, value: str | None, template: str) -> str:
    if not value:
        raise MMLMisconfigurationException(f"The path template {template} needs a value for {token}.")
    if value in (".", "..") or any(character in value for character in "/\\\0"):
        raise MMLMisconfigurationException(
            f"'{value}' cannot stand for {token} in {template}: it must be a single folder or file name."
        )
    return value


def slot(position: int, repetition: int, commands: int) -> int:
    """The number to add to a base: 1, 2, ... by position in a plan of ``commands``, then round and round; position 0 comes last."""
    width = max(commands, position + 1)
    return (position or width) + repetition * width
