"""Numbered files. A number follows from the plan, not from the order of the reservations (docs/architecture.md, 2.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mml_ray import atomic


@dataclass(frozen=True)
class FileSeries:
    """Files of one folder whose names differ only in their number."""

    folder: Path
    stem: str
    suffix: str

    @property
    def unnumbered(self) -> Path:
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
        """The highest number in the folder, leaving out the highest files for which ``ignore`` is true; 0 if there is none."""
        try:
            names = atomic.fs.listdir(self.folder)
        except FileNotFoundError:
            return 0
        numbers = sorted((number for name in names if (number := self.number_of(name)) is not None), reverse=True)
        return next((number for number in numbers if not ignore(self.numbered(number))), 0)


def number_offset(position: int, repetition: int, commands: int) -> int:
    """The number to add to a base: the position in a plan of ``commands``, and the plan's length for each repetition. Position 0
    comes last.
    """
    width = max(commands, position + 1)
    return (position or width) + repetition * width
