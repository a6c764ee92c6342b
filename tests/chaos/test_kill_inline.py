"""An inline run killed at any failpoint continues to the end of the undisturbed run, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from mml_ray.failpoints import FAILPOINTS
from tests.chaos.lab import Lab, again_and_again, outcome
from tests.integration.harness import commits, journal

INLINE = "sys.executor=inline"
#: reached in a worker of Ray only
ON_RAY = {"worker.start"}
#: reached only by a driver that continues a run
LATER = {"open.after_lease", "open.after_replay", "fail.after_append"}
#: before there is a configuration to continue with
BEFORE_ALL = {"create.after_folder", "create.after_lease", "create.after_journal"}
NAMES = sorted(FAILPOINTS - ON_RAY)


def _killed(lab: Lab, name: str, hit: int) -> bool:
    """Run until the hit-th time that ``name`` is reached; whether it was."""
    if name in LATER:
        code, output = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS="commit.before_append=kill@4")
        assert code == -signal.SIGKILL, output
    code, output = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS=f"{name}=kill@{hit}")
    assert code in (0, -signal.SIGKILL), output
    return code != 0


def test_there_are_enough_places_and_the_undisturbed_run_is_what_it_should_be(undisturbed: dict[str, Any]) -> None:
    assert len(NAMES) >= 30
    assert undisturbed["status"] == "finished" and len(undisturbed["commits"]) == 9
    assert sorted(undisturbed["files"]) == [
        "MADE/toy/made_0001.txt",
        "MADE/toy/made_0002.txt",
        "MADE/toy/made_0010.txt",
        "MADE/toy/made_0011.txt",
        "MODELS/toy/fold_0_0003.json",
        "MODELS/toy/fold_1_0004.json",
        "TABLES/table_0.txt",
        "TABLES/table_1.txt",
        "WEIGHTS/toy/weights_0003.txt",
        "WEIGHTS/toy/weights_0004.txt",
    ]
    assert not {"TEMP", "CHECKPOINTS"} & set(undisturbed["left"])


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_failpoint(name: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    lab = Lab.at(tmp_path)
    assert _killed(lab, name, 1), "an inline run never reaches it"
    if name in BEFORE_ALL:
        code, output = lab.fork("chaos", "proj=p", "continue=latest")
        assert code == 2 and "start a new" in output, output
    again_and_again(lab, INLINE)
    assert outcome(lab) == undisturbed


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    lab = Lab.at(tmp_path)
    again_and_again(lab, INLINE)
    before = lab.run.joinpath("journal.jsonl").read_bytes()
    code, output = lab.fork("chaos", "proj=p", "continue=latest")
    assert code == 0 and "nothing is left to do" in output
    assert lab.run.joinpath("journal.jsonl").read_bytes() == before


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_every_hit_of_a_failpoint(name: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    hit = 1
    while _killed(lab := Lab.at(tmp_path / str(hit)), name, hit):
        again_and_again(lab, INLINE)
        assert outcome(lab) == undisturbed, f"killed at hit {hit}"
        hit += 1
    assert hit > 1


@pytest.mark.parametrize("step", [3, 7])
def test_killed_again_and_again(step: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Every start is killed at a later append to the journal than the one before, until one gets through."""
    lab = Lab.at(tmp_path)
    for number in range(1, 60):
        code, output = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS=f"journal.after_write=kill@{number * step}")
        if code == 0:
            break
        assert code == -signal.SIGKILL, output
    assert number > 2 and outcome(lab) == undisturbed


def test_a_training_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    lab = Lab.at(tmp_path)
    code, output = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS="worker.after_command=kill@4")  # prepare, make, make, fit
    assert code == -signal.SIGKILL, output
    assert "resumed at step 3" in again_and_again(lab, INLINE)
    assert [line.split()[3] for line in lab.witnessed("fit 0 step")] == ["1", "2", "3"], "no step is done twice"
    assert outcome(lab) == undisturbed


def test_what_has_committed_is_not_run_again(tmp_path: Path) -> None:
    lab = Lab.at(tmp_path)
    lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS="driver.after_commit=kill@4")
    done = set(commits(lab.run)) - {"prepare_exp"}
    assert len(done) == 3
    again_and_again(lab, INLINE)
    attempts = [line["command"] for line in journal(lab.run) if line["op"] == "attempt_started"]
    assert all(attempts.count(key) == 1 for key in done)
