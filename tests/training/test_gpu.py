"""The same on a GPU: chosen precision, exact resume, every task type with deterministic algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mml_ray.errors import CommandInterrupted
from mml_ray.models import build_model
from mml_ray.models.checkpoint import same_weights
from mml_ray.training.fit import FitResult, fit
from mml_ray.training.predict import predict
from mml_ray.training.trainer import create_trainer
from tests.training.test_predict import OtherTask
from tests.training.test_resume import Stop
from tests.training.tiny import TinyData, tiny_config, tiny_model, tiny_options

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def train(folder: Path, stop: int | None = None, **options: Any) -> FitResult:
    given = {"accelerator": "gpu", "checkpoint_dir": folder, "should_stop": Stop(stop), "monitor": ("val/tiny/loss", "min")}
    return fit(tiny_model(), TinyData(), create_trainer(*tiny_options(**given, **options)), task="tiny")


@pytest.mark.parametrize("precision", ["auto", "32-true"])
def test_stopped_and_resumed_is_the_same_to_the_bit(precision: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", precision=precision)
    for stop in (3, 6):
        with pytest.raises(CommandInterrupted):
            train(tmp_path / str(stop), stop, precision=precision)
        pieces = train(tmp_path / str(stop), precision=precision)
        assert same_weights(whole.last_state, pieces.last_state) and whole.metrics == pieces.metrics


@pytest.mark.parametrize(
    ("task_type", "targets"),
    [
        ("classification", torch.arange(60) % 3),
        ("multilabel_classification", torch.randint(0, 2, (60, 3)).float()),
        ("regression", torch.rand(60, 1)),
        ("semantic_segmentation", torch.randint(0, 3, (60, 8, 8))),
    ],
)
def test_every_task_type_trains_deterministically(task_type: str, targets: torch.Tensor) -> None:
    arch = {"backend": "monai", "name": "basic_unet" if "seg" in task_type else "resnet_small"}
    config = tiny_config(arch=arch, tasks={"tiny": {"task_type": task_type, "num_classes": 3}}, losses=None, metrics={})
    options = tiny_options(accelerator="gpu", max_epochs=2, deterministic="warn" if "seg" in task_type else True)
    model = build_model(config)
    result = fit(model, OtherTask(targets), create_trainer(*options), task="tiny")
    assert result.score == result.score
    table = predict(model, OtherTask(targets), create_trainer(*options), task="tiny", splits=["TEST"])
    assert table.num_rows == 15
