"""A Lightning trainer from plain options: quiet, with verified checkpoints, keyed randomness, progress and a way to stop."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.options import in_words, no_option_message
from mml_ray.store.files import LOCAL, Files
from mml_ray.training.callbacks import create_callbacks
from mml_ray.training.checkpoints import VerifiedCheckpointIO
from mml_ray.training.loop import BestWeights, MetricsTracker, TrainingCheckpoint
from mml_ray.training.options import ONE_DEVICE, CallbackOptions, TrainerOptions
from mml_ray.training.steps import KeyedRandomness, ProgressReport, Report

#: Lightning's own displays and checks: off, whatever a configuration says of them
_OFF = ("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
#: what create_trainer decides itself; not to be given as an extra argument
_OWN = ("callbacks", "enable_checkpointing", "default_root_dir", "plugins", "logger", *_OFF)


@dataclass(frozen=True, kw_only=True)
class TrainerContext:
    """What a run adds to the options of a trainer.

    ``seed`` null: randomness is not keyed. ``monitor`` is ``(metric, "min" or "max")``: the best weights are kept. ``report`` receives
    the progress, ``should_stop`` is called about once a second.
    """

    seed: int | None = None
    checkpoint_dir: Path | None = None
    files: Files = LOCAL
    monitor: tuple[str, str] | None = None
    callbacks: Mapping[str, CallbackOptions | Mapping[str, Any] | None] = field(default_factory=dict)
    report: Report | None = None
    report_seconds: float = 0.5
    should_stop: Callable[[], bool] | None = None
    poll_seconds: float = 1.0
    logger: Any = False


def create_trainer(options: TrainerOptions | None = None, context: TrainerContext | None = None) -> Trainer:
    """The trainer for ``options``; raises :class:`MMLMisconfigurationException` where Lightning refuses them."""
    options, context = options or TrainerOptions(), context or TrainerContext()
    _silence()
    _check_arguments(options.model_extra or {})
    given = options.model_dump(exclude_unset=True, exclude={*_OFF, "checkpoint_every_minutes"})
    arguments = {
        **given,
        "max_epochs": options.max_epochs,
        "min_epochs": None if options.min_epochs is None else min(options.min_epochs, options.max_epochs),
        "devices": options.devices if isinstance(options.devices, int | str) else list(options.devices),
        "precision": choose_precision(options.precision, options.accelerator),
        "deterministic": options.deterministic or None,
        "benchmark": None if options.deterministic else options.benchmark,
        "logger": context.logger,
        "callbacks": _callbacks(options, context),
        **dict.fromkeys(_OFF, 0),
        "default_root_dir": context.checkpoint_dir or tempfile.gettempdir(),
        "plugins": [VerifiedCheckpointIO(), LightningEnvironment()],
    }
    try:
        trainer = Trainer(**arguments)
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise MMLMisconfigurationException(f"trainer: {error}") from error
    if trainer.world_size > 1 and isinstance(options.strategy, str):
        # Lightning would start this program again, or lose the result in the processes it starts
        raise MMLMisconfigurationException(
            f"trainer.devices={in_words(options.devices)} means {trainer.world_size} devices here. {ONE_DEVICE}"
        )
    # SIGTERM is answered behind a checkpoint, as Ctrl-C is: Lightning would leave the training at the end of the batch, without one
    trainer._signal_connector.register_signal_handlers = _register_none  # type: ignore[method-assign]
    return trainer


def _register_none() -> None:
    """Signals stay with whoever handles them."""


def choose_precision(precision: str, accelerator: str = "auto") -> str:
    """What ``auto`` means on this machine; anything else as it is."""
    if str(precision) != "auto":
        return str(precision)
    if accelerator in ("cpu", "mps") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _callbacks(options: TrainerOptions, context: TrainerContext) -> list[Any]:
    """Order matters: metrics are collected before anything is saved, the checkpoint comes last."""
    chosen: list[Any] = [] if context.seed is None else [KeyedRandomness(context.seed)]
    chosen += create_callbacks(context.callbacks)
    if context.report is not None:
        chosen.append(ProgressReport(context.report, seconds=context.report_seconds))
    chosen.append(MetricsTracker(context.report))
    if context.monitor is not None:
        chosen.append(BestWeights(*context.monitor))
    chosen.append(
        TrainingCheckpoint(
            context.checkpoint_dir,
            files=context.files,
            every_minutes=options.checkpoint_every_minutes,
            should_stop=context.should_stop,
            poll_seconds=context.poll_seconds,
        )
    )
    return chosen


def _check_arguments(further: Iterable[str]) -> None:
    """Raises :class:`MMLMisconfigurationException` for the first argument that Lightning's ``Trainer`` does not have."""
    known = {*inspect.signature(Trainer.__init__).parameters, *TrainerOptions.declared()} - {"self", *_OWN}
    for key in further:
        if key not in (*known, *_OFF):
            raise MMLMisconfigurationException(no_option_message("trainer", key, known))


def check_strategy(strategy: Any) -> None:
    """Raises :class:`MMLMisconfigurationException` for the name of a strategy that Lightning does not have."""
    known = ["auto", *StrategyRegistry.available_strategies()]
    if isinstance(strategy, str) and strategy not in known:
        raise MMLMisconfigurationException(unknown_name_message("trainer.strategy", strategy, known))


def _silence() -> None:
    """Lightning's tips and hints are not for users of the command line; what it warns of is said once, where everything is said."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.propagate = True
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)
