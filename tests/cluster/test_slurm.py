"""``cluster/slurm/submit.sbatch``, executed as SLURM does it: with programs in place of SLURM's, and mostly of Ray."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.harness import QUICK, Place, commits, wait_for
from tests.patience import GUARD

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "submit.sbatch"
#: runs what it is given once for each task, and hands SIGTERM on to all of them
SRUN = """#!/bin/bash
echo $$ > "$CALLS/srun"
while [[ "$1" == --* ]]; do case "$1" in --ntasks=*) tasks=${1#--ntasks=};; esac; shift; done
pids=()
for ((number = 0; number < tasks; number++)); do SLURM_PROCID=$number "$@" & pids+=($!); done
trap 'kill -TERM "${pids[@]}"' TERM
for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done; done
"""
#: a Ray that starts, unless told not to, and ends at SIGTERM
RAY = """#!/bin/bash
echo "$SLURM_PROCID ${RAY_AUTH_MODE} ${#RAY_AUTH_TOKEN} ${RAY_ADDRESS:-none} $*" >> "$CALLS/ray"
[ -e "$CALLS/refuse" ] && { echo "no memory left"; exit 1; }
trap 'echo "$SLURM_PROCID" >> "$CALLS/ended"; exit 1' TERM
echo "Ray runtime started."
while :; do sleep 0.05; done
"""
#: a driver that works until SIGTERM, or ends at once with the code in the file ``exit``
DRIVER = """#!/bin/bash
echo "$RAY_ADDRESS ${#RAY_AUTH_TOKEN} $*" >> "$CALLS/mml-ray"
[ -e "$CALLS/exit" ] && exit "$(cat "$CALLS/exit")"
trap 'echo checkpoint >> "$CALLS/mml-ray"; exit 130' TERM
while :; do sleep 0.05; done
"""


@dataclass
class Job:
    """One job: the folder of the programs that it finds first, and what they were called with."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def program(self, name: str, text: str) -> None:
        """Put a program on the path."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def tell(self, name: str, text: str) -> None:
        """Leave a file for the programs."""
        (self.folder / "calls" / name).write_text(text)

    def calls(self, name: str) -> list[str]:
        """The lines that the program of this name has written so far."""
        path = self.folder / "calls" / name
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """As SLURM starts a job of two nodes with one CPU each, in a session of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "MML_"))}
        slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {
            "PATH": path,
            "CALLS": str(self.folder / "calls"),
            "TMPDIR": str(self.folder / "tmp"),
            "MML_RAY_HEAD_IP": "127.0.0.1",
        }
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env={**kept, **slurm, **ours, **more},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for it: exit code and output."""
        output, _ = process.communicate(timeout=GUARD)
        return process.returncode, output


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    for folder in ("calls", "tmp"):
        (tmp_path / folder).mkdir()
    job.program("srun", SRUN)
    job.program("scancel", '#!/bin/bash\n[ "$*" = "--signal=TERM $SLURM_JOB_ID" ] && kill -TERM "$(cat "$CALLS/srun")"\n')
    job.program("scontrol", '#!/bin/bash\necho "$*" >> "$CALLS/scontrol"\n')
    job.program("ray", RAY)
    job.program("mml-ray", DRIVER)
    yield job
    for process in job.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_script_is_free_of_what_shellcheck_knows() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, "-s", "bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_options_for_slurm_ask_for_a_signal_and_a_second_life() -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", SCRIPT.read_text(), re.M))
    assert options["signal"] == "B:USR1@300" and "requeue" in options and options["open-mode"] == "append"
    assert options["ntasks-per-node"] == "1", "one Ray node on each machine"


def test_a_job_starts_ray_on_its_nodes_runs_the_driver_and_ends_ray(job: Job) -> None:
    job.tell("exit", "0")
    code, output = job.end(job.start("train", "tasks=digits", "proj=a b", RAY_ADDRESS="elsewhere:1"))
    assert code == 0, output
    head, other = sorted(job.calls("ray"))
    common = r"--temp-dir=/tmp/mr-\w{8}/r --min-worker-port=0 --max-worker-port=0 --num-cpus=1 --disable-usage-stats"
    place = "--head --node-ip-address=127.0.0.1 --port=24711 --include-dashboard=false"
    assert re.fullmatch(f"0 token 64 none start --block {place} {common}", head), head
    assert re.fullmatch(f"1 token 64 none start --block --address=127.0.0.1:24711 {common}", other), other
    assert job.calls("mml-ray") == ["127.0.0.1:24711 64 train tasks=digits proj=a b sys=cluster --auto-continue"]
    assert sorted(job.calls("ended")) == ["0", "1"] and job.calls("scontrol") == []
    assert not [folder for line in (head, other) for folder in re.findall(r"/tmp/mr-\w{8}", line) if Path(folder).exists()]
    assert list((job.folder / "tmp").iterdir()) == []


def test_what_the_driver_returns_is_what_the_job_returns(job: Job) -> None:
    job.tell("exit", "2")
    code, output = job.end(job.start("train"))
    assert code == 2 and job.calls("scontrol") == [], output


def test_shortly_before_the_time_limit_the_run_is_stopped_and_queued_again(job: Job) -> None:
    process = job.start("train")
    wait_for(lambda: len(job.calls("mml-ray")) == 1, what="the driver")
    process.send_signal(signal.SIGUSR1)
    code, output = job.end(process)
    assert code == 0, output
    assert job.calls("mml-ray")[1:] == ["checkpoint"] and job.calls("scontrol") == ["requeue 4711"]
    assert sorted(job.calls("ended")) == ["0", "1"]


def test_a_job_that_is_ended_by_hand_stops_with_a_checkpoint_and_is_not_queued_again(job: Job) -> None:
    process = job.start("train")
    wait_for(lambda: len(job.calls("mml-ray")) == 1, what="the driver")
    process.send_signal(signal.SIGTERM)
    code, output = job.end(process)
    assert code == 130, output
    assert job.calls("mml-ray")[1:] == ["checkpoint"] and job.calls("scontrol") == []


def test_where_ray_does_not_start_the_job_says_what_ray_said(job: Job) -> None:
    job.tell("refuse", "")
    code, output = job.end(job.start("train"))
    assert code == 1 and "no memory left" in output and "Ray started on 0 of 2 nodes" in output, output
    assert job.calls("mml-ray") == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_on_a_real_ray_is_stopped_queued_again_and_continued(job: Job, digits: Path) -> None:
    for name in ("ray", "mml-ray"):
        (job.folder / "bin" / name).unlink()
    place = Place(digits, job.folder / "results")
    roots = {"MML_DATA_PATH": str(place.data), "MML_RESULTS_PATH": str(place.results)}
    run = ["train", "tasks=digits", *QUICK, "proj=job", "trainer.max_epochs=3", "mode.nested=false", "mode.subroutines=[train]"]
    first = job.start(*run, **roots)
    wait_for(lambda: any(place.results.glob("job/runs/*/*/CHECKPOINTS/*/checkpoint-*.json")), what="a checkpoint")
    first.send_signal(signal.SIGUSR1)
    code, output = job.end(first)
    assert code == 0 and job.calls("scontrol") == ["requeue 4711"], output
    second = job.start(*run, SLURM_JOB_ID="4712", SLURM_RESTART_COUNT="1", **roots)
    code, output = job.end(second)
    assert code == 0 and len(list(place.results.glob("job/runs/*/*"))) == 1, output
    assert list(commits(place.run_dir("job")).values()) == [1] * 5
