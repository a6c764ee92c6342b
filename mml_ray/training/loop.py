"""Lightning's loop made exact: checkpoints at positions from which a resume is the same to the bit, metrics, best weights, stopping.

A checkpoint is written where nothing is in flight: when the next epoch starts (then schedules and callbacks of the one before have
run), after a batch inside an epoch (no gradient is being accumulated, no validation follows), and at the end.
"""

from __future__ import annotations

import copy
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
from mml_ray.store.files import LOCAL, Files
from mml_ray.training.checkpoints import Generations, Position
from mml_ray.training.steps import Report

logger = logging.getLogger(__name__)


class _Kept(Checkpoint):
    """A callback whose attributes ``kept`` are part of a checkpoint.

    (A ``Checkpoint`` for Lightning, so that it runs after the model logged its epoch.)
    """

    state_key = ""
    kept: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {name: copy.copy(getattr(self, name)) for name in self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        for name in self.kept:
            setattr(self, name, copy.copy(state_dict[name]))


class MetricsTracker(_Kept):
    """A row per epoch of what is named ``train/...``, ``val/...``, ``lr...``, ``stats/...``; validation values only where one ran.

    Each row is also handed to ``report``, with its epoch counted from 1.
    """

    state_key = "mml_metrics"
    kept = ("rows", "validated", "validation")

    def __init__(self, report: Report | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self._report = report
        self.validated = False
        self.validation: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume, give the last validation's values back to the callbacks and schedules that look at them."""
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.validation.items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the fresh values."""
        self.validated = True
        self.validation = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row."""
        wanted = ("train/", "lr", "stats/", *(["val/"] if self.validated else []))
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(wanted)}
        self.rows.append({"epoch": trainer.current_epoch, **values})
        if self._report is not None:  # seven digits are what a float32 holds
            rounded = {name: float(f"{value:.7g}") for name, value in values.items()}
            self._report({"epoch": trainer.current_epoch + 1, "values": rounded})
        self.validated = False


class BestWeights(_Kept):
    """Keeps the weights of the epoch with the best ``monitor`` (``min`` or ``max``); NaN and inf are never the best."""

    state_key = "mml_best"
    kept = ("score", "epoch", "state")

    def __init__(self, monitor: str, mode: str) -> None:
        if mode not in ("min", "max"):
            raise MMLMisconfigurationException(f"The mode of the monitor '{monitor}' must be min or max, got {mode!r}.")
        self.monitor = monitor
        self.mode = mode
        self.score: float | None = None
        self.epoch: int | None = None
        self.state: dict[str, Tensor] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a copy on the CPU if this epoch is better than all before."""
        if self.monitor not in trainer.callback_metrics:
            if self.monitor.startswith("val/") and not trainer.fit_loop.epoch_loop._should_check_val_epoch():
                return
            measured = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise MMLMisconfigurationException(
                f"The monitor '{self.monitor}' was not measured in epoch {trainer.current_epoch + 1}, which has {measured}. "
                "Without validation data set mode.store_best=false."
            )
        value = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(value):
            logger.warning("In epoch %d '%s' is %s, so it cannot be the best.", trainer.current_epoch + 1, self.monitor, value)
            return
        if self.score is None or (value < self.score if self.mode == "min" else value > self.score):
            self.score, self.epoch = value, trainer.current_epoch
            self.state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in pl_module.state_dict().items()}


class TrainingCheckpoint(_Kept):
    """Writes the generations, obeys a request to stop, and makes a resume exact. It must be the last callback.

    ``folder`` null: nothing is written. ``every_minutes`` also inside an epoch (0: after every batch, null: never).
    ``should_stop`` is asked every ``poll_seconds`` at most.
    """

    state_key = "mml_checkpoint"
    kept = ("seconds",)

    def __init__(
        self,
        folder: Any = None,
        *,
        files: Files = LOCAL,
        every_minutes: float | None = 30.0,
        should_stop: Callable[[], bool] | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self.generations = None if folder is None else Generations(folder, files)
        self._every = None if every_minutes is None else 60 * every_minutes
        self._should_stop = should_stop
        self._poll_every = poll_seconds
        self._polled_at = self._saved_at = time.monotonic()
        self._stopping = False
        self._position: Position | None = None
        self._seconds_before = 0.0
        self._started_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, over all resumes."""
        return self._seconds_before + time.monotonic() - self._started_at

    @seconds.setter
    def seconds(self, before: float) -> None:
        self._seconds_before = float(before)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the clocks."""
        self._started_at = self._saved_at = time.monotonic()
        self._polled_at = -math.inf
        self._stopping = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch that has just ended; stop if that was asked for."""
        resumed = trainer.fit_loop.restarting
        trainer.fit_loop.restarting = False
        if trainer.current_epoch and not resumed:
            self._save(trainer, Position(trainer.current_epoch, 0, trainer.global_step))
        if self._stop_requested():
            self._interrupt(f"after epoch {trainer.current_epoch}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A resumed epoch is an ordinary one from here on (Lightning would leave out its plateau schedule at the end)."""
        trainer.fit_loop.restarting = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save inside the epoch when it is time, or when the training has to stop."""
        done = batch_idx + 1
        if not _is_at_boundary(trainer, done):
            return
        due = self._every is not None and time.monotonic() - self._saved_at >= self._every
        stop = self._stop_requested()
        if due or stop:
            self._save(trainer, Position(trainer.current_epoch, done, trainer.global_step))
        if stop:
            self._interrupt(f"in epoch {trainer.current_epoch + 1}, after batch {done} of {trainer.num_training_batches}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end, so that a resume has nothing to do."""
        epochs = trainer.current_epoch
        reason = "epochs" if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs else "stopped"
        self._save(trainer, Position(epochs, 0, trainer.global_step, reason))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Rewind Lightning's counters: its own resume from here would leave out schedules and repeat batches."""
        if self._position is not None:
            rewind_counters(checkpoint["loops"]["fit_loop"], self._position)

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

    def _stop_requested(self) -> bool:
        now = time.monotonic()
        if not self._stopping and self._should_stop is not None and now - self._polled_at >= self._poll_every:
            self._polled_at = now
            self._stopping = bool(self._should_stop())
        return self._stopping

    def _interrupt(self, where: str) -> None:
        kept = "the checkpoint is written" if self.generations is not None else "checkpoints are off"
        raise CommandInterrupted(f"The training stopped as asked, {where}; {kept}.")


def _is_at_boundary(trainer: Trainer, done: int) -> bool:
    """Whether nothing is in flight after ``done`` batches inside of the epoch."""
    total, every = trainer.num_training_batches, trainer.val_check_batch
    inside = done < total and done % trainer.accumulate_grad_batches == 0
    return inside and not (isinstance(every, (int, float)) and math.isfinite(every) and done % int(every) == 0)


def rewind_counters(loop: dict[str, Any], position: Position) -> None:
    """Rewrite the saved state of Lightning's fit loop: ``position`` is reached, and nothing beyond it has begun.

    Lightning 2.6 saves its counters from inside a hook, where they run ahead, and has no public call that sets them.
    """
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
