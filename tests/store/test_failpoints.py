"""Failpoints: armed by text, environment or file; counted by process, or over all of them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mml_ray import failpoints
from mml_ray.failpoints import FailpointError, armed, failpoint
from tests.patience import promised_cpu

NAME = "commit.after_append"


def test_nothing_happens_unless_armed() -> None:
    failpoint(NAME)
    with armed(f"{NAME}=raise"):
        failpoint("commit.before_append")
        with pytest.raises(FailpointError, match=NAME):
            failpoint(NAME)
        failpoint(NAME)  # once
    failpoint(NAME)


def test_the_nth_hit_and_the_modes(capfd: pytest.CaptureFixture[str]) -> None:
    with armed(f"{NAME}=raise:ENOSPC@3; plan.after_write=delay:0.05"):
        failpoint(NAME)
        failpoint(NAME)
        with pytest.raises(OSError) as caught:
            failpoint(NAME)
        assert caught.value.errno == errno.ENOSPC
        begun = time.monotonic()
        failpoint("plan.after_write")
        assert time.monotonic() - begun >= 0.05
    assert f"failpoint {NAME}: raise ENOSPC" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "commit.after=kill",
        f"{NAME}=explode",
        f"{NAME}=kill@0",
        f"{NAME}=kill@x",
        f"{NAME}=raise:EWHAT",
        f"{NAME}=delay",
        f"{NAME}=exit:x",
        NAME,
    ],
)
def test_entries_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        failpoints.parse(text)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(failpoints.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", f"from mml_ray.failpoints import failpoint\n{code}"],
        env={**os.environ, **environment},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_takes_them_from_its_environment_and_from_a_file(tmp_path: Path) -> None:
    code = f"failpoint('{NAME}'); print('one', flush=True); failpoint('{NAME}'); print('two')"
    found = run(code, MML_RAY_FAILPOINTS=f"{NAME}=kill@2")
    assert found.returncode == -9 and found.stdout == "one\n" and NAME in found.stderr
    file = tmp_path / "armed"
    file.write_text(f"plan.after_write=raise\n{NAME}=exit:7\n")
    assert run(code, MML_RAY_FAILPOINTS_FILE=str(file)).returncode == 7
    assert run(code, MML_RAY_FAILPOINTS_FILE=str(tmp_path / "none")).returncode == 0


def test_over_all_processes_an_entry_fires_once(tmp_path: Path) -> None:
    armed_ = {"MML_RAY_FAILPOINTS": f"{NAME}=exit:3@2", "MML_RAY_FAILPOINTS_ONCE": str(tmp_path / "hits")}
    assert [run(f"failpoint('{NAME}')", **armed_).returncode for _ in range(4)] == [0, 3, 0, 0]


def test_an_inactive_failpoint_costs_next_to_nothing() -> None:
    begun = time.process_time()
    for _ in range(200_000):
        failpoint(NAME)
    assert time.process_time() - begun < promised_cpu(0.5)
