"""A disk that is full, or gives errors: the run waits or ends with a clear message, and nothing is lost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray.failpoints import FAILPOINTS
from tests.chaos.lab import Lab, again_and_again, outcome
from tests.integration.harness import journal, wait_for
from tests.patience import GUARD, promised

INLINE = "sys.executor=inline"
CONTINUE = ("chaos", "proj=p", "continue=latest")


@pytest.fixture
def small(lab: Lab) -> Iterator[Path]:
    """The results root of the lab, on a disk of 4 MiB."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(lab.results)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield lab.results
    subprocess.run(["umount", "-l", str(lab.results)], check=True)


def _fill(folder: Path) -> Path:
    """A file that takes all the space there is."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as stream:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue
    return file


def test_a_full_disk_is_waited_for(lab: Lab, small: Path, undisturbed: dict[str, Any]) -> None:
    gate = lab.go_wrong("fit_0", "gate")
    pid, log = lab.fork_away(*lab.next(), INLINE, "sys.min_free_disk_gb=0")
    lab.gate("fit_0")
    filler = _fill(small)
    gate.unlink()
    wait_for(lambda: "Paused" in log.read_text() or "disk is full" in log.read_text(), what="the pause")
    time.sleep(2.5)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    filler.unlink()
    code, output = lab.wait(pid, log)
    assert code == 0 and output.count("Paused") <= 1, output
    assert {line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"} <= {"disk"}
    assert outcome(lab) == undisturbed


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.slow
def test_a_full_disk_is_waited_for_on_ray(lab: Lab, small: Path, ray_head: str, undisturbed: dict[str, Any]) -> None:
    gates = [lab.go_wrong("fit_0", "gate"), lab.go_wrong("fit_1", "gate")]
    arguments = (*lab.next(), "sys.executor=ray", f"sys.address={ray_head}", "sys.min_free_disk_gb=0")
    process = lab.start(*arguments)
    for gate in gates:
        lab.gate(gate.name)
    filler = _fill(small)
    for gate in gates:
        gate.unlink()
    time.sleep(6)
    assert process.poll() is None
    filler.unlink()
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0 and "full" in output, output
    assert {line["reason"] for line in journal(lab.run) if line["op"] == "attempt_failed"} <= {"disk"}
    assert outcome(lab) == undisturbed


def test_low_space_is_seen_before_a_command_starts(lab: Lab, small: Path, undisturbed: dict[str, Any]) -> None:
    pid, log = lab.fork_away(*lab.next(), INLINE, "sys.min_free_disk_gb=0.02")
    wait_for(lambda: "Paused" in log.read_text(), what="the pause")
    assert "sys.min_free_disk_gb" in log.read_text() and str(lab.run) in log.read_text()
    assert not lab.witnessed("make")
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    code, output = lab.wait(pid, log)
    assert code == 0 and "Space is free again" in output, output
    assert outcome(lab) == undisturbed


def test_ctrl_c_twice_ends_the_waiting(lab: Lab, small: Path) -> None:
    gate = lab.go_wrong("fit_0", "gate")
    pid, log = lab.fork_away(*lab.next(), INLINE, "sys.min_free_disk_gb=0")
    lab.gate("fit_0")
    filler = _fill(small)
    gate.unlink()
    wait_for(lambda: "Paused" in log.read_text() or "disk is full" in log.read_text(), what="the pause")
    for _ in range(2):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
    code, output = lab.wait(pid, log, timeout=promised(20))
    assert code in (2, 130) and "Traceback" not in output, output
    filler.unlink()
    code, output = lab.fork(*CONTINUE)
    assert code == 0, output


def test_a_limit_on_the_size_of_files_is_a_clear_error(lab: Lab, undisturbed: dict[str, Any]) -> None:
    """``ulimit -f``: the journal cannot grow any further. Without the limit the run goes on."""
    process = subprocess.run(
        [sys.executable, "-m", "mml_ray", *lab.next(), INLINE],
        env=lab.environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000)),
        capture_output=True,
        text=True,
        timeout=GUARD,
    )
    assert process.returncode == 2, process.stdout + process.stderr
    assert "File too large" in process.stderr and "journal.jsonl" in process.stderr and "Traceback" not in process.stderr
    code, output = lab.fork(*CONTINUE)
    assert code == 0, output
    assert outcome(lab) == undisturbed


#: reached before the driver has told which run it is, or after it has said how it ended
BEFORE = tuple(f"{name}." for name in ("create", "lease", "open", "close"))
NAMES = sorted(
    name for name in FAILPOINTS if name.split(".")[0] not in ("worker", "driver", "fail") and not name.startswith(BEFORE)
)


@pytest.mark.parametrize("name", NAMES)
def test_no_space_at_a_failpoint_is_waited_for(name: str, lab: Lab, undisturbed: dict[str, Any]) -> None:
    """The disk is full the last time the run comes by, which is far into it, and has space the next time."""
    code, output = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS=f"{name}=raise:ENOSPC@2")
    if code:
        assert code == 2 and "No space left" in output and "Traceback" not in output, output
        again_and_again(lab, INLINE)
    assert outcome(lab) == undisturbed


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAILPOINTS - {"worker.start"}))
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_error_at_a_failpoint_loses_nothing(name: str, error: str, lab: Lab, undisturbed: dict[str, Any]) -> None:
    """Whatever the exit code, the run can be continued (what the message is depends on the place: not all of them can really fail)."""
    for hit in (1, 2, 5):
        place = Lab.at(lab.trouble / str(hit))
        code, output = place.fork(*place.next(), INLINE, MML_RAY_FAILPOINTS=f"{name}=raise:{error}@{hit}")
        assert code in (0, 1, 2), output
        again_and_again(place, INLINE)
        assert outcome(place) == undisturbed
