"""What is shown of a run: in a terminal and in plain lines, and how long it is said to take."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mml_ray.driver import progress
from mml_ray.driver.estimate import Estimate, TimeLeft, fraction
from mml_ray.driver.graph import Board, Entry, build_plan
from mml_ray.driver.progress import LiveDisplay, LogTail, PlainDisplay, create_display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; set it through its only item."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def _board(*, trains: int = 4, tests: int = 0) -> Board:
    entries = [Entry("train_fold", ["digits", fold], []) for fold in range(trains)]
    entries += [Entry("test_task", ["digits", fold], [fold]) for fold in range(tests)]
    return Board(build_plan(entries, scheduler="a.Scheduler"))


def _taken(board: Board, number: int) -> list[str]:
    taken = [board.take() for _ in range(number)]
    return [spec.key for spec in taken if spec is not None]


# -- time left ------------------------------------------------------------------------------------------------------------
def test_nothing_is_said_while_nothing_is_known() -> None:
    board = _board()
    assert Estimate().left(board, {}) is None


def test_history_counts_until_the_run_knows_better() -> None:
    board, estimate = _board(trains=3), Estimate({"train_fold": 100.0})
    (first,) = _taken(board, 1)
    assert estimate.left(board, {}) == TimeLeft(300.0, is_complete=True)
    board.commit(first)
    estimate.committed(board.commands[first], 10.0)
    assert estimate.left(board, {}) == TimeLeft(20.0, is_complete=True)


def test_a_running_command_tells_how_long_its_kind_takes(clock: list[float]) -> None:
    board, estimate = _board(trains=4, tests=4), Estimate()
    running = _taken(board, 2)
    estimate.observe(running)
    clock[0] += 10.0
    said = {key: {"epoch": 2, "epochs": 4, "step": 0, "steps": 10} for key in running}  # a quarter is done in 10 s: 40 s each
    assert estimate.left(board, said) == TimeLeft(
        (30.0 + 30.0 + 40.0 + 40.0) / 2, is_complete=False
    )  # the tests are still unknown


def test_the_longest_command_bounds_what_is_left(clock: list[float]) -> None:
    board, estimate = _board(trains=2), Estimate()
    running = _taken(board, 2)
    estimate.observe(running)
    clock[0] += 10.0
    left = estimate.left(board, {running[0]: {"step": 5, "steps": 10}, running[1]: {"step": 1, "steps": 10}})
    assert left == TimeLeft(90.0, is_complete=True)


def test_too_little_done_says_nothing(clock: list[float]) -> None:
    board, estimate = _board(trains=1), Estimate()
    running = _taken(board, 1)
    estimate.observe(running)
    clock[0] += 1.0
    assert estimate.left(board, {running[0]: {"step": 9, "steps": 10}}) is None
    clock[0] += 9.0
    assert estimate.left(board, {running[0]: {"step": 1, "steps": 1000}}) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"epoch": 3, "epochs": 10, "step": 30, "steps": 60}, (2.5, 10.0)),
        ({"epoch": 12, "epochs": 10}, (10.0, 10.0)),
        ({"step": 7, "steps": 9}, (7.0, 9.0)),
        ({"state": "running"}, (0.0, 0.0)),
    ],
)
def test_fraction(said: dict[str, Any], expected: tuple[float, float]) -> None:
    assert fraction(said) == expected


# -- plain lines ----------------------------------------------------------------------------------------------------------
def test_plain_lines_of_a_run(tmp_path: Path, clock: list[float]) -> None:
    out, board = io.StringIO(), _board(trains=2, tests=1)
    display = PlainDisplay(out, tail=LogTail(tmp_path), every=5.0)
    display.begin(board)
    first, second = _taken(board, 2)
    for key in (first, second):
        display.event(board.commands[key], "submitted")
    (tmp_path / f"{first}.log").write_text("--- attempt 1, process 7\nhello\nhalf a li")
    for step in (10, 20):  # estimate once, not for every step
        clock[0] += 10.0
        display.tick(board, {first: {"epoch": 1, "epochs": 2, "step": step, "steps": 40, "loss": 0.51234}})
    display.event(board.commands[first], "committed", "20.1 s")
    display.event(board.commands[second], "retried", "worker died (retry 1 of 3 in 1 s)")
    display.event(board.commands[second], "submitted", "attempt 2")
    display.event(board.commands[second], "failed", "ValueError: " + "x" * 500)
    lines = out.getvalue().splitlines()
    assert lines[0] == "  train_fold digits 0 | hello"
    assert re.fullmatch(r" +train_fold digits 0: epoch 1/2, step 10/40, loss 0\.5123", lines[1])
    assert lines[2] == "[1/3] done    train_fold digits 0  (20.1 s)"
    assert lines[3] == "[1/3] again   train_fold digits 1  (worker died (retry 1 of 3 in 1 s))"
    assert lines[4] == "[1/3] start   train_fold digits 1  (attempt 2)"
    assert lines[5].startswith("[1/3] FAILED  train_fold digits 1  (ValueError:") and len(lines[5]) < 220
    assert len(lines) == 6


def test_plain_lines_say_once_a_minute_what_runs(clock: list[float]) -> None:
    out, board = io.StringIO(), _board(trains=2)
    display = PlainDisplay(out)
    display.begin(board)
    copying, training = _taken(board, 2)
    for second in range(120):
        epochs = {"epoch": 2, "epochs": 9, "step": second, "steps": 900}
        display.tick(board, {copying: {"step": second, "steps": 900, "text": "images"}, training: epochs})
        clock[0] += 1.0
    steps = [int(found) for found in re.findall(r"digits 0: step (\d+)/900, images", out.getvalue())]
    assert steps == [10, 70]
    assert re.findall(r"digits 1: epoch 2/9, step (\d+)/900", out.getvalue()) == ["0", "60"]


def test_a_continued_run_says_what_is_not_run_again() -> None:
    out, plan = io.StringIO(), _board(trains=3).plan
    PlainDisplay(out).begin(Board(plan, [plan.commands[0].key]))
    assert out.getvalue() == "1 of 3 commands are committed already and are not run again.\n"


def test_lines_of_earlier_attempts_are_not_repeated(tmp_path: Path) -> None:
    tail, log = LogTail(tmp_path), tmp_path / "key.log"
    log.write_text("--- attempt 1\nold\n")
    tail.start("key")
    with log.open("a") as file:
        file.write("--- attempt 2\nnew\n\nhalf")
    assert tail.read("key") == ["new"]
    with log.open("a") as file:
        file.write(" whole\n")
    assert tail.read("key") == ["half whole"] and tail.read("key") == []


# -- the live display -------------------------------------------------------------------------------------------------------
def _screen(width: int) -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, force_terminal=True, width=width, height=24, color_system="standard", legacy_windows=False)


def _drawn(display: LiveDisplay, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(display._draw())
    return re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_drawing_has_a_bar_a_count_and_a_row_for_each_running_command(width: int) -> None:
    _, console = _screen(width)
    board = _board(trains=5, tests=5)
    display = LiveDisplay(console=console, history={"train_fold": 60.0, "test_task": 6.0})
    display.begin(board)
    running = _taken(board, 4)
    board.commit(running[0])
    display.event(board.commands[running[0]], "committed", "60.0 s")
    said: dict[str, dict[str, Any]] = {
        running[1]: {"epoch": 3, "epochs": 10, "step": 40, "steps": 60, "loss": 0.21345},
        running[2]: {"state": "running", "pid": 7},
        running[0]: {"epoch": 10, "epochs": 10},
    }
    display.tick(board, said)
    lines = _drawn(display, console)
    assert all(len(line) <= width for line in lines)
    assert re.match(r"1/10 commands  ━+  0:00 so far, about \d+:\d\d left$", lines[0])
    assert lines[1] == "train_fold 1/5, test_task 0/5"
    assert re.match(r"train_fold digits 1  ━+  epoch 3/10, step 40/60  loss 0\.2135$", lines[2].rstrip())
    assert re.match(r"train_fold digits 2  ━+  running$", lines[3].rstrip())
    assert len(lines) == 4, "a committed command has no row"


def test_many_running_commands_do_not_fill_the_screen() -> None:
    _, console = _screen(100)
    board = _board(trains=40)
    display = LiveDisplay(console=console)
    display.begin(board)
    display.tick(board, {key: {"state": "running"} for key in _taken(board, 40)})
    lines = _drawn(display, console)
    assert len(lines) == 2 + progress._ROWS + 1 and lines[-1].strip() == "and 24 more"


def test_what_failed_is_counted() -> None:
    board = _board(trains=2, tests=2)
    first, _ = _taken(board, 2)
    board.fail(first)
    assert progress.counts_by_command(board) == "train_fold 0/2 (1 failed or skipped), test_task 0/2 (1 failed or skipped)"


def test_what_commands_print_goes_through_the_display_once() -> None:
    """A command's output is written to its log and to ``sys.stdout``, which the live display has taken over."""
    out, console = _screen(80)

    class Tee(io.TextIOBase):
        def __init__(self, terminal: Any) -> None:
            self._terminal = terminal

        def write(self, text: str) -> int:
            return int(self._terminal.write(text) or 0)

        def flush(self) -> None:
            self._terminal.flush()

    import sys

    with contextlib.redirect_stdout(out):
        display = LiveDisplay()
        display._console = console
        with display, contextlib.redirect_stdout(Tee(sys.stdout)):
            display.begin(_board())
            print("said by a command")
            display.note("said by the driver [1/2] \033[1mbold\033[0m")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert text.count("said by a command") == 1 and text.count("said by the driver [1/2] bold") == 1


@pytest.mark.parametrize(("terminal", "term", "live"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)])
def test_only_a_terminal_that_can_draw_gets_the_live_display(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, live: bool
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", term)
    assert isinstance(create_display(tail=None), LiveDisplay) is live
    assert not isinstance(create_display(tail=None, live=False), LiveDisplay)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3661, "1:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert progress.format_clock(seconds) == text
