"""A scheduler whose commands do all that commands can do, and last milliseconds: no torch, no images.

``make`` draws random numbers, writes numbered and temporary files, and sets a path of the struct; ``fit`` is like a training: it writes
checkpoints, reports, stops when it is asked to, resumes, and stores a model; ``apply`` adds to that model and writes a file without a
number; ``gather`` waits for everything.

The folder that the variable ``MML_CHAOS`` names says what is to go wrong: a file ``<command>_<first parameter>`` there holds one of

=================  =================================================================
``raise``          an exception
``hang``           sleeps for an hour without a sign of life
``eat:MiB``        takes that much memory, then hangs
``gate``           writes ``<file>.here`` with its process id, and waits until the file is gone
``children``       as ``gate``, with a child process whose id is in ``<file>.child``
``file:MiB``       writes an artifact of that size in the command ``make``
=================  =================================================================

A suffix ``@n`` makes it happen at attempts up to ``n`` only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_ray import atomic
from mml_ray.driver.worker import current_seed
from mml_ray.errors import CommandInterrupted
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store.artifacts import ModelStorage
from mml_ray.store.manager import MMLFileManager

TASK = "toy"
#: key to template; tables have no number. Added by the scheduler in the driver; workers hear of them from there.
PATHS = {
    "made": "PROJ_PATH/MADE/TASK_NAME/made.txt",
    "weights": "PROJ_PATH/WEIGHTS/TASK_NAME/weights.txt",
    "table": "PROJ_PATH/TABLES/FILE_NAME",
}


class ChaosScheduler(AbstractBaseScheduler):
    """Chains of ``make``, ``fit`` and ``apply``, and a ``gather`` behind all of them."""

    def __init__(self, cfg: DictConfig) -> None:
        for key, template in PATHS.items():
            MMLFileManager.add_assignment_path(None, key, template, enable_numbering=key != "table")
        super().__init__(cfg=cfg, available_subroutines=["all"])

    def create_routine(self) -> None:
        """``3 * mode.width + 1`` commands."""
        width = int(self.cfg.mode.width)
        made = [self.add(self.make, index, after=[]) for index in range(width)]
        fitted = [self.add(self.fit, index, after=[made[index]]) for index in range(width)]
        applied = [self.add(self.apply, index, after=[fitted[index]]) for index in range(width)]
        self.add(self.gather, "all", after=applied)

    def make(self, index: int) -> dict[str, Any]:
        """Random numbers, two numbered files of one name, a name that is reserved and not used, a temporary file."""
        self._witness("make", index)
        struct = self.get_struct(TASK)
        drawn = [random.random() for _ in range(3)]
        first = self.fm.construct_saving_path(drawn, "made", task_name=TASK)
        atomic.write_text(first, f"{index} {drawn}\n" + "x" * self._trouble("make", index))
        self.fm.construct_saving_path(drawn, "backup", file_name="unused.txt")
        atomic.write_text(self.fm.construct_saving_path(drawn, "made", task_name=TASK), f"second of {index}\n")
        atomic.write_text(self.fm.construct_saving_path(drawn, "temp", file_name="temp.txt"), "temporary\n")
        struct.paths[f"made_{index}"] = first
        return {"drawn": drawn, "file": first.name}

    def fit(self, index: int) -> str:
        """``mode.steps`` steps, each from the one before; every one is a checkpoint."""
        self._witness("fit", index)
        struct = self.get_struct(TASK)
        checkpoint = self.get_checkpoints_dir() / "state.json"
        state: dict[str, Any] = {"step": 0, "value": struct.paths[f"made_{index}"].read_text()[:80]}
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
            print(f"resumed at step {state['step']}")
        while state["step"] < self.cfg.mode.steps:
            self._trouble("fit", index)
            state = {"step": state["step"] + 1, "value": _digest(state["value"], state["step"], current_seed())}
            time.sleep(float(self.cfg.mode.seconds))
            atomic.write_json(checkpoint, state)
            self._witness(f"fit {index} step", state["step"])
            if self.fm.report({"step": state["step"], "steps": int(self.cfg.mode.steps)}):
                raise CommandInterrupted(f"stopped after step {state['step']}")
        self._store(struct, index, state["value"])
        return str(state["value"])

    def _store(self, struct: Any, index: int, value: str) -> None:
        weights = self.fm.construct_saving_path(value, "weights", task_name=TASK)
        atomic.write_text(weights, value)
        model = ModelStorage(parameters=weights, task=TASK, fold=index, performance=1.0, created="2024-01-01T00:00:00")
        model.store(struct, manager=self.fm)
        struct.models.append(model)

    def apply(self, index: int) -> int:
        """Add to the model of this chain; a file without a number."""
        self._witness("apply", index)
        self._trouble("apply", index)
        struct = self.get_struct(TASK)
        model = next(model for model in struct.models if model.fold == index)
        assert model.parameters is not None
        table = self.fm.construct_saving_path(index, "table", file_name=f"table_{index}.txt")
        atomic.write_text(table, f"{index}: {model.parameters.read_text()}\n")
        model.predictions[TASK] = table
        model.metrics.append({"length": len(table.read_text())})
        return index

    def gather(self, what: str) -> str:
        """Everything that the commands before returned and attached."""
        self._witness("gather", what)
        self._trouble("gather", what)
        struct = self.get_struct(TASK)
        found = [sorted(struct.paths), [model.predictions[TASK].name for model in struct.models]]
        return _digest(self.results(self.make), self.results(self.fit), self.results(self.apply), found)

    def before_finishing_hook(self) -> None:
        """A return value that depends on everything."""
        self.return_value = float(int(self.results(self.gather)[0][:6], 16))

    # -- what the tests see and do ---------------------------------------------------------------------------------------------
    def _witness(self, name: str, detail: Any) -> None:
        folder = os.environ.get("MML_CHAOS")
        if folder and self.fm.attempt is not None:
            with open(Path(folder) / "witness", "ab", buffering=0) as file:
                file.write(f"{name} {detail} attempt {self.fm.attempt['attempt']} process {os.getpid()}\n".encode())

    def _trouble(self, name: str, detail: Any) -> int:
        """Go wrong, if a file says so; returns how many further bytes an artifact is to have."""
        file = Path(os.environ.get("MML_CHAOS", "/nowhere")) / f"{name}_{detail}"
        if not file.exists():
            return 0
        what, _, most = file.read_text().strip().partition("@")
        if most and self.fm.attempt is not None and self.fm.attempt["attempt"] > int(most):
            return 0
        kind, _, argument = what.partition(":")
        if kind == "file":
            return int(float(argument) * 2**20)
        _TROUBLE[kind](file, argument)
        return 0


def _raise(file: Path, _: str) -> None:
    raise ValueError(f"{file.name} fails because the test wants it")


def _hang(*_: Any) -> None:
    time.sleep(3600)


def _eat(_: Path, argument: str) -> None:
    taken = [bytearray(os.urandom(2**20)) for _ in range(int(argument))]
    time.sleep(3600)
    del taken


def _gate(file: Path, _: str) -> None:
    file.with_suffix(".here").write_text(str(os.getpid()))
    while file.exists():
        time.sleep(0.01)


def _children(file: Path, _: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    file.with_suffix(".child").write_text(str(child.pid))
    _gate(file, "")


_TROUBLE = {"raise": _raise, "hang": _hang, "eat": _eat, "gate": _gate, "children": _children}


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
