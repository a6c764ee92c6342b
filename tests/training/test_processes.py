"""One training in several processes: metrics are those of all data, and heads without data in one process do no harm."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.utils.data import DataLoader

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.training.trainer import create_trainer
from tests.training.tiny import SPEC, TinyData, tiny_model, tiny_options


class UnevenTasks(pl.LightningDataModule):
    """The first process sees task ``a``, the second task ``b``; both validate on half of the data."""

    def _batches(self, phase: str) -> Any:
        data, rank = TinyData(), torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        task = "ab"[rank] if phase == "train" else "a"
        part = slice(0, 12) if phase == "train" else slice(30 + 5 * rank, 35 + 10 * rank)  # 5 and 10 samples
        fields = {"image": data.images[part], "targets": data.targets[part], "dataset_name": task, "dataset_type": phase}
        return DataLoader([{task: fields}], batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return self._batches("train")

    def val_dataloader(self) -> Any:
        return self._batches("val")


class Writer(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = {name: value.double().sum().item() for name, value in pl_module.state_dict().items() if "running" not in name}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps({"state": state, "metrics": metrics}))


def _trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
    )
    return pl.Trainer(
        accelerator="cpu", max_epochs=1, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[Writer(folder)], plugins=[LightningEnvironment()], **quiet, **arguments,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="starts processes by fork")
def test_heads_without_data_and_metrics_of_all_processes(tmp_path: Path) -> None:
    tasks = {"a": SPEC, "b": SPEC}
    config: dict[str, Any] = {"tasks": tasks, "metrics": {"cls": ["accuracy"]}, "optimizer": {"name": "sgd", "lr": 0.0}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _trainer(tmp_path, strategy="ddp_fork", devices=2).fit(tiny_model(**config), datamodule=UnevenTasks())
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert set(first["metrics"]) == {"val/a/loss", "val/loss", "val/a/accuracy"}
    fifteenths = first["metrics"]["val/a/accuracy"] * 15  # five samples of each of three classes, over both processes
    assert fifteenths == pytest.approx(round(fifteenths), abs=1e-4)


@pytest.mark.parametrize("devices", [2, "2"])
def test_a_command_trains_on_one_device(devices: Any) -> None:
    with pytest.raises(MMLMisconfigurationException, match="trainer.devices"):
        create_trainer(*tiny_options(devices=devices))
