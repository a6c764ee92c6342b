"""A tiny task in memory: a data module that can be entered anywhere, and options for trainings of a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mml_ray.models import build_model
from mml_ray.models.base import BaseModel
from mml_ray.seeding import keyed_seed
from mml_ray.training.options import TrainerOptions
from mml_ray.training.trainer import TrainerContext

SPEC = {"task_type": "classification", "num_classes": 3, "class_occ": {"a": 10, "b": 10, "c": 10}}


class TinyLoader:
    """Batches of one epoch, in an order and with noise that are functions of (seed, epoch); has the length of a whole epoch."""

    def __init__(
        self, images: Tensor, targets: Tensor, phase: str, *, batch_size: int, shuffle: bool, task: str = "tiny"
    ) -> None:
        self.images, self.targets, self.phase, self.batch_size, self.shuffle = images, targets, phase, batch_size, shuffle
        self.task = task
        self.epoch, self.start = 0, 0

    batch_sampler = None

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    @property
    def sampler(self) -> TinyLoader:
        return self

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        generator = torch.Generator().manual_seed(keyed_seed("tiny", self.epoch))
        order = torch.randperm(len(self.images), generator=generator) if self.shuffle else torch.arange(len(self.images))
        chunks = torch.split(order, self.batch_size)
        start, self.start = self.start, 0
        for index in chunks[start:]:
            yield {
                self.task: {
                    "image": self.images[index],
                    "targets": self.targets[index],
                    "sample_id": [f"s{i}" for i in index.tolist()],
                    "dataset_name": self.task,
                    "dataset_type": self.phase,
                }
            }


class TinyData(pl.LightningDataModule):
    """30 training, 15 validation and 15 test images of 8x8 whose class is their brightest channel."""

    def __init__(self, *, batch_size: int = 6, validation: bool = True, task: str = "tiny") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.images = torch.rand(60, 3, 8, 8, generator=generator)
        self.targets = torch.arange(60) % 3
        self.images[torch.arange(60), self.targets] += 0.3
        self.batch_size, self.validation, self.task = batch_size, validation, task
        self.predict_on = "TEST"
        self._resume = (0, 0)

    def resume(self, epoch: int, batch: int) -> None:
        self._resume = (epoch, batch)

    def _loader(self, part: slice, phase: str, *, shuffle: bool = False) -> TinyLoader:
        return TinyLoader(
            self.images[part], self.targets[part], phase, batch_size=self.batch_size, shuffle=shuffle, task=self.task
        )

    def train_dataloader(self) -> TinyLoader:
        loader = self._loader(slice(0, 30), "train", shuffle=True)
        loader.epoch, loader.start = self._resume
        return loader

    def val_dataloader(self) -> Any:
        return self._loader(slice(30, 45), "val") if self.validation else []

    def test_dataloader(self) -> TinyLoader:
        return self._loader(slice(45, 60), "test")

    def predict_dataloader(self) -> TinyLoader:
        return self._loader({"TEST": slice(45, 60), "VAL": slice(30, 45), "UNLABELLED": slice(0, 0)}[self.predict_on], "predict")


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A small network with dropout and batch normalisation."""
    return {
        "model": "multi_task",
        "seed": 3,
        "tasks": {"tiny": SPEC},
        "arch": {
            "backend": "monai",
            "name": "resnet_small",
            "drop_rate": 0.2,
            "params": {"layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]},
        },
        "losses": {"cls": ["cross_entropy"]},
        "metrics": {"cls": ["accuracy", "auroc"]},
        "optimizer": {"name": "adam", "lr": 0.005},
        **changes,
    }


def tiny_model(**changes: Any) -> BaseModel:
    return build_model(tiny_config(**changes))


def tiny_options(**changes: Any) -> tuple[TrainerOptions, TrainerContext]:
    """The arguments of ``create_trainer``; ``changes`` are options or parts of the context."""
    own = {field.name for field in fields(TrainerContext)}
    given = {"max_epochs": 4, "accelerator": "cpu", "deterministic": True, "seed": 3, "poll_seconds": 0.0, **changes}
    options = TrainerOptions.of({name: value for name, value in given.items() if name not in own})
    return options, TrainerContext(**{name: value for name, value in given.items() if name in own})
