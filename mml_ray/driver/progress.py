"""What the user sees of a run while it runs: one live display in a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from mml_ray.driver.command import CommandSpec
from mml_ray.driver.environment import FAILED
from mml_ray.driver.estimate import Estimate, TimeLeft, fraction
from mml_ray.driver.graph import Board

#: at most this many running commands are drawn
_ROWS = 16
#: seconds after which plain lines say where a command without epochs, or with long ones, stands: at first, and from then on
_FIRST, _AGAIN = 10.0, 60.0
_MARKS = {"committed": "done", "failed": "FAILED", "retried": "again", "interrupted": "stopped", "submitted": "start"}
_MARK_COLORS = {"committed": "32", "failed": "1;31", "retried": "33", "interrupted": "33"}
Progress = Mapping[str, Mapping[str, Any]]


class LogTail:
    """Prints what running commands write to their logs, each line with the command's name before it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}

    def start(self, key: str) -> None:
        """Follow the log from its present end: the lines so far belong to earlier attempts."""
        path = self._folder / f"{key}.log"
        self._offsets[key] = path.stat().st_size if path.exists() else 0

    def read(self, key: str) -> list[str]:
        """Return the whole lines that came since the last call."""
        path = self._folder / f"{key}.log"
        offset = self._offsets.get(key)
        if offset is None or not path.exists() or path.stat().st_size <= offset:
            return []
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(1 << 20)
        end = data.rfind(b"\n") + 1
        self._offsets[key] = offset + end
        lines = data[:end].decode(errors="replace").splitlines()
        failed = next((number for number, line in enumerate(lines) if line.startswith(FAILED)), None)
        if failed is not None:  # the rest is shown once, at the end of the run
            self.stop(key)
        return [line for line in lines[:failed] if line.strip() and not line.startswith("--- attempt")]

    def stop(self, key: str) -> None:
        """Follow the log no longer: the command ended."""
        self._offsets.pop(key, None)


class PlainDisplay:
    """One line for each event, and for each running command one when its epoch changes (at most every few seconds) and one a minute
    otherwise.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        tail: LogTail | None = None,
        every: float = 5.0,
        history: Mapping[str, float] | None = None,
    ) -> None:
        self._stream = stream
        self._tail, self._every = tail, every
        self._estimate = Estimate(history)
        self._done = 0
        self._total = 0
        self._last_shown: dict[str, tuple[Any, float]] = {}

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, board: Board) -> None:
        """Show that the plan is about to run."""
        self._total = len(board.worker_commands)
        self._done = board.count()["committed"]
        if self._done:
            self.note(f"{self._done} of {self._total} commands are committed already and are not run again.")

    def event(self, spec: CommandSpec, state: str, detail: str = "") -> None:
        """Show that a command was submitted, committed (``detail``: ``<seconds> s``), retried, interrupted, or failed."""
        if state == "committed":
            self._done += 1
            self._estimate.committed(spec, float(detail.removesuffix(" s")))
        if self._tail is not None:
            self._drain(spec.key, spec.title)
            (self._tail.start if state == "submitted" else self._tail.stop)(spec.key)
        if state == "submitted" and not detail:
            return
        shown = textwrap.shorten(detail, 160, placeholder=" ...")  # a failure is shown in full at the end
        self.note(f"{self._count()} {self._mark(state)} {spec.title}" + (f"  ({shown})" if shown else ""))

    def tick(self, board: Board, progress: Progress) -> None:
        """Show where the running commands stand."""
        now = time.monotonic()
        running = self._running(board, progress)
        for key, progress in running.items():
            spec = board.commands[key]
            self._drain(key, spec.title)
            before, when = self._last_shown.setdefault(key, (None, now - _AGAIN + _FIRST))
            is_new = progress.get("epoch") not in (None, before) and (before is None or now - when > self._every)
            if is_new or now - when >= _AGAIN:
                self._last_shown[key] = (progress.get("epoch"), now)
                eta = format_eta(self._estimate.left(board, running))
                suffix = f"  ({eta} in all)" if eta else ""
                self.note(f"{' ' * len(self._count())}         {spec.title}: {describe(progress)}{suffix}")

    def note(self, text: str) -> None:
        """Show a line."""
        print(text, file=self._stream or sys.stdout, flush=True)

    def end(self) -> None:
        """Show nothing more: text is printed as it is from here on. Harmless when repeated."""

    def _running(self, board: Board, progress: Progress) -> Progress:
        """Progress reports of running commands."""
        running = {key: reported for key, reported in progress.items() if board.state.get(key) == "running"}
        self._estimate.observe(running)
        return running

    def _count(self) -> str:
        return f"[{self._done:>{len(str(self._total))}}/{self._total}]"

    def _mark(self, state: str) -> str:
        return f"{_MARKS[state]:<7}"

    def _drain(self, key: str, title: str) -> None:
        if self._tail is not None:
            for line in self._tail.read(key):
                self.note(f"  {title} | {line}")


class LiveDisplay(PlainDisplay):
    """Drawn four times a second below the lines of events: a bar for the run, how many commands of each name are done, and a row for each
    running command with its bar, epoch and loss.
    """

    def __init__(self, *, tail: LogTail | None = None, history: Mapping[str, float] | None = None, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(tail=tail, history=history)
        self._board: Board | None = None
        self._progress: Progress = {}
        self._began = time.monotonic()
        # bound to this very stream: commands replace sys.stdout by one that writes through this display
        self._console = console or Console(file=sys.stdout)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True, get_renderable=self._draw)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def begin(self, board: Board) -> None:
        """Show that the plan is about to run."""
        super().begin(board)
        self._began = time.monotonic()
        self._board = board

    def tick(self, board: Board, progress: Progress) -> None:
        """Show where the running commands stand."""
        self._board, self._progress = board, self._running(board, progress)
        for key in self._progress:
            self._drain(key, board.commands[key].title)

    def end(self) -> None:
        """Remove the display; the lines of events stay."""
        self._live.stop()

    def _mark(self, state: str) -> str:
        color = _MARK_COLORS.get(state)
        return f"\033[{color}m{super()._mark(state)}\033[0m" if color and self._console.color_system else super()._mark(state)

    def note(self, text: str) -> None:
        """Show a line above the drawing."""
        from rich.text import Text

        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        board, elapsed = self._board, format_clock(time.monotonic() - self._began)
        if board is None:
            return Text(f"starting, {elapsed} so far", style="dim")
        running = {key: reported for key, reported in self._progress.items() if board.state[key] == "running"}
        eta = format_eta(self._estimate.left(board, running))
        head = Text.assemble(
            (f"{self._done}/{self._total} commands  ", "bold"),
            bar(self._done, self._total),
            f"  {elapsed} so far",
            eta and f", {eta}",
        )
        return Group(head, Text(counts_by_command(board), style="dim"), self._rows(board, running))

    def _rows(self, board: Board, running: Progress) -> Any:
        from rich.table import Table
        from rich.text import Text

        width = 16 if self._console.width >= 100 else 12
        table = Table.grid(padding=(0, 2), expand=False)
        for least in (None, width, None, None):
            table.add_column(no_wrap=True, overflow="ellipsis", min_width=least)
        for key, progress in list(running.items())[:_ROWS]:
            where, value = columns(progress)
            table.add_row(Text(board.commands[key].title), bar(*fraction(progress), width=width), Text(where), Text(value))
        if len(running) > _ROWS:
            table.add_row(Text(f"and {len(running) - _ROWS} more", style="dim"))
        if not running and board.count()["running"]:
            table.add_row(Text("starting", style="dim"))
        return table


def create_display(*, tail: LogTail | None, live: bool | None = None, history: Mapping[str, float] | None = None) -> PlainDisplay:
    """Create the live display in a terminal that can draw it, else plain lines; ``live`` decides instead if given."""
    able = sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    if able if live is None else live:
        return LiveDisplay(tail=tail, history=history)
    return PlainDisplay(tail=tail, history=history)


def columns(progress: Mapping[str, Any]) -> tuple[str, str]:
    """Format what a command reported: ``epoch 3/10, step 40/60`` and ``loss 0.213`` (or its own text)."""
    parts = []
    if progress.get("epoch") is not None:
        parts.append(f"epoch {progress['epoch']}" + (f"/{progress['epochs']}" if progress.get("epochs") else ""))
    if progress.get("step") is not None and progress.get("steps"):
        parts.append(f"step {progress['step']}/{progress['steps']}")
    values = [f"loss {progress['loss']:.4g}"] if isinstance(progress.get("loss"), int | float) else []
    if progress.get("text"):
        values.append(str(progress["text"]))
    return ", ".join(parts) or ("" if values else str(progress.get("state", "running"))), ", ".join(values)


def describe(progress: Mapping[str, Any]) -> str:
    """Format what a command reported: ``epoch 3/10, step 40/60, loss 0.213``."""
    return ", ".join(part for part in columns(progress) if part)


def counts_by_command(board: Board) -> str:
    """``train_fold 2/5, predict_fold 1/10``: by command name, how many have committed, and how many failed."""
    count: dict[str, list[int]] = {}
    for command in board.worker_commands:
        done, failed, total = count.get(command.name, (0, 0, 0))
        state = board.state[command.key]
        count[command.name] = [done + (state == "committed"), failed + (state in ("failed", "skipped")), total + 1]
    return ", ".join(
        f"{name} {done}/{total}" + (f" ({failed} failed or skipped)" if failed else "")
        for name, (done, failed, total) in count.items()
    )


def format_eta(left: TimeLeft | None) -> str:
    """``about 1:10 left``, or ``more than 1:10 left`` where not everything is known; empty where nothing is, or less than a second."""
    if left is None or left.seconds < 1:
        return ""
    return f"{'about' if left.is_complete else 'more than'} {format_clock(left.seconds)} left"


def bar(done: float, total: float, width: int = 24) -> Any:
    """Draw a line of ``width`` characters, filled by ``done / total``."""
    from rich.text import Text

    filled = round(width * min(1.0, done / total)) if total else 0
    return Text.assemble(("━" * filled, "green"), ("━" * (width - filled), "bright_black"))


def format_clock(seconds: float) -> str:
    """``1:05``, or ``1:01:05``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
