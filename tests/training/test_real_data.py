"""Fit and the real data module together: images on disk, augmentation, loader processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.errors import CommandInterrupted
from mml_ray.models import build_model
from mml_ray.models.checkpoint import same_weights
from mml_ray.training.fit import FitResult, fit
from mml_ray.training.predict import predict
from mml_ray.training.predict import test as evaluate
from mml_ray.training.trainer import create_trainer
from tests.data import made
from tests.training.test_resume import Stop
from tests.training.tiny import tiny_options

SPECS = {
    "made_classification": {"task_type": "classification", "num_classes": 3},
    "made_regression": {"task_type": "regression", "num_classes": 0},
}


def model(tasks: dict[str, Any]) -> Any:
    arch = {"backend": "monai", "name": "resnet_small", "drop_rate": 0.3, "params": {"block_inplanes": [8, 8, 16, 16]}}
    return build_model(
        {"model": "multi_task", "seed": 1, "tasks": tasks, "arch": arch, "optimizer": {"name": "adam", "lr": 0.01}}
    )


def data(root: Path, workers: int) -> MultiTaskDataModule:
    tasks = [made.data_task("classification", root, count=24), made.data_task("regression", root, count=24)]
    return MultiTaskDataModule(tasks, options=made.options(augmentations=made.FLIPS, workers=workers))


def train(root: Path, folder: str, workers: int, stop: int | None = None) -> FitResult:
    options = tiny_options(checkpoint_dir=root / folder, should_stop=Stop(stop), monitor=("val/made_classification/loss", "min"))
    return fit(model(SPECS), data(root / "images", workers), create_trainer(*options), task="made_classification")


@pytest.mark.slow
def test_a_resume_within_an_epoch_with_another_number_of_loader_processes(tmp_path: Path) -> None:
    whole = train(tmp_path, "whole", workers=0)
    for stop, first, second in ((4, 0, 2), (11, 2, 1)):
        with pytest.raises(CommandInterrupted):
            train(tmp_path, str(stop), first, stop)
        pieces = train(tmp_path, str(stop), second)
        assert pieces.resumed is not None and pieces.resumed[1] > 0
        assert same_weights(whole.last_state, pieces.last_state) and same_weights(whole.best_state, pieces.best_state)
        assert whole.metrics == pieces.metrics


def test_train_predict_and_test_on_images(tmp_path: Path) -> None:
    options = tiny_options(max_epochs=1)
    trained = model(SPECS)
    result = fit(trained, data(tmp_path, 0), create_trainer(*options), task="made_classification")
    assert {"train/loss", "val/loss", "val/made_classification/accuracy", "val/made_regression/loss"} <= set(result.metrics[0])
    splits = ["TEST", "VAL", "UNLABELLED"]
    own = MultiTaskDataModule([made.data_task("classification", tmp_path, count=24)], options=made.options(workers=0))
    table = predict(trained, own, create_trainer(*options), task="made_classification", splits=splits)
    rows = table.to_pylist()
    assert [sum(row["split"] == split for row in rows) for split in splits] == [3, 8, 2]
    assert all((row["target"] is None) == (row["split"] == "UNLABELLED") for row in rows)
    assert "test/made_classification/accuracy" in evaluate(trained, own, create_trainer(*options), task="made_classification")
