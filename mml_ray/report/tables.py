"""Tables for people: the scores of the folds, the plan, the runs of a project. They fit the terminal."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from rich.cells import cell_len

from mml_ray.metrics.summary import finite, mean_and_deviation

#: columns, where the output is not a terminal
WIDTH = 120
_GAP = "  "
#: a longer word (a path) may be broken, down to this width
_LONGEST = 24
#: columns of text give way down to this width
_NARROWEST = 8
_NUMBER = re.compile(r"[-+]?(\d[\d.,]*(e[-+]?\d+)?|inf|nan)|unknown")


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column names, and rows of text; ``footer`` rows stand below a line.

    The first ``labels`` columns say what a row is: they are repeated when a table is too wide and continues below.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    footer: Sequence[Sequence[str]] = field(default_factory=tuple)
    labels: int = 1

    def without_empty(self, column: str) -> Table:
        """The same table without a column that is empty in all rows."""
        place = list(self.columns).index(column)
        if any(row[place] for row in self.rows):
            return self
        kept = [[*row[:place], *row[place + 1 :]] for row in (self.columns, *self.rows)]
        return replace(self, columns=kept[0], rows=kept[1:])

    def print(self, stream: TextIO | None = None) -> None:
        """Draw it, as wide as the terminal at most (120 columns where there is none)."""
        out = stream or sys.stdout
        bold = out.isatty() and not os.environ.get("NO_COLOR")
        width = max(40, shutil.get_terminal_size((WIDTH, 24)).columns)
        print("\n".join(self.lines(width, bold=bold)), file=out, flush=True)

    def lines(self, width: int, *, bold: bool = False) -> list[str]:
        """The lines of the drawing, none wider than ``width`` unless it is absurdly small; numbers are right-aligned."""
        return [f"\033[1m{self.title}\033[0m" if bold else self.title, *_Drawing(self, width).lines(), ""]


class _Drawing:
    """One table at one width."""

    def __init__(self, table: Table, width: int) -> None:
        self.table, self.width = table, width
        everything = [table.columns, *table.rows, *table.footer]
        numbers = range(len(table.columns))
        self.natural = [max(cell_len(part) for row in everything for part in row[n].split("\n")) for n in numbers]
        self.words = [max(map(cell_len, (word for row in everything for word in row[n].split())), default=0) for n in numbers]
        filled = [[row[n] for row in table.rows if row[n]] for n in numbers]
        self.right = [bool(cells) and all(map(_NUMBER.fullmatch, cells)) for cells in filled]

    def lines(self) -> list[str]:
        """Block by block, each after an empty line."""
        return [line for chunk in self._chunks() for line in ("", *self._block(chunk))]

    def _chunks(self) -> list[list[int]]:
        """The columns side by side, in one block if they fit, else in several that each begin with the labels. Text gives way down to
        its longest word before that.
        """
        count = len(self.natural)
        labels, others = list(range(min(self.table.labels, count))), range(min(self.table.labels, count), count)
        least = [self.natural[n] if self.right[n] else min(self.words[n], _LONGEST) for n in range(count)]
        room = self.width - sum(least[n] + len(_GAP) for n in labels)
        chunks: list[list[int]] = [[]]
        for n in others:
            if chunks[-1] and sum(least[m] + len(_GAP) for m in [*chunks[-1], n]) > room:
                chunks.append([])
            chunks[-1].append(n)
        return [[*labels, *chunk] for chunk in chunks]

    def _block(self, chunk: Sequence[int]) -> list[str]:
        widths = self._fitted(chunk)
        rule = _GAP + "─" * (sum(widths) + len(_GAP) * (len(chunk) - 1))
        lines = [*self._row(self.table.columns, chunk, widths), rule]
        lines += [line for row in self.table.rows for line in self._row(row, chunk, widths)]
        if self.table.footer:
            lines += [rule, *(line for row in self.table.footer for line in self._row(row, chunk, widths))]
        return lines

    def _fitted(self, chunk: Sequence[int]) -> list[int]:
        """Natural widths; if they are too much, the widest columns of text give way: down to their longest word, and further if not
        even one column beside the labels fits.
        """
        widths = [self.natural[n] for n in chunk]
        text = [place for place, n in enumerate(chunk) if not self.right[n]]
        excess = sum(widths) - (self.width - len(_GAP) * len(chunk))
        words = [self.words[n] for n in chunk]
        for floor in (words, [min(word, _LONGEST) for word in words], [_NARROWEST] * len(chunk)):
            while excess > 0 and (able := [place for place in text if widths[place] > floor[place]]):
                widths[max(able, key=lambda place: widths[place])] -= 1
                excess -= 1
        return widths

    def _row(self, row: Sequence[str], chunk: Sequence[int], widths: Sequence[int]) -> list[str]:
        """One row as lines: what is too long continues in the next line of its column."""
        cells = [_folded(row[n], width) for n, width in zip(chunk, widths, strict=True)]
        lines = []
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            padded = [_padded(part, width, self.right[n]) for part, width, n in zip(parts, widths, chunk, strict=True)]
            lines.append((_GAP + _GAP.join(padded)).rstrip())
        return lines


def _folded(cell: str, width: int) -> list[str]:
    if cell_len(cell) <= width and "\n" not in cell:
        return [cell]
    wrapped = (textwrap.wrap(part, width, break_on_hyphens=False) or [""] for part in cell.split("\n"))
    return [line for lines in wrapped for line in lines]


def _padded(text: str, width: int, right: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def score_table(title: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Mapping[str, Any]]]) -> Table:
    """One row for each fold: its labels and its numbers; below, mean and sample standard deviation of every column.

    A column is there if any row has a number for it. Values that are not finite count neither for the mean nor for the deviation,
    which a single value does not have. A label that is the same in all of several rows moves to the title.
    """
    entries = [(list(names), dict(values)) for names, values in rows]
    columns = list(dict.fromkeys(key for _, values in entries for key, value in values.items() if _is_number(value)))
    kept, same = _varying(labels, [names for names, _ in entries])
    body = [[*(names[n] for n in kept), *(number(values.get(column)) for column in columns)] for names, values in entries]
    blank = [""] * (len(kept) - 1)
    means, deviations = ["mean", *blank], ["deviation", *blank]
    for column in columns:
        known = [values[column] for _, values in entries if _is_number(values.get(column))]
        mean, deviation = mean_and_deviation(finite(known))
        # a tenth is enough for the mean of counts
        show = "{:.1f}".format if all(isinstance(value, int) for value in known) else number
        means.append("" if mean is None else show(mean))
        deviations.append("" if deviation is None else show(deviation))
    headings = [*(labels[n] for n in kept), *(column.replace("_", "\n") for column in columns)]
    title = f"{title} ({', '.join(same)})" if same else title
    return Table(title, headings, body, (means, deviations) if len(body) > 1 else (), labels=len(kept))


def _varying(labels: Sequence[str], names: Sequence[Sequence[str]]) -> tuple[list[int], list[str]]:
    """The label columns that distinguish rows (at least the first), and the content of the others."""
    same = [n for n in range(1, len(labels)) if len(names) > 1 and len({row[n] for row in names}) == 1]
    return [n for n in range(len(labels)) if n not in same], [f"{labels[n]} {names[0][n]}".strip() for n in same]


def number(value: Any) -> str:
    """Four decimals for a number (six significant digits from 1000 on), nothing for ``None``."""
    if value is None:
        return ""
    if not _is_number(value) or isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
