"""One training: from wherever its checkpoint stands to its end."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.training.checkpoints import Generation, read_checkpoint
from mml_ray.training.loop import BestWeights, MetricsTracker, TrainingCheckpoint

logger = logging.getLogger(__name__)
C = TypeVar("C")


@runtime_checkable
class ResumableData(Protocol):
    """A data module that can begin inside an epoch."""

    def resume(self, epoch: int, batch: int) -> None:
        """The training loader begins after ``batch`` batches of ``epoch``; its length stays that of a whole epoch."""


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    ``score`` is the best value of ``monitor`` if the best weights are kept, else the last validation loss; NaN where that is missing
    or not finite. ``metrics`` has a row per epoch. ``best_state`` are the weights of the best epoch (without one: of the last),
    ``last_state`` those of the last; ``seconds`` counts all resumes, ``resumed`` is the (epoch, batch) at which this process began
    (null: at the start).
    """

    score: float
    monitor: str
    metrics: list[dict[str, float]]
    best_state: dict[str, Tensor]
    last_state: dict[str, Tensor]
    seconds: float
    epochs: int
    best_epoch: int | None = None
    resumed: tuple[int, int] | None = None


def fit(model: LightningModule, datamodule: LightningDataModule, trainer: Trainer, *, task: str | None = None) -> FitResult:
    """Train ``model``, from the newest good checkpoint in the trainer's checkpoint folder on.

    Without a monitor the score is the last ``val/<task>/loss`` (``val/loss`` without ``task``). Raises
    :class:`~mml_ray.errors.CommandInterrupted` when the trainer was asked to stop.
    """
    checkpoint = find_callback(trainer, TrainingCheckpoint)
    found = checkpoint.generations.latest() if checkpoint.generations is not None else None
    if found is not None and _is_over(found, trainer):
        _restore(found, model, trainer)
    else:
        _run(found, model, datamodule, trainer)
    return _result(model, trainer, f"val/{task}/loss" if task else "val/loss", found)


def find_callback(trainer: Trainer, kind: type[C]) -> C:
    """The trainer's callback of a class; raises if the trainer was not made by ``create_trainer``."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise MMLMisconfigurationException(f"The trainer does not have the callback {kind.__name__}: make it with create_trainer.")


def _is_over(found: Generation, trainer: Trainer) -> bool:
    """Whether the training had ended, and no more epochs are asked for than then."""
    position = found.position
    return position.finished == "stopped" or (position.finished == "epochs" and position.epoch >= (trainer.max_epochs or 0))


def _restore(found: Generation, model: LightningModule, trainer: Trainer) -> None:
    logger.info("The training had ended after epoch %d; nothing is left to train.", found.position.epoch)
    content = read_checkpoint(found.path)
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in content["callbacks"]:
            callback.load_state_dict(content["callbacks"][callback.state_key])
    checkpoint = find_callback(trainer, TrainingCheckpoint)
    checkpoint.on_fit_start(trainer, model)


def _run(found: Generation | None, model: LightningModule, datamodule: LightningDataModule, trainer: Trainer) -> None:
    if found is not None:
        epoch, batch = found.position.epoch, found.position.batch
        logger.info("The training continues after epoch %d, batch %d of the next (%s).", epoch, batch, found.path)
        if isinstance(datamodule, ResumableData):
            datamodule.resume(epoch, batch)
        elif batch:
            raise MMLMisconfigurationException(
                f"The data module {type(datamodule).__name__} cannot begin after batch {batch} of an epoch. "
                f"Implement resume(epoch, batch), or remove '{found.path.parent}' to train again."
            )
    path = None if found is None else str(found.path)
    with quiet(), _keyboard_interrupt():
        trainer.fit(model, datamodule=datamodule, ckpt_path=path, weights_only=True)
    trainer.fit_loop._combined_loader = None  # its loader processes would live as long as the trainer


def _result(model: LightningModule, trainer: Trainer, loss: str, found: Generation | None) -> FitResult:
    rows = find_callback(trainer, MetricsTracker).rows
    checkpoint = find_callback(trainer, TrainingCheckpoint)
    best = next((c for c in trainer.callbacks if isinstance(c, BestWeights)), None)  # type: ignore[attr-defined]
    last_state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    recorded = [row[loss] for row in rows if loss in row]
    score = best.score if best is not None else recorded[-1] if recorded else None
    if score is None or not math.isfinite(score):
        logger.warning("The training did not measure a finite %s: its score is NaN.", best.monitor if best is not None else loss)
        score = math.nan
    return FitResult(
        score=score,
        monitor=best.monitor if best is not None else loss,
        metrics=[dict(row) for row in rows],
        best_state=best.state if best is not None and best.state is not None else last_state,
        last_state=last_state,
        seconds=checkpoint.seconds,
        epochs=len(rows),
        best_epoch=None if best is None else best.epoch,
        resumed=None if found is None else (found.position.epoch, found.position.batch),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Mute Lightning's advice: on loader processes, and on resuming inside an epoch, which is exact here."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*dataloader is not resumable.*",
            ".*module\\(s\\) in eval mode.*",
            ".*across ranks is zero.*",
            ".*isinstance\\(treespec, LeafSpec\\).*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*`_get_pg_default_device`.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


@contextlib.contextmanager
def _keyboard_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C: Lightning would ignore the signal from then on, and exit."""
    try:
        before = signal.getsignal(signal.SIGINT)
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from error
        raise
