"""What the reaper ends when a driver is done with its Ray, or dies: Ray's processes and what they started, nothing of the user's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mml_ray.driver.ray import session_folders
from mml_ray.journal.owner import current_owner
from tests.integration.harness import survivors, wait_for
from tests.patience import promised

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the reaper reads /proc")
_DRIVER = """
import json, os, subprocess, sys, time
from pathlib import Path
from mml_ray.driver.ray.reaper import MARK, Reaper
folder = Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
pids = {"user's, before": subprocess.Popen(sleep).pid}
reaper = Reaper(folder)
code = f"import os, subprocess, sys, time; os.environ.pop('{MARK}'); print(subprocess.Popen({sleep!r}).pid, flush=True); time.sleep(600)"
raylet = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: str(folder)}, stdout=subprocess.PIPE, text=True)
pids |= {"raylet": raylet.pid, "its agent": int(raylet.stdout.readline())}
pids["user's, after"] = subprocess.Popen(sleep).pid
time.sleep(2.5)  # the reaper looks once a second
print(json.dumps(pids), flush=True)
sys.stdin.readline()
reaper.close()
print("closed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path / "session"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def _children(driver: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    assert driver.stdout is not None
    return {name: psutil.Process(pid) for name, pid in json.loads(driver.stdout.readline()).items()}


def _end(processes: dict[str, psutil.Process]) -> None:
    for process in processes.values():
        if process.is_running():
            process.kill()


def test_a_driver_that_is_done_keeps_what_is_not_of_ray(driver: subprocess.Popen[str]) -> None:
    assert driver.stdin is not None and driver.stdout is not None
    children = _children(driver)
    try:
        driver.stdin.write("close\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == "closed\n"
        alive = {name for name, process in children.items() if survivors([process])}
        assert alive == {"user's, before", "user's, after"}
    finally:
        _end(children)


def test_a_driver_that_was_killed_leaves_only_what_was_there_before(driver: subprocess.Popen[str]) -> None:
    children = _children(driver)
    first = children.pop("user's, before")
    try:
        driver.kill()
        driver.wait()
        wait_for(lambda: not survivors(list(children.values())), seconds=promised(10), what="the end of the others")
        assert survivors([first])
    finally:
        _end({**children, "first": first})


def test_session_folders_of_dead_drivers_go_and_those_of_other_machines_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_folders, "place", lambda: tmp_path)
    here, gone = current_owner()["machine"], 4_000_000  # above what Linux gives
    for name, machine in {
        f"{gone}-dead": here,
        f"{gone}-elsewhere": "another",
        f"{gone}-unknown": None,
        f"{os.getpid()}-alive": here,
    }.items():
        folder = tmp_path / f"mml-ray-{name}"
        folder.mkdir()
        if machine:
            (folder / "machine").write_text(machine)
    session_folders.remove_stale()
    assert {path.name.partition("-")[2].split("-")[-1] for path in tmp_path.iterdir()} == {"elsewhere", "unknown", "alive"}
