"""Runs whose processes are killed at random, again and again, each until it has ended as the undisturbed one."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.lab import Lab, again_and_again, different, outcome
from tests.integration.harness import survivors
from tests.integration.warm import Call

#: seconds after which a driver that nobody kills any more counts as hanging
PATIENCE = 240.0


@dataclass(frozen=True)
class Shape:
    """How a run looks, and where it runs: ``inline``, on an own ``ray``, or on the Ray at an address."""

    where: str
    width: int
    steps: int
    seconds: float

    def arguments(self) -> tuple[str, ...]:
        """On the command line."""
        where = (
            [f"sys.executor={self.where}"]
            if self.where in ("inline", "ray")
            else ["sys.executor=ray", f"sys.address={self.where}"]
        )
        more = ["sys.num_cpus=2"] if self.where == "ray" else []
        sizes = [f"mode.width={self.width}", f"mode.steps={self.steps}", f"mode.seconds={self.seconds}"]
        return (*where, *more, "sys.retries.system=50", *sizes)


@dataclass
class Soak:
    """Everything random comes from ``seed``; what the scheduler of the machine does is not."""

    folder: Path
    seed: int
    said: Callable[[str], None] = print
    killed: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    _known: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    def run(self, seconds: float, places: list[str]) -> None:
        """Round after round until the time is over; raises at the first that ends in anything but the undisturbed result."""
        rng = random.Random(self.seed)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.rounds += 1
            shape = Shape(rng.choice(places), rng.randint(1, 4), rng.randint(1, 6), rng.choice([0.0, 0.02, 0.1]))
            lab = Lab.at(self.folder / f"round_{self.rounds}")
            self.round(lab, shape, rng)

    def round(self, lab: Lab, shape: Shape, rng: random.Random) -> None:
        """One run from its start to its end, with up to eight kills."""
        left, starts = rng.randint(1, 8), 0
        while True:
            starts += 1
            driver = _Driver(lab, shape)
            while left and (victim := driver.victim(rng)) is not None:
                left -= 1
                self._kill(victim)
            code = driver.end()
            assert survivors(driver.own) == [], "a process has outlived its driver"
            if code == 0:
                break
            assert starts < 30, f"{lab.data.parent}: not done after {starts} starts:\n{driver.output()}"
        self.said(
            f"round {self.rounds}: {shape.where}, width {shape.width}, {starts} start(s); killed so far: {dict(self.killed)}"
        )
        found, expected = outcome(lab), self._undisturbed(shape)
        assert found == expected, f"{lab.data.parent}: not as undisturbed:\n{chr(10).join(different(found, expected))}"

    def _kill(self, victim: psutil.Process) -> None:
        try:
            name = re.sub("--.*", "", victim.name())
            victim.kill()
            self.killed[name] += 1
        except psutil.NoSuchProcess:
            return

    def _undisturbed(self, shape: Shape) -> dict[str, Any]:
        key = (shape.width, shape.steps)
        if key not in self._known:
            lab = Lab.at(self.folder / f"undisturbed_{shape.width}_{shape.steps}")
            again_and_again(lab, "sys.executor=inline", f"mode.width={shape.width}", f"mode.steps={shape.steps}")
            self._known[key] = outcome(lab)
        return self._known[key]


class _Driver:
    """One driver process, and all processes of its run."""

    def __init__(self, lab: Lab, shape: Shape) -> None:
        self._lab, self._shape = lab, shape
        self._joined = shape.where not in ("inline", "ray")
        self.own: list[psutil.Process] = []
        arguments = (*lab.next(), *shape.arguments())
        if shape.where == "inline":
            self._pid, self._log = lab.fork_away(*arguments)
            self._popen: Call | None = None
        else:
            self._log = lab.trouble / f"output_{time.monotonic_ns()}"
            self._popen = lab.start_into(self._log, *arguments)
            self._pid = self._popen.pid
        self._process = psutil.Process(self._pid)
        self._lasts = {"inline": 0.7, "ray": 12.0}.get(shape.where, 5.0)

    def victim(self, rng: random.Random) -> psutil.Process | None:
        """Some process of the run after some time; ``None`` when the driver is gone."""
        until = time.monotonic() + rng.uniform(0, self._lasts)
        while time.monotonic() < until:
            if not self._alive():
                return None
            time.sleep(0.005)
        everybody = self._family()
        kinds: dict[str, list[psutil.Process]] = {}
        for process in everybody:
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    kinds.setdefault(process.name().split("--")[0], []).append(process)
            except psutil.NoSuchProcess:
                continue
        if not self._alive():
            return None
        return rng.choice(kinds[rng.choice(sorted(kinds))]) if kinds else None

    def _alive(self) -> bool:
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _family(self) -> list[psutil.Process]:
        if self._joined:
            return [self._process, *_of_run(self._lab)]
        try:
            found = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self.own = list({*self.own, *found})
        return found

    def end(self) -> int:
        """Wait for the end of the driver, and of what it leaves behind: its exit code."""
        began = time.monotonic()
        while self._alive():
            if not self._joined:
                self._family()
            if time.monotonic() - began > PATIENCE:
                raise AssertionError(f"The driver {self._pid} hangs; {self._lab.data.parent}:\n{self.output()}")
            time.sleep(0.05)
        code = self._popen.wait() if self._popen else os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        assert code in (0, 1, 2, -signal.SIGKILL, -signal.SIGABRT), f"exit code {code}:\n{self.output()}"
        deadline = time.monotonic() + 10
        while survivors(self.own) and time.monotonic() < deadline:
            time.sleep(0.1)
        return code

    def output(self) -> str:
        """What it has said."""
        return self._log.read_text()[-6000:]


def _of_run(lab: Lab) -> list[psutil.Process]:
    """The workers and the actor of a run on a Ray that is not its own: their environment names the lab."""
    wanted = f"MML_CHAOS={lab.trouble}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0") and "python" not in process.name():
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found
