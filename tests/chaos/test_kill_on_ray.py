"""A run on Ray whose driver, actor or workers are killed ends as the undisturbed inline run, bit for bit."""

from __future__ import annotations

import re
import shlex
import signal
import time
from typing import Any

import psutil
import pytest

from mml_ray.failpoints import FAILPOINTS
from tests.chaos.lab import Lab, again_and_again, outcome
from tests.integration.harness import journal, wait_for
from tests.patience import GUARD, promised

pytestmark = pytest.mark.ray
#: where the actor of an undisturbed run comes by
ACTOR = sorted(
    name
    for name in FAILPOINTS
    if name.split(".")[0] in ("lease", "open", "journal", "start", "reserve", "marker", "commit", "update", "clean", "finish")
) + ["fail.after_append"]
WORKER = ["worker.start", "worker.before_command", "worker.after_command", "worker.after_publish"]
PUBLISH = sorted(name for name in FAILPOINTS if name.startswith("publish."))
DRIVER = ["driver.after_start", "driver.before_commit", "driver.after_commit", "close.before_release"]
#: those that a default run of the tests kills, all in one run
SOME = [
    "lease.after_claim=kill@2",  # the first time is in the driver, before there is an actor
    "open.after_replay=kill@2",
    "journal.after_write=kill@9",
    "start.after_append=kill@2",
    "reserve.after_create=kill@2",
    "reserve.after_append=kill@4",
    "commit.before_append=kill@2",
    "commit.after_append=kill@3",
    "finish.after_remove=kill@1",
]


def _joined(address: str) -> tuple[str, ...]:
    return ("sys.executor=ray", f"sys.address={address}", "sys.retries.system=20")


def _armed(lab: Lab, entries: list[str]) -> dict[str, str]:
    """Variables: each entry goes off once, in whichever process comes by."""
    tickets = {"MML_RAY_FAILPOINTS_ONCE": str(lab.trouble / "tickets")}
    return {"MML_RAY_FAILPOINTS": ";".join(entries), **tickets}


def _reached(lab: Lab, entry: str) -> bool:
    name, _, rest = entry.partition("=")
    return (lab.trouble / "tickets" / f"{name}.{rest.partition('@')[2] or 1}").exists()


def test_the_actor_and_the_workers_killed_many_times_in_one_run(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    entries = [*SOME, *(f"{name}=kill@{number + 1}" for number, name in enumerate(WORKER)), "publish.after_put=kill@3"]
    code, output = lab.call(*lab.next(), *_joined(ray_head), **_armed(lab, entries))
    assert code == 0, output
    assert [entry for entry in entries if not _reached(lab, entry)] == []
    assert outcome(lab) == undisturbed
    lost = [line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"]
    assert len(lost) == len(WORKER) + 1 and set(lost) == {"lost"}, "every killed worker, and nothing else, is a failed attempt"


def test_the_driver_killed_many_times(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    entries = [f"{name}=kill@{number + 1}" for number, name in enumerate(DRIVER[:3])] + [f"{DRIVER[3]}=kill"]
    for _ in entries:
        code, output = lab.call(*lab.next(), *_joined(ray_head), **_armed(lab, entries))
        assert code == -signal.SIGKILL, output
    assert all(_reached(lab, entry) for entry in entries)
    assert outcome(lab) == undisturbed
    code, output = lab.call(*lab.next(), *_joined(ray_head))
    assert code == 0 and "nothing is left to do" in output


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", [*ACTOR, *WORKER, *PUBLISH])
def test_killed_at_a_failpoint(name: str, lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    """The first time that an actor, or a worker, comes by: the driver is through with the names it shares with the actor then."""
    once, often = name.startswith("lease.") or name.endswith("_replace"), name.startswith("journal.")
    entries = [f"{name}=kill@{2 if once else 3 if often else 1}"]
    if name in ("fail.after_append", "open.before_clean", "clean.before_unlink", "clean.after_unlink"):
        entries.append("worker.after_command=kill@2")  # an attempt that leaves something behind
    code, output = lab.call(*lab.next(), *_joined(ray_head), **_armed(lab, entries))
    if code == -signal.SIGKILL:  # it was the driver after all
        code, output = lab.call(*lab.next(), *_joined(ray_head), **_armed(lab, entries))
    assert code == 0, output
    assert _reached(lab, entries[0])
    assert outcome(lab) == undisturbed


def test_the_actor_killed_while_the_workers_wait_for_it(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    gates = [lab.go_wrong("fit_0", "gate"), lab.go_wrong("fit_1", "gate")]
    process = lab.start(*lab.next(), *_joined(ray_head))
    workers = [lab.gate("fit_0"), lab.gate("fit_1")]
    actor = _actor(lab)
    actor.send_signal(signal.SIGSTOP)  # what the workers ask for now is not answered
    for gate in gates:
        gate.unlink()
    wait_for(lambda: len(lab.witnessed("fit 0 step")) + len(lab.witnessed("fit 1 step")) >= 6, what="the trainings")
    time.sleep(0.5)
    actor.kill()
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0, output
    attempts = [
        line["command"] for line in journal(lab.run) if line["op"] == "attempt_started" and line["command"].startswith("fit")
    ]
    assert len(attempts) == len(set(attempts)) == 2, "no attempt is lost, none is doubled"
    fits = {int(line.split()[-1]) for line in lab.witnessed("fit 0 attempt") + lab.witnessed("fit 1 attempt")}
    assert fits == set(workers)
    assert outcome(lab) == undisturbed


def test_a_request_to_stop_outlives_the_actor(lab: Lab, ray_head: str) -> None:
    process = lab.start(*lab.next(), *_joined(ray_head), "mode.steps=20", "mode.seconds=3")
    wait_for(lambda: len(lab.witnessed("fit 0 step")) + len(lab.witnessed("fit 1 step")) >= 1, what="the training")
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)  # the actor knows, and the workers do not ask before their next step
    _actor(lab).kill()
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 130, output
    assert max(int(line.split()[3]) for line in lab.witnessed("fit 0 step") + lab.witnessed("fit 1 step")) < 20
    assert {line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"} == {"interrupted"}


def test_a_stall_is_seen_though_the_actor_was_killed_meanwhile(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    lab.go_wrong("fit_1", "hang@1")
    process = lab.start(*lab.next(), *_joined(ray_head), "sys.stall_timeout=8")
    wait_for(lambda: bool(lab.witnessed("fit 1")), what="the training")
    time.sleep(1)
    _actor(lab).kill()
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0 and "no sign of life" in output and "The stacks of process" in output, output
    assert [line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"] == ["stalled"]
    assert outcome(lab) == undisturbed


def test_an_actor_and_a_driver_that_wake_up_late_write_nothing_that_counts(
    lab: Lab, ray_head: str, undisturbed: dict[str, Any]
) -> None:
    lab.go_wrong("fit_0", "gate@1")  # the second attempt passes
    first = lab.start(*lab.next(), *_joined(ray_head), "mode.seconds=0.7")
    lab.gate("fit_0")
    wait_for(lambda: bool(lab.witnessed("fit 1")), what="the other training")
    both = [_actor(lab), psutil.Process(first.pid)]  # each of them beats
    for process in both:
        process.send_signal(signal.SIGSTOP)
    code, output = lab.fork(*lab.next(), "sys.executor=inline", "mode.seconds=0.7", ELSEWHERE="4")
    assert code == 0, output
    before = lab.run.joinpath("journal.jsonl").read_bytes()
    assert outcome(lab) == undisturbed
    for process in both:
        process.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=GUARD)
    assert first.returncode == 1 and "taken over" in output and "Traceback" not in output, output
    assert lab.run.joinpath("journal.jsonl").read_bytes() == before
    assert outcome(lab) == undisturbed


def _actor(lab: Lab) -> psutil.Process:
    """The process that hosts the run store: the only one but the driver that has the journal open."""
    path = str(lab.run / "journal.jsonl")
    for process in psutil.process_iter(["name"]):
        if "_Host" in (process.info["name"] or ""):
            try:
                if any(item.path == path for item in process.open_files()):
                    return process
            except psutil.Error:
                continue
    raise AssertionError("there is no actor")


def test_kill_9_of_the_driver_leaves_no_process(lab: Lab, undisturbed: dict[str, Any]) -> None:
    """With an own Ray, a worker in a command, and a process that the command has started."""
    gate = lab.go_wrong("fit_1", "children")
    process = lab.start(*lab.next(), "sys.executor=ray")
    lab.gate("fit_1")
    everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    child = psutil.Process(int((lab.trouble / "fit_1.child").read_text()))
    assert child in everybody
    process.kill()
    deadline = time.monotonic() + promised(10)
    while (left := _alive(everybody)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    process.communicate()
    gate.unlink()
    again_and_again(lab, "sys.executor=inline")
    assert outcome(lab) == undisturbed


def _alive(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:100])
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("name", ["gcs_server", pytest.param("raylet", marks=(pytest.mark.chaos, pytest.mark.slow))])
def test_the_death_of_an_own_ray_is_told_at_once_and_the_run_can_be_continued(
    name: str, lab: Lab, undisturbed: dict[str, Any]
) -> None:
    gate = lab.go_wrong("fit_1", "gate")
    process = lab.start(*lab.next(), "sys.executor=ray", "sys.num_cpus=2")
    lab.gate("fit_1")
    everybody = psutil.Process(process.pid).children(recursive=True)
    next(item for item in everybody if item.name() == name).kill()
    output, _ = process.communicate(timeout=promised(30))
    assert process.returncode == 1 and f"Ray's process {name} has ended" in output and "Traceback" not in output, output
    (line,) = re.findall("Continue with: mml-ray (.*)$", output, re.M)
    wait_for(lambda: not _alive(everybody), seconds=promised(10), what="the end of Ray")
    gate.unlink()
    code, output = lab.fork(*shlex.split(line), "sys.executor=inline")
    assert code == 0, output
    assert outcome(lab) == undisturbed
