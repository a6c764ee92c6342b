"""What happens when a command fails, hangs, or eats the memory, and when it asks for what nobody has."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.chaos.lab import Lab, outcome
from tests.integration.harness import commits, journal
from tests.patience import GUARD, promised

INLINE = "sys.executor=inline"
CONTINUE = ("chaos", "proj=p", "continue=latest")


def _reasons(lab: Lab) -> list[tuple[str, str]]:
    failed = [line for line in journal(lab.run) if line["op"] == "attempt_failed" and line["command"] != "prepare_exp"]
    return [(line["command"].split("-")[0], line["reason"]) for line in failed]


def _on(where: str, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Arguments for ``inline`` or ``ray``."""
    if where == "inline":
        return (INLINE,)
    return ("sys.executor=ray", f"sys.address={request.getfixturevalue('ray_head')}")


@pytest.mark.parametrize("where", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_exception_fails_its_command_and_what_depends_on_it_alone(
    where: str, lab: Lab, undisturbed: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    arguments = _on(where, request)
    trouble = lab.go_wrong("fit_0", "raise")
    code, output = lab.call(*lab.next(), *arguments)
    assert code == 1, output
    assert (
        output.count("Traceback (most recent call last)") == 1 and output.count("fit_0 fails because the test wants it") <= 3
    ), output
    assert re.search(r"logs/fit--0-\w+\.log", output) and "Continue with: mml-ray" in output
    assert "2 command(s)" in output and "skipped" in output
    done = {key.split("-")[0] + key.split("-")[2] for key in commits(lab.run) if "--" in key}
    assert done == {"make0", "make1", "fit1", "apply1"}, "the others went on"
    assert _reasons(lab) == [("fit", "failed")]
    trouble.unlink()
    before = len(journal(lab.run))
    code, output = lab.fork(*CONTINUE, INLINE, "sys.address=null")
    assert code == 0, output
    again = [line["command"].split("-")[0] for line in journal(lab.run)[before:] if line["op"] == "attempt_started"]
    assert again == ["prepare_exp", "fit", "apply", "gather", "finish_exp"], "just those that had not committed"
    assert outcome(lab) == undisturbed


def test_a_retry_after_an_exception_removes_what_the_first_attempt_wrote(lab: Lab, undisturbed: dict[str, Any]) -> None:
    lab.go_wrong("make_1", "raise@1")
    code, output = lab.fork(*lab.next(), INLINE, "sys.retries.exception=1")
    assert code == 0 and "retry 1 of 1" in output, output
    assert _reasons(lab) == [("make", "failed")]
    assert outcome(lab) == undisturbed


def test_on_failure_stop_starts_nothing_more(lab: Lab) -> None:
    lab.go_wrong("make_0", "raise")
    code, output = lab.fork(*lab.next(), INLINE, "sys.on_failure=stop")
    assert code == 1 and "on_failure=stop" in output, output
    assert set(commits(lab.run)) == {"prepare_exp"}


def test_infeasible_resources_are_refused_before_anything_starts(lab: Lab) -> None:
    began = time.monotonic()
    code, output = lab.call(*lab.next(), "sys.executor=ray", "resources.fit.num_gpus=9")
    assert code == 2 and time.monotonic() - began < promised(5), output
    assert "'fit' asks for" in output and "9 GPU" in output and "0 GPU" in output and "resources.fit" in output
    assert "Traceback" not in output and not lab.begun()
    code, output = lab.fork(*lab.next(), "sys.executor=ray", "resources.fit.memory=900TB")
    assert code == 2 and "GiB" in output, output
    code, output = lab.fork(*lab.next(), "sys.executor=ray", "resources.apply.custom.tpu=1")
    assert code == 2 and "tpu" in output, output


@pytest.mark.ray
def test_infeasible_on_a_cluster_names_its_nodes(lab: Lab, ray_head: str) -> None:
    code, output = lab.call(*lab.next(), "sys.executor=ray", f"sys.address={ray_head}", "resources.fit.num_gpus=9")
    assert code == 2 and "2 CPU, 0 GPU" in output and not lab.begun(), output


@pytest.mark.ray
def test_a_command_without_sign_of_life_is_ended_and_tried_again(lab: Lab, ray_head: str, undisturbed: dict[str, Any]) -> None:
    lab.go_wrong("fit_1", "hang@1")
    code, output = lab.call(*lab.next(), "sys.executor=ray", f"sys.address={ray_head}", "sys.stall_timeout=4")
    assert code == 0 and "no sign of life" in output, output
    assert _reasons(lab) == [("fit", "stalled")]
    stacks = next((lab.run / "logs").glob("fit--1-*.log")).read_text()
    assert 'scheduler.py", line' in stacks and "in _hang" in stacks, stacks
    assert outcome(lab) == undisturbed


@pytest.mark.ray
def test_a_command_that_stalls_each_time_fails_for_good(lab: Lab, ray_head: str) -> None:
    lab.go_wrong("fit_1", "hang")
    code, output = lab.call(
        *lab.next(), *("sys.executor=ray", f"sys.address={ray_head}", "sys.stall_timeout=3", "sys.retries.system=1")
    )
    assert code == 1, output
    assert _reasons(lab) == [("fit", "stalled")] * 2
    assert "apply--0" in " ".join(commits(lab.run)), "the others went on"


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.slow
def test_a_command_that_eats_the_memory_is_restarted_a_few_times(lab: Lab) -> None:
    """Ray's memory monitor kills above a share of the machine's memory; here it is a little above what is used now."""
    import psutil

    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available) / memory.total + 1.5 * 2**30 / memory.total
    lab.go_wrong("make_1", f"eat:{4 * 1024}")
    code, output = lab.call(
        *lab.next(),
        *("sys.executor=ray", "sys.num_cpus=2", "sys.retries.system=1", "resources.make.memory=1GB"),
        RAY_memory_usage_threshold=f"{limit:.3f}",
        RAY_memory_monitor_refresh_ms="100",
        timeout=GUARD,
    )
    assert code == 1, output
    assert _reasons(lab) == [("make", "oom")] * 2, "killed for memory, and restarted as often as allowed"
    (used,) = set(
        re.findall(r"Command make--1.*\n.*the command used ([\d.]+)GB \(granted 1\.00 GiB\), its node [\d.]+GB of", output)
    )
    assert float(used) > 0.5 and "resources.make.memory" in output
    assert "apply--0" in " ".join(commits(lab.run)), "the others went on"
