"""What the reaper ends when a driver is done with its Ray, or dies: Ray's processes and what they started, nothing of the user's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


# -- session folders ---------------------------------------------------------------------------------------------------
@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where session folders are created and looked for."""
    monkeypatch.setattr(session_folders, "parent", lambda: tmp_path)
    return tmp_path


def _folder(path: Path, owner: dict[str, Any] | None, *, age: float = 0.0) -> Path:
    """A session folder that holds what Ray wrote; ``None``: it names no owner."""
    (path / "r" / "session").mkdir(parents=True)
    (path / "r" / "session" / "raylet.out").write_text("log")
    if owner is not None:
        (path / "owner.json").write_text(json.dumps(owner))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_session_folder_is_closed_to_others_and_its_path_is_short(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = session_folders.create()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert json.loads((folder / "owner.json").read_text()) == current_owner()
    monkeypatch.undo()
    assert len(str(session_folders.ray_folder(session_folders.parent() / folder.name))) <= 40, "Ray's sockets would not start"


def test_session_folders_of_processes_that_have_ended_are_removed_and_no_others(parent: Path) -> None:
    here, gone = current_owner(), {**current_owner(), "pid": 4_000_000}  # above what Linux gives
    _folder(parent / "mmlray-dead", gone)
    _folder(parent / "mmlray-reused", {**here, "start_time": "ticks:1"})
    _folder(parent / "mmlray-alive", here, age=10**7)
    _folder(parent / "mmlray-elsewhere", {**gone, "machine": "another boot, or another container"}, age=10**7)
    _folder(parent / "mmlray-unknown", None, age=10**7)
    (parent / "mmlray-new").mkdir()
    for name, content in (("mmlray-old", None), ("mmlray-torn", '{"mach')):
        (parent / name).mkdir()
        if content:
            (parent / name / "owner.json").write_text(content)
        os.utime(parent / name, (0, 0))
    (parent / "mmlray-link").symlink_to(_folder(parent / "other", gone))
    foreign = _folder(parent / "mmlray-foreign", gone)
    kept = {"alive", "elsewhere", "unknown", "new", "link"}
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
        kept.add("foreign")
    session_folders.remove_stale()
    assert {path.name.removeprefix("mmlray-") for path in parent.glob("mmlray-*")} == kept
    assert (parent / "other" / "owner.json").exists()


def test_session_folders_of_earlier_versions_are_removed_too(parent: Path) -> None:
    here, gone = current_owner()["machine"], 4_000_000
    for name, machine in {
        f"{gone}-dead": here,
        f"{gone}-elsewhere": "another",
        f"{gone}-unknown": None,
        f"{os.getpid()}-alive": here,
    }.items():
        folder = _folder(parent / f"mml-ray-{name}", None)
        if machine:
            (folder / "machine").write_text(machine)
    session_folders.remove_stale()
    assert {path.name.partition("-")[2].split("-")[-1] for path in parent.iterdir()} == {"elsewhere", "unknown", "alive"}


def test_a_removal_that_was_killed_is_repeated(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(parent / "mmlray-dead", {**current_owner(), "pid": 4_000_000})
    (folder / "another").mkdir()
    original, removed = shutil.rmtree, []

    def killed(path: Path, **options: Any) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        original(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        session_folders.remove_stale()
    assert len(removed) == 1 and (folder / "owner.json").exists()
    session_folders.remove_stale()
    assert not folder.exists()


_LOCAL_RAY = """
import sys, time
from pathlib import Path
from mml_ray.driver.ray import reaper, session_folders
session_folders.parent = lambda: Path(sys.argv[1])
folder = session_folders.create()
(folder / "r").mkdir()
print(reaper.Reaper(folder)._process.pid, flush=True)
time.sleep(600)
"""


def test_the_folder_of_a_driver_that_was_killed_with_its_reaper_is_removed_by_the_next(parent: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _LOCAL_RAY, str(parent)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        reaper = psutil.Process(int(driver.stdout.readline()))
        session_folders.remove_stale()
        assert len(list(parent.iterdir())) == 1, "its process is alive"
        reaper.kill()
        driver.kill()
    assert len(list(parent.iterdir())) == 1
    session_folders.remove_stale()
    assert not list(parent.iterdir())
