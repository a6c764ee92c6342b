"""Tables of samples, from CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_ray.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
Row = dict[str, Any]


@dataclass(frozen=True)
class NamedFiles:
    """The files that a table names. They lay below ``root`` when it was written, and lie in ``folder`` now; entries are relative to
    one of ``starts``, or absolute."""

    folder: Path
    root: Path
    starts: tuple[Path, ...]

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any], dataset: Path) -> NamedFiles:
        """The inverse of :meth:`notes`; ``dataset`` may have been moved."""
        folder = dataset / notes["images"]
        root, starts = notes.get("source", (".", ["."]))
        return cls(folder, folder / root, tuple(folder / start for start in starts))

    def notes(self, dataset: Path) -> dict[str, Any]:
        """What has to be kept, as JSON: paths that lie in the dataset are relative."""

        def kept(path: Path) -> str:
            inside = path.is_relative_to(self.folder)
            return path.relative_to(self.folder).as_posix() if inside else str(path)

        images = self.folder.relative_to(dataset).as_posix()
        return {"images": images, "source": [kept(self.root), [kept(start) for start in self.starts]]}

    def stored(self, entry: Any) -> Path:
        """Where the file of an entry lies now. Steps up are followed, but not out of the root (:class:`DataError`); backslashes are
        separators where there is no slash."""
        return self.folder / self._inside(entry)

    def name(self, entry: Any) -> str:
        """The path of an entry without its suffix, from where entries start if it lies there, else from the root."""
        place = self.root / self._inside(entry)
        base = next(base for base in (*self.starts, self.root) if place.is_relative_to(base))
        return place.relative_to(base).with_suffix("").as_posix()

    def _inside(self, entry: Any) -> Path:
        text = str(entry) if "/" in str(entry) else str(entry).replace("\\", "/")
        for start in self.starts:
            place = Path(os.path.normpath(start / text))
            for root in (self.root, self.root.resolve()):
                if place.is_relative_to(root):
                    return place.relative_to(root)
        raise DataError(f"{entry} must lie within {self.root}.")


def read_table(path: Path) -> list[Row]:
    """The rows as mappings from column to entry; entries of text files are texts, empty ones are ``None``."""
    if not path.is_file():
        raise DataError(f"The table {path} does not exist.")
    if path.suffix.lower() in (".parquet", ".pq"):
        rows = _read_parquet(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = _read_text(path)
    else:
        raise DataError(f"{path} is not a table. Files of these kinds can be read: {', '.join(TABLE_SUFFIXES)}.")
    if not rows:
        raise DataError(f"The table {path} has no rows.")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The table {path} cannot be read: {error}") from error
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()} for row in rows
    ]


def _read_text(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            delimiter = "\t" if path.suffix.lower() == ".tsv" or ("\t" in head and "," not in head) else ","
            if "," not in head and ";" in head:
                delimiter = ";"
            rows = list(csv.DictReader(stream, delimiter=delimiter, strict=True))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"The table {path} cannot be read: {error}") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"Line {number} of {path} must have as many entries as the first line.")
    return [{str(key).strip(): (value.strip() or None) for key, value in row.items()} for row in rows]


def as_list(value: Any) -> list[Any]:
    """An entry that holds several: a list, a JSON list, or texts separated by ``;`` or ``|``; nothing is an empty list."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    text = str(value)
    if text.startswith("["):
        try:
            return list(json.loads(text))
        except ValueError as error:
            raise DataError(f"{text!r} is not a list: {error}.") from error
    return [part.strip() for part in text.replace("|", ";").split(";") if part.strip()]


def as_number(value: Any) -> float:
    """An entry as number."""
    try:
        return float({"true": 1, "false": 0}.get(str(value).lower(), value))
    except (TypeError, ValueError):
        raise DataError(f"{value!r} is not a number.") from None
