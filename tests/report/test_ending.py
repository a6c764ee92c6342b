"""The last words of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mml_ray.driver.command import Outcome
from mml_ray.driver.executor import RunSummary
from mml_ray.report.ending import format_duration, print_ending
from mml_ray.report.tables import Table


def _failed(command: str, message: str, *, traceback: str = "", user: bool = False) -> Outcome:
    error = {"type": "SomeError", "message": message, "traceback": traceback, **({"user": "yes"} if user else {})}
    return Outcome(command, 1, "failed", error=error)


def _ending(summary: RunSummary, *tables: Table) -> str:
    out = io.StringIO()
    print_ending(
        summary, tables, run_dir=Path("/results/proj/runs/day/time"), again="mml-ray proj=proj continue=day/time", stream=out
    )
    return out.getvalue()


def test_all_committed() -> None:
    summary = RunSummary(committed=3, total=3, seconds=65.2, return_value=0.125)
    text = _ending(summary, Table("Test", ["fold", "loss"], [["0", "0.5"]]))
    assert text.startswith("\nTest\n")
    assert (
        "Finished: 3 of 3 commands committed, in 1:05 min. Run folder: /results/proj/runs/day/time\nReturn value: 0.125\n" in text
    )
    assert "Continue with" not in text and summary.exit_code == 0


def test_folds_that_failed_alike_are_told_once_with_their_logs() -> None:
    failures = [_failed(f"train_fold--{n}", "boom", traceback="Traceback\n  boom") for n in range(7)]
    failures.append(_failed("test_task--0", "bang", traceback="Traceback\n  bang"))
    summary = RunSummary(committed=1, total=12, failures={outcome.command: outcome for outcome in failures}, skipped=["a", "b"])
    text = _ending(summary)
    assert text.count("Traceback") == 2 and "train_fold--0 and 6 more like it failed" in text
    assert text.count("/logs/train_fold--") == 5 and "/results/proj/runs/day/time/logs/test_task--0.log" in text
    assert "2 command(s) were skipped" in text and "Not finished: 1 of 12" in text
    assert text.endswith("Continue with: mml-ray proj=proj continue=day/time\n") and summary.exit_code == 1


def test_a_mistake_of_the_user_shows_no_traceback_and_is_exit_code_2() -> None:
    outcome = _failed(
        "create_task--pets", "The image 7.png is cut off.", traceback="Traceback (most recent call last)", user=True
    )
    summary = RunSummary(total=1, failures={outcome.command: outcome})
    text = _ending(summary)
    assert "Traceback" not in text and text.count("The image 7.png is cut off.") == 1 and summary.exit_code == 2
    other = _failed("b", "boom", traceback="Traceback")
    assert RunSummary(total=2, failures={"a": outcome, "b": other}).exit_code == 1, "not all of it is the user's"


def test_an_attempt_that_was_lost_has_no_traceback_to_show() -> None:
    outcome = Outcome(
        "train_fold--0", 4, "oom", error={"type": "oom", "message": "out of memory; granted: 2 GiB", "traceback": ""}
    )
    assert "oom: out of memory; granted: 2 GiB" in _ending(RunSummary(total=1, failures={outcome.command: outcome}))


def test_interrupted() -> None:
    summary = RunSummary(committed=1, total=2, interrupted=True)
    text = _ending(summary)
    assert "Interrupted: 1 of 2" in text and "Continue with" in text and summary.exit_code == 130


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1:01 min"), (7261, "2:01:01 h")])
def test_took(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
