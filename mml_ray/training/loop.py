"""Lightning's loop made exact: keyed randomness, checkpoints at positions from which a resume is the same to the bit,
progress, stop.

A checkpoint is written where nothing is in flight: when the next epoch starts (then schedulers and callbacks of the one
before are through), after a batch inside an epoch (no gradient is being accumulated, no validation follows), and at the end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from mml_ray.errors import CommandInterrupted, MMLMisconfigurationException
from mml_ray.training.checkpoints import Generations, Position
from mml_ray.training.steps import Report

logger = logging.getLogger(__name__)


class MetricsTracker(Checkpoint):
    """A row per epoch of what is named ``train/...``, ``val/...``, ``lr...``, ``stats/...``; validation values only where one ran.
    Each row is also handed to ``report``, with its epoch counted from 1.

    (A ``Checkpoint`` for Lightning, so that it runs after the model logged its epoch.)
    """

    def __init__(self, report: Report | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self._report = report
        self._validated = False
        self._validation: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint."""
        return "mml_metrics"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume, give the last validation's values back to the callbacks and schedules that look at them."""
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._validation.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the fresh values."""
        self._validated = True
        self._validation = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row."""
        wanted = ("train/", "lr", "stats/", *(["val/"] if self._validated else []))
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(wanted)}
        self.rows.append({"epoch": trainer.current_epoch, **values})
        if self._report is not None:  # seven digits are what a float32 holds
            rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
            self._report({"epoch": trainer.current_epoch + 1, "values": rounded})
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        rows = [dict(row) for row in self.rows]
        return {"rows": rows, "validated": self._validated, "validation": dict(self._validation)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._validated = bool(state_dict["validated"])
        self._validation = dict(state_dict["validation"])


class BestWeights(Checkpoint):
    """Keeps the weights of the epoch with the best ``monitor`` (``min`` or ``max``); NaN and inf never are the best."""

    def __init__(self, monitor: str, mode: str) -> None:
        if mode not in ("min", "max"):
            raise MMLMisconfigurationException(f"The monitor '{monitor}' has mode {mode!r}; it is min or max.")
        self.monitor = monitor
        self.mode = mode
        self.score: float | None = None
        self.epoch: int | None = None
        self.state: dict[str, Tensor] | None = None

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint."""
        return "mml_best"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a copy on the CPU if this epoch is better than all before."""
        if self.monitor not in trainer.callback_metrics:
            if self.monitor.startswith("val/") and not trainer.fit_loop.epoch_loop._should_check_val_epoch():
                return
            there = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise MMLMisconfigurationException(
                f"'{self.monitor}' is to be monitored but was not measured after epoch {trainer.current_epoch + 1}: {there}. "
                "Without validation data set mode.store_best=false."
            )
        value = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(value):
            logger.warning("After epoch %d %s is %s.", trainer.current_epoch + 1, self.monitor, value)
            return
        if self.score is None or (value < self.score if self.mode == "min" else value > self.score):
            self.score, self.epoch = value, trainer.current_epoch
            self.state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in pl_module.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {"score": self.score, "epoch": self.epoch, "state": self.state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.score, self.epoch, self.state = state_dict["score"], state_dict["epoch"], state_dict["state"]


class TrainingCheckpoint(Checkpoint):
    """Writes the generations, answers a request to stop, and makes a resume exact. Has to be the last callback.

    ``folder`` null: nothing is written. ``every_minutes`` also inside an epoch (0: after every batch, null: never).
    """

    def __init__(
        self,
        folder: Any = None,
        *,
        every_minutes: float | None = 30.0,
        should_stop: Callable[[], bool] | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self.generations = None if folder is None else Generations(folder)
        self._every = None if every_minutes is None else 60 * every_minutes
        self._should_stop = should_stop
        self._poll = poll_seconds
        self._asked_at = self._saved_at = time.monotonic()
        self._stop = False
        self._position: Position | None = None
        self.seconds_before = 0.0
        self._started_at = time.monotonic()

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint."""
        return "mml_checkpoint"

    @property
    def seconds(self) -> float:
        """Seconds of training, over all resumes."""
        return self.seconds_before + time.monotonic() - self._started_at

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.seconds_before = float(state_dict["seconds"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._started_at = self._saved_at = time.monotonic()
        self._asked_at = -math.inf
        self._stop = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before is through: write it."""
        resumed = trainer.fit_loop.restarting
        trainer.fit_loop.restarting = False
        if trainer.current_epoch and not resumed:
            self._save(trainer, Position(trainer.current_epoch, 0, trainer.global_step))
        if self._is_asked():
            self._interrupt(f"after epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A resumed epoch is an ordinary one from here on (Lightning would leave out its plateau schedule at the end)."""
        trainer.fit_loop.restarting = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write when it is time, or when the training is to stop."""
        done = batch_idx + 1
        if not _settled(trainer, done):
            return
        due = self._every is not None and time.monotonic() - self._saved_at >= self._every
        asked = self._is_asked()
        if due or asked:
            self._save(trainer, Position(trainer.current_epoch, done, trainer.global_step))
        if asked:
            self._interrupt(f"in epoch {trainer.current_epoch + 1}, after batch {done} of {trainer.num_training_batches}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end, so that a resume has nothing to do."""
        epochs = trainer.current_epoch
        reason = "epochs" if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs else "stopped"
        self._save(trainer, Position(epochs, 0, trainer.global_step, reason))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put Lightning's counters to where they are when nothing is in flight."""
        if self._position is not None:
            settle_counters(checkpoint["loops"]["fit_loop"], self._position)

    def _save(self, trainer: Trainer, position: Position) -> None:
        self._saved_at = time.monotonic()
        if self.generations is None:
            return
        self._position = position
        try:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        finally:
            self._position = None
        if trainer.is_global_zero:
            self.generations.write(checkpoint, position)
        trainer.strategy.barrier("mml_checkpoint")

    def _is_asked(self) -> bool:
        now = time.monotonic()
        if not self._stop and self._should_stop is not None and now - self._asked_at >= self._poll:
            self._asked_at = now
            self._stop = bool(self._should_stop())
        return self._stop

    def _interrupt(self, where: str) -> None:
        kept = "the checkpoint is written" if self.generations is not None else "no checkpoint was asked for"
        raise CommandInterrupted(f"The training stopped as asked, {where}; {kept}.")


def _settled(trainer: Trainer, done: int) -> bool:
    """Whether nothing is in flight after ``done`` batches inside of the epoch."""
    total, every = trainer.num_training_batches, trainer.val_check_batch
    inside = done < total and done % trainer.accumulate_grad_batches == 0
    return inside and not (isinstance(every, (int, float)) and math.isfinite(every) and done % int(every) == 0)


def settle_counters(loop: dict[str, Any], position: Position) -> None:
    """Rewrite the state of Lightning's fit loop: ``position`` is reached, and nothing beyond it has begun."""
    epoch, batch = position.epoch, position.batch
    epochs = loop["epoch_progress"]
    for counter in (epochs["total"], epochs["current"]):
        counter.update(ready=epoch + bool(batch), started=epoch + bool(batch), processed=epoch, completed=epoch)
    batches = loop["epoch_loop.batch_progress"]
    batches["current"].update(ready=batch, started=batch, processed=batch, completed=batch)
    seen = batches["total"]["ready"]
    batches["total"].update(ready=seen, started=seen, processed=seen, completed=seen)
    batches["is_last_batch"] = False
    if batch:
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        return
    for name in ("epoch_loop.scheduler_progress", "epoch_loop.val_loop.batch_progress"):
        _zero(loop[name]["current"])
    _zero(loop["epoch_loop.val_loop.batch_progress"]["total"])
    for part in loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values():
        _zero(part["current"])


def _zero(counter: dict[str, int]) -> None:
    counter.update(dict.fromkeys(counter, 0))
