"""What accompanies every training step: its seed and the report of its progress."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mml_ray.seeding import keyed_seed

Report = Callable[[dict[str, Any]], Any]


class KeyedRandomness(Callback):
    """Before each training step every generator gets a seed that is a function of (seed, epoch, batch)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, numpy and torch (all devices)."""
        parts = (self._seed, "step", trainer.current_epoch, batch_idx)
        seed = keyed_seed(*parts, trainer.global_rank) if trainer.global_rank else keyed_seed(*parts)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


class ProgressReport(Callback):
    """Calls ``report`` with the progress of the training, at most every ``seconds`` and at the end of each epoch.

    The progress is ``{"epoch" (from 1), "epochs", "step", "steps" (batches of the epoch), "loss", "seconds"}``.
    """

    def __init__(self, report: Report, *, seconds: float = 0.5) -> None:
        self._report = report
        self._every = seconds
        self._reported_at = -math.inf
        self._started_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report if it is time."""
        last = batch_idx + 1 >= trainer.num_training_batches
        if not last and time.monotonic() - self._reported_at < self._every:
            return
        self._reported_at = time.monotonic()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        progress: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "epochs": trainer.max_epochs}
        progress.update(step=batch_idx + 1, steps=_whole(trainer))
        if loss is not None:
            progress["loss"] = float(loss.detach() if isinstance(loss, Tensor) else loss)
        self._report({**progress, "seconds": round(time.monotonic() - self._started_at, 3)})


def _whole(trainer: Trainer) -> int | None:
    total = trainer.num_training_batches
    return int(total) if math.isfinite(total) else None
