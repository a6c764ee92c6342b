"""The searches before a training (``tune``): they run as far as they should, and say what they found."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from mml_ray.schedulers import components
from mml_ray.training.trainer import create_trainer
from tests.training.tiny import TinyData, tiny_model, tiny_options


def _tune(options: dict[str, Any], data: TinyData, **trainer_options: Any) -> tuple[Any, Any]:
    scheduler = SimpleNamespace(cfg=OmegaConf.create({"tune": options}), checkpoint_callback=None)
    model, trainer = tiny_model(), create_trainer(*tiny_options(max_epochs=1, **trainer_options))
    components.tune(cast("Any", scheduler), trainer, model, datamodule=data, train_dataloaders=None)
    return model, trainer


def test_a_learning_rate_search_goes_to_its_end_in_a_training_of_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning.pytorch.tuner.tuning import Tuner

    found: list[Any] = []
    search = Tuner.lr_find

    def watched(self: Tuner, *arguments: Any, **options: Any) -> Any:
        found.append(search(self, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(Tuner, "lr_find", watched)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "mml_ray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, trainer = _tune({"lr": True, "lr_kwargs": {"num_training": 40, "early_stop_threshold": None}}, TinyData())
    assert len(found[0].results["lr"]) == 40
    assert model.lr == found[0].suggestion() and trainer.fit_loop.max_epochs == 1
    assert f"learning rate {model.lr:.3g}" in caplog.text
    assert list(tmp_path.iterdir()) == []
