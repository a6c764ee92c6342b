"""What a person sees: in a terminal, in a pipe, and with ``--plan`` instead of a run."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_ray import cli
from mml_ray.errors import DataError
from tests.integration.harness import Place
from tests.patience import GUARD


@pytest.fixture
def create(tmp_path: Path) -> tuple[Place, tuple[str, ...]]:
    """A place, and the arguments that create a task of twenty pictures in it."""
    for name in ("cat", "dog"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for index in range(10):
            image = np.random.default_rng(index).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{index}.png"), image)
    arguments = ("create", "tasks=from_folder", f"source.path={tmp_path / 'pets'}", "source.name=pets", "sys.executor=inline")
    return Place(tmp_path / "data", tmp_path / "results"), arguments


def _in_terminal(place: Place, *arguments: str, columns: int = 80) -> tuple[int, str]:
    """Exit code, and what a terminal of this width was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "mml_ray", *arguments],
        env=place.environment(TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    received = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not data:
            break
        received += data
    os.close(ours)
    return process.wait(timeout=GUARD), received.decode()


def test_in_a_terminal_the_live_display_comes_and_goes(create: tuple[Place, tuple[str, ...]]) -> None:
    place, arguments = create
    code, sent = _in_terminal(place, *arguments)
    assert code == 0, sent
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1, "the cursor is hidden once and shown again"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert "━━━━" in plain and "create_dataset 1/1, create_task" in plain
    assert len(re.findall(r"\[2/2\] done    create_task pets  \(\d+\.\d s\)", plain)) == 1
    assert plain.rstrip().splitlines()[-1].startswith("Finished: 2 of 2 commands committed") or "Run folder" in plain
    code, sent = _in_terminal(place, "info", "mode.subroutines=[tasks]", "sys.executor=inline", columns=120)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert code == 0 and len(re.findall(r"pets +classification +2 +20 .*24x24", plain)) == 1, plain


def test_in_a_pipe_there_are_plain_lines_only(create: tuple[Place, tuple[str, ...]]) -> None:
    place, arguments = create
    code, output = place.call(*arguments)
    assert code == 0 and "\x1b" not in output and "━" not in output and "\r" not in output
    assert "[2/2] done    create_task pets" in output
    log = next(place.run_dir("default").glob("logs/create_task--pets*.log")).read_text()
    assert (
        log.startswith("--- attempt 1, process ") and log.count("Task pets is ready") == output.count("Task pets is ready") == 1
    )
    code, output = place.call(*arguments)
    assert code == 0 and "Task 'pets' already exists" in output and "\x1b" not in output


def test_interrupted_before_its_first_command_a_run_says_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    places = [f"data_dir={tmp_path / 'data'}", f"out_dir={tmp_path / 'results'}"]
    with monkeypatch.context() as patched:
        patched.setattr("mml_ray.schedulers.info.InfoScheduler.after_preparation_hook", interrupted)
        assert cli.main(["info", "sys.executor=inline", *places]) == 130
    (line,) = re.findall(r"^Continue with: mml-ray (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main([*shlex.split(line), *places]) == 0
    assert "3 of 3 commands committed" in capsys.readouterr().out


def test_a_preparation_that_fails_is_reported_like_any_command_and_the_run_can_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: object) -> None:
        raise DataError("The test wants it.")

    places = [f"data_dir={tmp_path / 'data'}", f"out_dir={tmp_path / 'results'}"]
    with monkeypatch.context() as patched:
        patched.setattr("mml_ray.schedulers.info.InfoScheduler.after_preparation_hook", failing)
        assert cli.main(["info", "sys.executor=inline", *places]) == 2
    output = capsys.readouterr().out
    assert "Command prepare_exp failed:\nThe test wants it.\nIts log: " in output and "0 of 3 commands committed" in output
    (line,) = re.findall(r"^Continue with: mml-ray (.*)$", output, re.MULTILINE)
    assert cli.main([*shlex.split(line), *places]) == 0


# -- the plan instead of a run --------------------------------------------------------------------------------------------------
TRAIN = ("train", "tasks=digits", "mode.subroutines=[train,test]")


@pytest.fixture
def planning(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results root of calls in this process."""
    monkeypatch.setenv("MML_DATA_PATH", str(digits))
    monkeypatch.setenv("MML_RESULTS_PATH", str(tmp_path / "results"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def test_a_plan_for_people_starts_nothing_and_says_what_it_does_not_know(
    planning: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*TRAIN, "--plan", "resources.train_fold.num_cpus=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    rows = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert [row[:4] for row in rows[:3]] == [[str(n + 1), "train_fold", f"digits+nested?{n}", "0"] for n in range(3)]
    assert [" ".join(row[4:6]) for row in rows] == [f"fold {n}" for n in range(3)] * 2, "the unit"
    assert [row[6] for row in rows] == ["-", "-", "-", "1", "2", "3"], "a test needs its own training only"
    assert {row[-2] for row in rows} == {"new"} and {row[-1] for row in rows} == {"unknown"}
    assert (
        "6 command(s) to run" in lines[-1]
        and "Unknown, since there is no earlier run: how long train_fold, test_task" in lines[-1]
    )
    assert not planning.exists()


def test_a_plan_for_programs_is_all_that_is_printed(planning: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*TRAIN, "--plan=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["mode"] == "train" and len(plan["commands"]) == 6 and plan["fingerprint"]
    assert {item["state"] for item in plan["commands"]} == {"new"}
    assert plan["commands"][3]["needs"] == [plan["commands"][0]["key"]] and plan["commands"][0]["seconds"] is None
    assert [item["unit"] for item in plan["commands"]] == [f"fold {n}" for n in range(3)] * 2


def test_a_plan_knows_what_earlier_runs_took_and_what_is_committed(planning: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "sys.executor=inline"]) == 0
    capsys.readouterr()
    assert cli.main(["info", "--plan"]) == 0
    text = capsys.readouterr().out
    assert (
        "unknown" not in text.lower()
        and "3 command(s) to run, up to 1 side by side. By earlier runs of this project: about" in text
    )
    (journal,) = planning.rglob("journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    second = [n for n, line in enumerate(lines) if b'"op":"committed"' in line][1]  # the preparation, then show_tasks
    journal.write_bytes(b"".join(lines[: second + 1]))
    assert cli.main(["info", "continue=latest", "--plan=json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [item["state"] for item in plan["commands"]] == ["committed", "new", "new"]
    assert plan["estimate"].startswith("2 command(s) to run")
