"""Running mml-ray as a user does: in a process of its own, and looking at what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from tests.integration.warm import Call
from tests.patience import GUARD

#: small enough to finish in seconds, large enough that a kill hits a training
QUICK = (
    "trainer.deterministic=true",
    "trainer.enable_progress_bar=false",
    "trainer.min_epochs=1",
    "mode.subroutines=[train,predict,test]",
)


#: what the current test has started
_started: list[Call] = []


@dataclass(frozen=True)
class Place:
    """A data root and a results root, and how to call mml-ray on them."""

    data: Path
    results: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """That of a fresh user."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MML_", "RAY_"))}
        return {**kept, "MML_DATA_PATH": str(self.data), "MML_RESULTS_PATH": str(self.results), "PYTHONUNBUFFERED": "1", **extra}

    def start(self, *arguments: str, into: IO[str] | int = subprocess.PIPE, **extra: str) -> Call:
        """``python -m mml_ray <arguments>`` in the background, in a session of its own; its output in a pipe, or a file."""
        process = Call(arguments, environment=self.environment(**extra), into=into)
        _started.append(process)
        return process

    def call(self, *arguments: str, timeout: float = GUARD, **extra: str) -> tuple[int, str]:
        """Run to the end: exit code and output."""
        process = self.start(*arguments, **extra)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"mml-ray {' '.join(arguments)} took longer than {timeout} s:\n{output[-4000:]}") from None
        return process.returncode, output

    def run_dir(self, project: str) -> Path:
        """The newest run folder of a project."""
        return sorted((self.results / project / "runs").glob("*/*"))[-1]


def journal(run_dir: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's journal."""
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def commits(run_dir: Path) -> dict[str, int]:
    """How often each command was committed."""
    count: dict[str, int] = {}
    for line in journal(run_dir):
        if line["op"] == "committed":
            count[line["command"]] = count.get(line["command"], 0) + 1
    return count


def files(project: Path) -> dict[str, str]:
    """Relative path to sha256 of everything but the run folders; times and durations in model descriptions do not count."""
    found = {}
    for path in sorted(project.rglob("*")):
        relative = path.relative_to(project)
        if path.is_file() and relative.parts[0] not in ("runs", "hpo"):
            found[str(relative)] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    if path.parent.parent.name != "MODELS":
        return path.read_bytes()
    content = json.loads(path.read_text())
    for update in content.get("updates", []):
        update.pop("run", None)
    return json.dumps({k: v for k, v in content.items() if k not in ("created", "training_time")}, sort_keys=True).encode()


def wait_for(condition: Callable[[], bool], *, what: str, seconds: float = GUARD) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {seconds} s for: {what}")
        time.sleep(0.05)


def family(process: Call) -> list[psutil.Process]:
    """The process and all its descendants."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def survivors(processes: Sequence[psutil.Process]) -> list[str]:
    """Those that still run (zombies do not)."""
    alive = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(" ".join(process.cmdline())[:120])
        except psutil.NoSuchProcess:
            continue
    return alive


def end_what_goes_on() -> None:
    """The end of a test: what it started and did not wait for is killed, and what that has said is printed; the next one finds a quiet machine."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            for member in family(process):
                member.kill()
            output, _ = process.communicate()
            print(f"Killed behind the test: {' '.join(map(str, process.args))}\n{(output or '')[-8000:]}")  # type: ignore[arg-type]
        elif process.stdout is not None:
            process.stdout.close()


def kill(process: Call) -> None:
    """SIGKILL to this process alone, not to its children."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
