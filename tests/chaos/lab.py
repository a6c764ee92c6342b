"""A place with one task, the mode ``chaos``, and ways to run it there: as a process of its own, or forked from this one."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mml_ray import api, atomic, failpoints
from mml_ray.cli import main
from mml_ray.driver import loop
from mml_ray.journal import owner
from mml_ray.store.run.store import RunStore, read_run, verify
from tests.integration.harness import Place, commits, files, wait_for
from tests.integration.warm import Call
from tests.patience import GUARD, promised
from tests.store.world import Unsynced
from tests.tasks import builders

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
PROJECT = "p"
#: by which drivers join the clusters of these tests
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@dataclass(frozen=True)
class Lab(Place):
    """A place whose runs go wrong as the files in ``trouble`` say (``tests/chaos/scheduler.py``)."""

    trouble: Path

    @classmethod
    def at(cls, base: Path) -> Lab:
        """Folders below ``base``, and the task ``toy``."""
        lab = cls(base / "data", base / "results", base / "trouble")
        folder = lab.data / "RAW" / "DSET_toy"
        for path in (folder, lab.results, lab.trouble):
            path.mkdir(parents=True)
        builders.classification(10).save(folder / "TASK_toy.json")
        return lab

    def environment(self, **extra: str) -> dict[str, str]:
        """That of a fresh user who has the mode ``chaos`` and the token of the clusters."""
        own = {"MML_CONFIGS_PATH": str(HERE / "configs"), "PYTHONPATH": str(REPOSITORY), "MML_CHAOS": str(self.trouble), **TOKEN}
        return super().environment(**{**own, **extra})

    def start_into(self, log: Path, *arguments: str, **extra: str) -> Call:
        """As :meth:`start`, with its output in a file."""
        with log.open("w") as file:
            return self.start(*arguments, into=file, **extra)

    # -- running ---------------------------------------------------------------------------------------------------------------
    def fork(self, *arguments: str, timeout: float = GUARD, **extra: str) -> tuple[int, str]:
        """What ``mml-ray <arguments>`` does, in a forked process: no interpreter has to start. Exit code (minus the signal that
        ended it) and output.
        """
        return self.wait(*self.fork_away(*arguments, **extra), timeout)

    def fork_away(self, *arguments: str, **extra: str) -> tuple[int, Path]:
        """As :meth:`fork`, without waiting: process id, and the file its output goes to.

        ``ELSEWHERE=<seconds>``: on a machine of its own, which waits so long for a beat of an owner on another one.
        """
        log = self.trouble / f"output_{time.monotonic_ns()}"
        log.touch()
        _warm_up()
        pid = os.fork()
        if not pid:
            _become(arguments, log, self.environment(**extra))
        return pid, log

    def wait(self, pid: int, log: Path, timeout: float = GUARD) -> tuple[int, str]:
        """For the end of what :meth:`fork_away` started: as :meth:`fork`."""
        deadline = time.monotonic() + timeout
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), log.read_text()
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"It took longer than {timeout} s:\n{log.read_text()}")
            time.sleep(0.005)

    @property
    def run(self) -> Path:
        """The newest run folder."""
        return self.run_dir(PROJECT)

    def begun(self) -> bool:
        """Whether there is a run that can be continued."""
        runs = self.results / PROJECT / "runs"
        return runs.exists() and any(
            (run / "journal.jsonl").exists() and (run / "config.yaml").exists() for run in runs.glob("*/*")
        )

    def next(self) -> tuple[str, ...]:
        """The arguments that start a run, or continue the one there is."""
        return ("chaos", f"proj={PROJECT}", *(["continue=latest"] if self.begun() else []))

    def go_wrong(self, name: str, how: str) -> Path:
        """Let the command ``name`` (``fit_0``) go wrong."""
        file = self.trouble / name
        file.write_text(how)
        return file

    def gate(self, name: str) -> int:
        """Wait until the command stands at its gate; its process id."""
        here = self.trouble / f"{name}.here"
        wait_for(here.exists, what=f"{name} at its gate")
        wait_for(lambda: here.read_text().isdigit(), seconds=promised(5), what=f"the process of {name}")
        return int(here.read_text())

    def witnessed(self, what: str) -> list[str]:
        """What the commands wrote when they began (``fit 0``), or went on (``fit 0 step``)."""
        file = self.trouble / "witness"
        return [line for line in file.read_text().splitlines() if line.startswith(what)] if file.exists() else []


@cache
def _warm_up() -> None:
    """Import, and let hydra look for its plugins, once for all forks."""
    for module in ("mml_ray.launch", "mml_ray.prepare.variants", "tests.chaos.scheduler", "threadpoolctl"):
        importlib.import_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MML_CONFIGS_PATH", str(HERE / "configs"))
        api.compose_run(["chaos"])


def _become(arguments: tuple[str, ...], log: Path, environment: dict[str, str]) -> None:
    """Turn this forked process into one that runs the command line."""
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        sys.stdin = os.fdopen(0)
        os.environ.clear()
        os.environ.update(environment)
        failpoints._arm_from_environment()
        loop.DISK_PAUSE = 0.5
        atomic.fs = Unsynced()  # what a killed process wrote is there without waiting for the disk
        if "ELSEWHERE" in environment:
            owner._machine_id = lambda: "elsewhere"  # type: ignore[assignment]
            RunStore.open.__func__.__kwdefaults__["timeout"] = float(environment["ELSEWHERE"])  # type: ignore[attr-defined]
        code = main(list(arguments))
        sys.stdout.flush()
    finally:
        os._exit(code)


def outcome(lab: Lab) -> dict[str, Any]:
    """What an undisturbed run and one that was killed must agree on."""
    run_dir = lab.run
    state = read_run(run_dir)
    assert verify(run_dir) == []
    count = commits(run_dir)
    assert set(count.values()) == {1}, f"committed more than once: {count}"
    assert list(state.uncommitted()) == [], "reserved paths that nobody holds are left"
    fields = ("result", "artifacts", "structs", "models_update")
    committed = {key: {name: _anywhere(commit[name], run_dir) for name in fields} for key, commit in state.commits.items()}
    found = (path.relative_to(run_dir) for path in run_dir.rglob("*"))
    left = sorted(path.as_posix() for path in found if path.parts[0] not in ("claims", "logs"))
    return {"commits": committed, "files": _files(lab, state.run), "left": left, "status": state.status}


def different(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two outcomes differ, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        missing = object()
        keys = sorted({*found, *expected})
        pairs = ((f"{where}/{key}", found.get(key, missing), expected.get(key, missing)) for key in keys)
        return [line for place, one, other in pairs for line in different(one, other, place)]
    return [] if found == expected else [f"{where}: {found!r} instead of {expected!r}"]


def _anywhere(content: Any, run_dir: Path) -> Any:
    """The same whatever the run folder is called."""
    return json.loads(json.dumps(content).replace("/".join(run_dir.parts[-2:]), "RUN"))


def _files(lab: Lab, run: str) -> dict[str, str]:
    """Content of all files of the project; a model names the run that added to it."""
    project = lab.results / PROJECT
    return {name: (project / name).read_text().replace(run, "RUN") for name in files(project)}


def again_and_again(lab: Lab, *more: str, attempts: int = 12, **extra: str) -> str:
    """Start and continue, forked, until a run ends well; the output of the last."""
    for _ in range(attempts):
        code, output = lab.fork(*lab.next(), *more, **extra)
        if code == 0:
            return output
        assert code == -signal.SIGKILL, f"exit code {code}:\n{output}"
    raise AssertionError(f"not done after {attempts} starts:\n{output}")
