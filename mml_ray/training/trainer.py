"""A Lightning trainer from plain options: quiet, with verified checkpoints, keyed randomness, progress and a way to stop."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import StrategyRegistry

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.training.callbacks import create_callbacks
from mml_ray.training.checkpoints import VerifiedCheckpointIO
from mml_ray.training.loop import BestWeights, MetricsTracker, TrainingCheckpoint
from mml_ray.training.steps import KeyedRandomness, ProgressReport, Report

#: Lightning's own displays and checks: off, whatever a configuration says of them
_OFF = ("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")
#: what create_trainer decides itself; not to be given as an extra argument
_OWN = ("callbacks", "enable_checkpointing", "default_root_dir", "plugins", "logger", *_OFF)
#: those of the options that a configuration may give
_CONFIGURED = frozenset(
    "max_epochs min_epochs accelerator devices precision deterministic benchmark checkpoint_every_minutes".split()
)


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How a training runs.

    ``precision`` ``auto`` is ``32-true`` on a CPU, ``bf16-mixed`` on a GPU that has it, else ``16-mixed``. ``min_epochs`` is
    cut to ``max_epochs``. ``seed`` null: randomness is not keyed. ``monitor`` is ``(metric, "min" or "max")``: the best
    weights are kept. ``callbacks`` are configurations by id, ``{"early": {"name": "early_stopping", "patience": 5}}``.
    ``report`` is told the progress, ``should_stop`` is asked about once a second. ``extra`` goes to Lightning's ``Trainer``.
    """

    max_epochs: int = 10
    min_epochs: int | None = None
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    precision: str = "auto"
    deterministic: bool | str = False
    benchmark: bool | None = None
    seed: int | None = None
    checkpoint_dir: Path | None = None
    checkpoint_every_minutes: float | None = 30.0
    monitor: tuple[str, str] | None = None
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: Report | None = None
    report_seconds: float = 0.5
    should_stop: Callable[[], bool] | None = None
    poll_seconds: float = 1.0
    logger: Any = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> TrainerOptions:
        """From the plain configuration group ``trainer``: what is no option becomes ``extra``; ``options`` come on top.

        Progress bar, model summary and sanity check of Lightning are dropped: the driver shows the progress.
        """
        given = {key: value for key, value in config.items() if key in _CONFIGURED}
        extra = {key: value for key, value in config.items() if key not in _CONFIGURED and key not in _OFF}
        return cls(**{**given, "extra": extra, **options})


def create_trainer(options: TrainerOptions | None = None) -> Trainer:
    """The trainer for ``options``; wrong ones raise :class:`MMLMisconfigurationException`."""
    options = options or TrainerOptions()
    _silence()
    check_extra(options.extra)
    arguments = {
        "max_epochs": options.max_epochs,
        "min_epochs": None if options.min_epochs is None else min(options.min_epochs, options.max_epochs),
        "accelerator": options.accelerator,
        "devices": options.devices,
        "precision": choose_precision(options.precision, options.accelerator),
        "deterministic": options.deterministic or None,
        "benchmark": None if options.deterministic else options.benchmark,
        "logger": options.logger,
        "callbacks": _callbacks(options),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": options.checkpoint_dir or tempfile.gettempdir(),
        "plugins": [VerifiedCheckpointIO(), LightningEnvironment()],
        **options.extra,
    }
    try:
        trainer = Trainer(**arguments)
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise MMLMisconfigurationException(f"trainer: {error}") from error
    if trainer.world_size > 1 and isinstance(options.extra.get("strategy", "auto"), str):
        # Lightning would start this program again, or lose the result in the processes it starts
        raise MMLMisconfigurationException(
            f"trainer.devices={options.devices}: one training runs on one device. Several devices train several folds side by side."
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


def _callbacks(options: TrainerOptions) -> list[Any]:
    """Order matters: metrics are collected before anything is saved, the checkpoint comes last."""
    chosen: list[Any] = [] if options.seed is None else [KeyedRandomness(options.seed)]
    chosen += create_callbacks(options.callbacks)
    if options.report is not None:
        chosen.append(ProgressReport(options.report, seconds=options.report_seconds))
    chosen.append(MetricsTracker(options.report))
    if options.monitor is not None:
        chosen.append(BestWeights(*options.monitor))
    chosen.append(
        TrainingCheckpoint(
            options.checkpoint_dir,
            every_minutes=options.checkpoint_every_minutes,
            should_stop=options.should_stop,
            poll_seconds=options.poll_seconds,
        )
    )
    return chosen


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raises :class:`MMLMisconfigurationException` for the first argument that Lightning's ``Trainer`` does not have."""
    allowed = [name for name in inspect.signature(Trainer.__init__).parameters if name not in ("self", *_OWN)]
    for key in extra:
        if key not in allowed:
            raise MMLMisconfigurationException(unknown_name_message("trainer option", key, allowed))


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
