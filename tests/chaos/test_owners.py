"""Two drivers on one run: one of them works, whoever sleeps, dies or wakes up late."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.chaos.lab import Lab, outcome
from tests.integration.harness import wait_for
from tests.patience import promised

INLINE = "sys.executor=inline"
CONTINUE = ("chaos", "proj=p", "continue=latest")
#: longer than the time between two beats
PATIENCE = "4"


def test_a_second_driver_is_refused_and_takes_over_at_once_when_the_first_is_killed(
    lab: Lab, undisturbed: dict[str, Any]
) -> None:
    gate = lab.go_wrong("fit_0", "gate")
    first, log = lab.fork_away(*lab.next(), INLINE)
    assert lab.gate("fit_0") == first
    before = lab.run.joinpath("journal.jsonl").read_bytes()
    for state in (signal.SIGCONT, signal.SIGSTOP):  # a process that is stopped lives
        os.kill(first, state)
        code, output = lab.fork(*CONTINUE)
        assert code == 2 and f"process {first}" in output and "alive" in output and "Traceback" not in output, output
    assert lab.run.joinpath("journal.jsonl").read_bytes() == before
    os.kill(first, signal.SIGKILL)
    lab.wait(first, log)
    gate.unlink()
    began = time.monotonic()
    code, output = lab.fork(*CONTINUE, timeout=promised(20))
    assert code == 0, output
    assert time.monotonic() - began < promised(15), "no waiting for an owner that is known to be dead"
    assert outcome(lab) == undisturbed


def test_many_drivers_at_once_after_the_death_of_the_first(lab: Lab, undisturbed: dict[str, Any]) -> None:
    lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS="commit.after_append=kill@3")
    started = [lab.fork_away(*CONTINUE) for _ in range(6)]
    ended = [lab.wait(*item) for item in started]
    worked = [output for _, output in ended if "] done " in output]
    assert len(worked) == 1, ended
    # one that looked before the run was finished, and got it when it was, ends it once more
    refused = [output for code, output in ended if code == 2 and "is in use by process" in output]
    assert len(refused) + sum(code == 0 for code, _ in ended) == len(ended), ended
    assert outcome(lab) == undisturbed


def test_a_driver_elsewhere_is_refused_while_the_first_one_beats(lab: Lab, undisturbed: dict[str, Any]) -> None:
    gate = lab.go_wrong("fit_0", "gate")
    first, log = lab.fork_away(*lab.next(), INLINE)
    lab.gate("fit_0")
    code, output = lab.fork(*CONTINUE, ELSEWHERE="20")
    assert code == 2 and f"process {first}" in output, output
    gate.unlink()
    assert lab.wait(first, log)[0] == 0
    assert outcome(lab) == undisturbed


#: where a driver falls asleep, to wake up when another one has finished its run
ASLEEP = ["driver.before_commit@4", "journal.before_append@12"]
ASLEEP_TOO = [
    "worker.before_command@4",
    "reserve.before_create@9",
    "reserve.after_create@9",
    "reserve.after_append@9",
    "worker.after_publish@4",
    "commit.before_append@5",
    "journal.after_write@12",
    "journal.after_fsync@8",
    "commit.after_append@4",
    "update.before_write@1",
    "start.after_append@4",
    "finish.before_remove@1",
    "finish.after_remove@1",
    "finish.after_folders@1",
]
_CHAOS = (pytest.mark.chaos, pytest.mark.slow)


@pytest.mark.parametrize("where", [*ASLEEP, *(pytest.param(where, marks=_CHAOS) for where in ASLEEP_TOO)])
def test_a_driver_that_wakes_up_late_writes_nothing_that_counts(where: str, lab: Lab, undisturbed: dict[str, Any]) -> None:
    name, _, hit = where.partition("@")
    first, log = lab.fork_away(*lab.next(), INLINE, MML_RAY_FAILPOINTS=f"{name}=delay:1@{hit}")
    wait_for(lambda: f"failpoint {name}" in log.read_text(), what=f"the driver at {name}")
    os.kill(first, signal.SIGSTOP)
    code, output = lab.fork(*CONTINUE, ELSEWHERE=PATIENCE)
    assert code == 0, output
    before = lab.run.joinpath("journal.jsonl").read_bytes()
    assert outcome(lab) == undisturbed
    os.kill(first, signal.SIGCONT)
    code, output = lab.wait(first, log)
    assert code == 1 and "taken over" in output, output
    assert lab.run.joinpath("journal.jsonl").read_bytes() == before
    assert outcome(lab) == undisturbed
