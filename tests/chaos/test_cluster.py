"""Ray itself goes wrong: messages that fail or come late, and a cluster of two nodes of which one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.lab import REPOSITORY, TOKEN, Lab, again_and_again, outcome
from tests.integration.harness import journal, survivors, wait_for
from tests.patience import GUARD, promised

pytestmark = pytest.mark.ray

_CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
raylets = [node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, other)]
print("cluster", json.dumps({"address": cluster.address, "head": raylets[0], "other": raylets[1]}), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
#: all messages between Ray's processes: so many of a hundred are not sent, as many answered in vain, as many believed lost on their way
_FAILING = {
    percent: {"*": {"num_failures": -1, **{f"{kind}_failure_prob": percent for kind in ("req", "resp", "in_flight")}}}
    for percent in (3, 15)
}
#: microseconds by which some are late, those that start commands and bring their outcome among them
_LATE = (
    "CoreWorkerService.grpc_server.PushTask=10000:300000,CoreWorkerService.grpc_client.PushTask.OnReplyReceived=10000:300000,"
    "NodeManagerService.grpc_server.RequestWorkerLease=10000:300000,CoreWorkerService.grpc_server.GetObjectStatus=1000:100000"
)


@dataclass(frozen=True)
class TwoNodes:
    """A Ray of two nodes with one CPU each, in processes of their own: its address, and the raylets' process ids."""

    address: str
    head: int
    other: int

    @property
    def joined(self) -> tuple[str, ...]:
        """What to say on the command line."""
        return ("sys.executor=ray", f"sys.address={self.address}", "sys.retries.system=20")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    log = tmp_path / "cluster.log"
    folder = tempfile.mkdtemp(prefix="mml-cluster-", dir="/tmp")  # short, for the sockets in it
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_TMPDIR": folder, **TOKEN},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None and process.stdout is not None
    line = next((line for line in iter(process.stdout.readline, "") if line.startswith("cluster ")), "")
    assert line, log.read_text()[-2000:]
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    yield TwoNodes(**json.loads(line.removeprefix("cluster ")))
    process.stdin.close()
    try:
        process.wait(timeout=GUARD)
    finally:
        for member in family:  # what a killed raylet has left
            if member.is_running():
                member.kill()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_raylet_of_another_node_is_killed(lab: Lab, nodes: TwoNodes, undisturbed: dict[str, Any]) -> None:
    gates = {name: lab.go_wrong(name, "gate") for name in ("fit_0", "fit_1")}
    process = lab.start(*lab.next(), *nodes.joined)
    parents = {name: psutil.Process(lab.gate(name)).ppid() for name in gates}
    assert set(parents.values()) == {nodes.head, nodes.other}, "one command on each node"
    os.kill(nodes.other, signal.SIGKILL)
    for gate in gates.values():
        gate.unlink()
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0, output
    failed = [(line["command"].split("--")[0], line["reason"]) for line in journal(lab.run) if line["op"] == "attempt_failed"]
    assert failed == [("fit", "lost")], "the command of that node, and no other"
    assert outcome(lab) == undisturbed


def test_a_submitted_job_joins_its_cluster_and_may_set_our_variables(
    lab: Lab, ray_head: str, undisturbed: dict[str, Any]
) -> None:
    """What Ray's job manager gives the driver: the address, and the environment that the job was submitted with."""
    variables = {"MML_CHAOS": str(lab.trouble), "MML_SUBMITTED": "yes"}
    job = {"runtime_env": {"env_vars": variables}, "metadata": {"job_submission_id": "one"}}
    told = {"RAY_ADDRESS": ray_head, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job), **variables}
    code, output = lab.call(*lab.next(), "sys.executor=ray", **told)
    assert code == 0 and f"ray at {ray_head})" in output, output
    assert outcome(lab) == undisturbed


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "No Ray cluster answers at 'auto': none was started on this machine"),
        ("127.0.0.1:1", "No Ray cluster answers at '127.0.0.1:1': Connection refused"),
        ("ray://127.0.0.1:10001", "a driver runs on the cluster it joins"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(address: str, said: str, lab: Lab) -> None:
    began = time.monotonic()
    code, output = lab.call(*lab.next(), "sys.executor=ray", f"sys.address={address}", RAY_TMPDIR=str(lab.trouble))
    assert code == 2 and said in output and "Traceback" not in output, output
    assert time.monotonic() - began < promised(30)


@pytest.mark.chaos
@pytest.mark.slow
def test_the_raylet_of_the_drivers_node_is_killed(lab: Lab, nodes: TwoNodes, undisturbed: dict[str, Any]) -> None:
    """Ray ends the driver then, after a while."""
    gates = {name: lab.go_wrong(name, "gate") for name in ("fit_0", "fit_1")}
    process = lab.start(*lab.next(), *nodes.joined)
    workers = [psutil.Process(lab.gate(name)) for name in gates]
    os.kill(nodes.head, signal.SIGKILL)
    process.communicate(timeout=GUARD)
    assert process.returncode != 0
    wait_for(lambda: not survivors(workers), what="the end of the workers")
    for gate in gates.values():
        gate.unlink()
    again_and_again(lab, "sys.executor=inline")
    assert outcome(lab) == undisturbed


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["3 percent fail", "15 percent fail", "late"])
def test_messages_between_the_processes_of_ray_fail_or_come_late(trouble: str, lab: Lab, undisturbed: dict[str, Any]) -> None:
    said = {"RAY_testing_asio_delay_us": _LATE}
    if trouble != "late":
        said = {"RAY_testing_rpc_failure": json.dumps(_FAILING[int(trouble.split()[0])])}
    for _ in range(6):  # where Ray does not even start
        code, output = lab.call(*lab.next(), "sys.executor=ray", "sys.num_cpus=2", "sys.retries.system=20", **said)
        if code == 0:
            break
    assert code == 0, output
    assert outcome(lab) == undisturbed
