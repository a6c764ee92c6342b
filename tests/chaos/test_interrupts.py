"""Ctrl-C, Ctrl-C again, SIGTERM, and a job controller that starts the same command line again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from typing import Any

import psutil
import pytest

from tests.chaos.lab import Lab, again_and_again, outcome
from tests.chaos.scheduler import ChaosScheduler
from tests.integration.harness import commits, family, journal, survivors, wait_for
from tests.patience import GUARD, promised

INLINE = "sys.executor=inline"
SLOW = ("mode.steps=8", "mode.seconds=0.3")
CONTINUE = ("chaos", "proj=p", "continue=latest")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lab = Lab.at(tmp_path_factory.mktemp("undisturbed"))
    code, output = lab.fork(*lab.next(), INLINE, "mode.steps=8")
    assert code == 0, output
    return outcome(lab)


def _training(lab: Lab, steps: int = 2) -> None:
    wait_for(lambda: len(lab.witnessed("fit 0 step")) >= steps, what="the training")


def _steps(lab: Lab) -> list[int]:
    return [int(line.split()[3]) for line in lab.witnessed("fit 0 step")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_once_the_training_stops_behind_its_checkpoint(
    number: signal.Signals, lab: Lab, undisturbed: dict[str, Any]
) -> None:
    pid, log = lab.fork_away(*lab.next(), INLINE, *SLOW)
    _training(lab)
    os.kill(pid, number)
    code, output = lab.wait(pid, log)
    assert code == 130 and "Traceback" not in output, output
    assert "checkpoint" in output
    done = len(_steps(lab))
    assert 2 <= done < 8
    assert [line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"] == ["interrupted"]
    (line,) = re.findall("^Continue with: mml-ray (.*)$", output, re.M)
    code, output = lab.fork(*shlex.split(line))
    assert code == 0 and f"resumed at step {done}" in output, output
    assert _steps(lab) == list(range(1, 9)), "no step is lost, none is done twice"
    assert outcome(lab)["files"] == undisturbed["files"]


def test_asked_twice_the_run_ends_at_once(lab: Lab, undisturbed: dict[str, Any]) -> None:
    gate = lab.go_wrong("fit_0", "gate")  # a command that does not look whether it is to stop
    pid, log = lab.fork_away(*lab.next(), INLINE, "mode.steps=8")
    lab.gate("fit_0")
    os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "once is not enough for a command that does not listen"
    os.kill(pid, signal.SIGINT)
    code, output = lab.wait(pid, log, timeout=promised(10))
    assert code == 130 and "Traceback" not in output, output
    gate.unlink()
    again_and_again(lab)
    assert outcome(lab)["files"] == undisturbed["files"]


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_on_ray(number: signal.Signals, lab: Lab, undisturbed: dict[str, Any]) -> None:
    """A terminal sends Ctrl-C to the whole group of processes; SLURM, systemd and ``timeout`` send SIGTERM, also to what is not in the
    group. Once: both trainings stop behind a checkpoint, and nobody is left."""
    process = lab.start(*lab.next(), "sys.executor=ray", "sys.num_cpus=2", *SLOW)
    _training(lab)
    everybody = family(process)
    os.killpg(process.pid, number)
    if number == signal.SIGTERM:
        for one in everybody:
            one.send_signal(number)
    output = _end(process)
    assert process.returncode == 130 and "Traceback" not in output, output
    wait_for(lambda: not survivors(everybody), seconds=promised(10), what=f"the end of {survivors(everybody)}")
    reasons = {line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"}
    assert reasons == {"interrupted"}
    done = len(_steps(lab))
    code, output = lab.fork(*CONTINUE, "sys.executor=inline")
    assert code == 0 and f"resumed at step {done}" in output, output
    assert _steps(lab) == list(range(1, 9))
    assert outcome(lab)["files"] == undisturbed["files"]


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_while_ray_starts_is_an_interrupt_and_leaves_nobody(lab: Lab) -> None:
    process = lab.start(*lab.next(), "sys.executor=ray", "sys.num_cpus=2")
    wait_for(lambda: any(one.name() == "gcs_server" for one in family(process)), what="the start of Ray")
    everybody = family(process)
    process.send_signal(signal.SIGTERM)
    output = _end(process)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert re.search(r"^Continue with: mml-ray .*continue=", output, re.M), output
    assert not survivors(everybody)


@pytest.mark.ray
def test_ctrl_c_twice_on_ray_ends_at_once(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    gates = [lab.go_wrong("fit_0", "gate"), lab.go_wrong("fit_1", "gate")]
    process = lab.start(*lab.next(), "sys.executor=ray", f"sys.address={ray_head}", "mode.steps=8")
    workers = [psutil.Process(lab.gate(gate.name)) for gate in gates]
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output = _end(process, timeout=promised(20))
    assert process.returncode == 130 and "Traceback" not in output, output
    wait_for(lambda: not survivors(workers), seconds=promised(10), what=f"the end of {survivors(workers)}")
    for gate in gates:
        gate.unlink()
    again_and_again(lab, "sys.executor=inline", "sys.address=null")
    assert outcome(lab)["files"] == undisturbed["files"]


class Framed(ChaosScheduler):
    """Its hooks, which run in the driver, go wrong as ``hook_prepare`` and ``hook_finish`` say."""

    def after_preparation_hook(self) -> None:
        self._trouble("hook", "prepare")

    def before_finishing_hook(self) -> None:
        self._trouble("hook", "finish")


@pytest.mark.ray
@pytest.mark.parametrize("hook", ["hook_prepare", "hook_finish"])
def test_ctrl_c_twice_ends_a_hook_that_runs_in_the_driver_of_ray(hook: str, lab: Lab, ray_head: str) -> None:
    gate = lab.go_wrong(hook, "gate")
    mode = "mode.scheduler._target_=tests.chaos.test_interrupts.Framed"
    process = lab.start(*lab.next(), mode, "sys.executor=ray", f"sys.address={ray_head}")
    assert lab.gate(hook) == process.pid
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    output = _end(process, timeout=promised(20))
    assert process.returncode == 130 and "Traceback" not in output, output
    assert re.search(r"^Continue with: mml-ray .*continue=", output, re.M), output
    gate.unlink()
    code, output = lab.fork(*CONTINUE, "sys.executor=inline", "sys.address=null")
    assert code == 0, output


def _end(process: subprocess.Popen[str], timeout: float = GUARD) -> str:
    return process.communicate(timeout=timeout)[0]


def test_auto_continue_again_and_again(lab: Lab, undisturbed: dict[str, Any]) -> None:
    """A job controller may start the very same command line until it ends with 0; then it starts a new run."""
    line = ("chaos", "proj=p", "--auto-continue", INLINE, "mode.steps=8")
    for hit in (2, 3):
        code, output = lab.fork(*line, MML_RAY_FAILPOINTS=f"commit.after_append=kill@{hit}")
        assert code == -signal.SIGKILL, output
    assert len(commits(lab.run)) == 5
    code, output = lab.fork(*line)
    assert code == 0, output
    assert len(list((lab.results / "p" / "runs").glob("*/*"))) == 1
    assert outcome(lab)["files"] == undisturbed["files"]
    code, output = lab.fork(
        "chaos", "proj=p", "--auto-continue", INLINE, "mode.steps=9", MML_RAY_FAILPOINTS="commit.after_append=kill@2"
    )
    assert len(list((lab.results / "p" / "runs").glob("*/*"))) == 2, "another configuration is another run"
    code, output = lab.fork(*line)
    assert code == 0 and len(list((lab.results / "p" / "runs").glob("*/*"))) == 3, "a finished run is not continued"
