"""Runs whose workers do not see the disk of the driver: whatever passes from one to the other passes through ``store/files.py``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mml_ray
from mml_ray.composition.compose import compose_run
from mml_ray.driver.executor import FailurePolicy
from mml_ray.driver.graph import Board
from mml_ray.driver.inline import InlineExecutor
from mml_ray.driver.loop import Interrupt, Loop
from mml_ray.driver.progress import PlainDisplay
from mml_ray.driver.resources import local_node
from mml_ray.driver.worker import AttemptContext
from mml_ray.launch import build_scheduler
from mml_ray.schedulers.train import TrainingScheduler
from mml_ray.store.files import Files
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.predictions import load_predictions
from mml_ray.store.run.publish import publish_artifacts
from mml_ray.store.run.store import RunStore, verify
from mml_ray.training.checkpoints import Generations, Position, read_checkpoint
from tests.store.world import PARAMETERS, World, artifact, outcome, start


class CopiedFiles:
    """A worker's files: what it writes lies below ``here``, what is published below ``there``, and reads give copies.

    Nothing that was published stays ``here``, so code that looks at a path directly finds nothing.
    """

    def __init__(self, here: Path, there: Path) -> None:
        self.here, self.there, self.copies = here, there, here.with_name("copies")
        self.copies.mkdir(parents=True)

    def put(self, path: Path) -> None:
        self._publish(path, path)

    def append(self, path: Path) -> None:
        target = self._published(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(path.read_bytes())
        path.unlink()

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        temporary = self._copy_path(path)
        yield temporary
        self._publish(temporary, path)

    def get(self, path: Path) -> Path:
        if path.exists():
            return path
        return Path(shutil.copy(self._published(path), self._copy_path(path)))

    def read(self, path: Path) -> bytes:
        return self._current(path).read_bytes()

    def exists(self, path: Path) -> bool:
        return self._current(path).is_file()

    def size(self, path: Path) -> int:
        return self._current(path).stat().st_size

    def digest(self, path: Path) -> str:
        return hashlib.sha256(self.read(path)).hexdigest()

    def names(self, folder: Path) -> list[str]:
        found = self._published(folder)
        return sorted(entry.name for entry in found.iterdir()) if found.is_dir() else []

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._published(path).unlink(missing_ok=True)

    def _published(self, path: Path) -> Path:
        return self.there / path.relative_to(self.here)

    def _current(self, path: Path) -> Path:
        return path if path.is_file() else self._published(path)

    def _copy_path(self, path: Path) -> Path:
        return self.copies / f"{uuid.uuid4().hex}{path.suffix}"

    def _publish(self, source: Path, path: Path) -> None:
        target = self._published(path)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)


@pytest.fixture(autouse=True)
def _no_manager_stays() -> Iterator[None]:
    yield
    MMLFileManager.clear_instance()


def _files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _run(place: Path, digits: Path, run: str, *arguments: str) -> Path:
    """Run a mode inline, with a worker that keeps its files below ``place/worker``; returns the run folder, below ``place/driver``."""
    here, there = place / "worker" / run / "results", place / "driver"
    limits = [f"+trainer.limit_{part}_batches=1" for part in ("train", "val", "test", "predict")]
    short = ["trainer.max_epochs=1", "trainer.min_epochs=1", "arch.name=resnet10", *limits]
    given = [*arguments, "tasks=digits", f"data_dir={digits}", f"out_dir={there}", "sys.executor=inline", "num_workers=0", *short]
    cfg = compose_run([*given, "mode.cv=false", "sampling.batch_size=8"]).cfg
    scheduler = build_scheduler(cfg)
    session = scheduler.create_session(there / str(cfg.proj) / "runs" / "day" / run)
    plan = session.planned([local_node()]).framed()
    store = RunStore.create(session.paths.run_dir, roots=session.roots, manifest={"mode": str(cfg.mode.id)})
    store.set_plan(plan.to_json())
    folders = {
        "proj_path": here / str(cfg.proj),
        "results_path": here,
        "log_path": here / session.paths.run_dir.relative_to(there),
    }
    worker = MMLFileManager(**{**scheduler.fm.arguments(), **folders}, backend=store, files=CopiedFiles(here, there))
    scheduler.attach(worker)
    inline = InlineExecutor(scheduler, worker, AttemptContext(seed=1, log_folder=worker.run_paths.logs))
    board, shown = Board(plan, store.committed()), io.StringIO()
    display = PlainDisplay(shown)
    display.begin(board)
    policy = FailurePolicy(backoff=0.05)
    summary = Loop(board, store, inline, inline=inline, policy=policy, display=display, interrupt=Interrupt()).run()
    assert summary.exit_code == 0, shown.getvalue()
    assert _files_below(here) == [], "everything the worker wrote was published"
    store.close()
    return session.paths.run_dir


def test_a_training_whose_worker_has_a_disk_of_its_own(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingScheduler, "before_training_hook", lambda *_: print("The training begins."))
    run_dir = _run(tmp_path, digits, "first", "train", "proj=first", "mode.subroutines=[train,predict,test]")
    assert verify(run_dir) == []
    project = tmp_path / "driver" / "first"
    kinds = {path.split("/")[0] for path in _files_below(project)}
    assert {"PARAMETERS", "PIPELINES", "MODELS", "PREDICTIONS", "runs"} == kinds
    assert sorted({path.suffix for path in (run_dir / "CHECKPOINTS").rglob("*.*")}) == [".ckpt", ".json"]
    (log,) = (run_dir / "logs").glob("train_fold*.log")
    assert "The training begins." in log.read_text()
    again = _run(tmp_path, digits, "second", "train", "proj=second", "mode.subroutines=[predict]", "reuse.models=first")
    assert verify(again) == []
    first, second = (_predictions(tmp_path / "driver" / name) for name in ("first", "second"))
    assert first and first.keys() == second.keys() and all(first[name].equals(second[name]) for name in first)


def _predictions(project: Path) -> dict[str, Any]:
    folder = project / "PREDICTIONS"
    return {re.sub(r"_\d+\.parquet$", "", name): load_predictions(folder / name).table for name in _files_below(folder)}


def test_a_training_finds_its_checkpoints_on_another_disk(tmp_path: Path) -> None:
    folder = tmp_path / "worker" / "CHECKPOINTS" / "c"
    for number in (1, 2, 3):  # each in a process of its own, so to speak
        files: Files = CopiedFiles(tmp_path / "worker", tmp_path / "driver")
        Generations(folder, files).write({"number": number}, Position(number, 0))
        shutil.rmtree(tmp_path / "copies")
    latest = Generations(folder, CopiedFiles(tmp_path / "worker", tmp_path / "driver")).latest()
    assert latest is not None and latest.position == Position(3, 0) and read_checkpoint(latest.path) == {"number": 3}
    assert not folder.exists() and len(_files_below(tmp_path / "driver")) == 4, "two generations are kept"


def test_the_store_looks_for_artifacts_where_its_files_are(tmp_path: Path) -> None:
    world = World(tmp_path)
    files = CopiedFiles(world.results, tmp_path / "elsewhere")
    store = world.create(files=files)
    store.set_plan({"fingerprint": "f", "commands": [{"key": "c0", "position": 0, "name": "c", "params": [], "needs": []}]})
    attempt = start(store, "c0")
    path, unused = artifact(store, attempt, b"weights"), store.reserve(attempt, assignment=PARAMETERS, task="u", file=None)
    published = publish_artifacts([path, store.roots.absolute(unused)], files)
    assert not path.exists() and [item["size"] for item in published] == [7]
    [answer] = store.commit([outcome(attempt, artifacts=published)])
    assert answer["status"] == "committed", answer
    store.close()
    assert verify(world.run_dir, files=files) == [] and "No such file" in verify(world.run_dir)[0]


def test_no_package_looks_for_the_file_manager_of_the_process() -> None:
    root = Path(mml_ray.__file__).parent
    sources = [*root.rglob("*.py"), *(root.parent / "schedulers").glob("*.py")]
    used = [path.name for path in sources if re.search(r"MMLFileManager\.(instance|exists|_instance)\b", path.read_text())]
    assert used == ["manager.py"], "it is passed; only plugins may ask for it"
