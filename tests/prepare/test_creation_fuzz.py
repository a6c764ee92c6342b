"""Damaged sources through the whole creation: a dataset is whole or not there, a task verified or not there."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path

import pytest

from mml_ray.errors import UserError
from mml_ray.prepare.checks.stats import ImageFacts
from mml_ray.prepare.create import create_dataset, create_task
from mml_ray.store.data_root import DataRoot
from tests.prepare.makers import class_folders, context, files_below, zip_of
from tests.prepare.test_archives_fuzz import mutate

TRIALS = 60


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.mark.parametrize("what", ["archive", "images"])
def test_nothing_half_written_is_believed(tmp_path: Path, what: str) -> None:
    folder = class_folders(tmp_path / "scans", classes={"a": 4, "b": 4})
    content = files_below(folder)
    rng = random.Random(f"creation {what}")
    outcomes = {"refused": 0, "made": 0}
    for trial in range(TRIALS):
        entries = dict(content)
        if what == "images":
            hit = rng.choice(sorted(entries))
            entries[hit] = mutate(entries[hit], rng)
        archive = zip_of(tmp_path / "source" / f"{trial}.zip", entries)
        if what == "archive":
            archive.write_bytes(mutate(archive.read_bytes(), rng))
        root = DataRoot(tmp_path / "roots" / str(trial))
        asked = context(root, source={"creator": "from_folder", "name": "mine", "path": str(archive)}, n_folds=2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                create_dataset("mine", asked)
                create_task("mine", asked)
            outcomes["made"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            assert str(error)
        for name in root.index():
            task = root.description(name)
            assert all(ImageFacts.of_file(root.dataset_path("mine") / sample["image"]) for sample in task.train_samples.values())
        raw = root.path / "RAW"
        assert not raw.exists() or {path.name for path in raw.iterdir()} <= {"DSET_mine"}
        assert not list(root.path.rglob("wip.txt"))
        shutil.rmtree(root.path, ignore_errors=True)
    assert {path.name for path in tmp_path.iterdir()} <= {"scans", "source", "roots"}
    assert outcomes["refused"] > TRIALS // 4, outcomes
