"""Optimizers and learning-rate schedules by name, from plain configurations ``{"name": ..., **parameters}``.

A schedule is registered as a function of :class:`ScheduleTarget` that returns Lightning's dictionary (``scheduler``,
``interval``, ``monitor``). Which parameters a name takes is what its function takes; others raise a user error that lists
them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import lr_scheduler as schedules

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.options import LrSchedulerOptions, OptimizerOptions
from mml_ray.options import no_option_message
from mml_ray.registry import registry

if TYPE_CHECKING:
    from mml_ray.models.base import BaseModel

DEFAULT_OPTIMIZER: dict[str, Any] = {"name": "adam", "lr": 5e-4}

for _name, _cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
    registry.add("optimizer", _name, _cls)


@dataclass(frozen=True)
class ScheduleTarget:
    """What a schedule works on: the optimizer, and how long the training is, in epochs and in optimizer steps."""

    optimizer: torch.optim.Optimizer
    max_epochs: int
    total_steps: Callable[[], int]


def configure(model: BaseModel) -> Any:
    """What ``configure_optimizers`` returns for ``config.optimizer`` and ``config.lr_scheduler`` of ``model``."""
    options = OptimizerOptions.of(model.setting("optimizer", DEFAULT_OPTIMIZER))
    if model.lr is not None:
        options = options.model_copy(update={"lr": model.lr})
    optimizer = build_optimizer(_parameters(model, options), options)
    schedule = LrSchedulerOptions.of(model.setting("lr_scheduler"))
    if not schedule.name:
        return optimizer
    trainer = model.trainer
    target = ScheduleTarget(optimizer, trainer.max_epochs or 1, lambda: int(trainer.estimated_stepping_batches))
    return {"optimizer": optimizer, "lr_scheduler": build_schedule(target, schedule)}


def build_optimizer(parameters: Iterable[Any], given: OptimizerOptions | Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that the options name, over ``parameters`` (tensors or groups)."""
    options = OptimizerOptions.of(given)
    factory, params = _resolve("optimizer", options, skip=("params",))
    params = {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}
    made: torch.optim.Optimizer = _call("optimizer", options.name, lambda: factory(list(parameters), **params))
    return made


def build_schedule(target: ScheduleTarget, given: LrSchedulerOptions | Mapping[str, Any]) -> dict[str, Any]:
    """Lightning's description of the schedule that the options name."""
    options = LrSchedulerOptions.of(given)
    factory, params = _resolve("scheduler", options, skip=("target",))
    made: dict[str, Any] = _call("lr_scheduler", str(options.name), lambda: factory(target, **params))
    return made


def _parameters(model: BaseModel, options: OptimizerOptions) -> list[Any]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    custom = getattr(model, "get_optimizer_parameters", None)
    chosen: list[Any] = trainable if custom is None else list(custom(options.plain()))
    if not chosen:
        raise MMLMisconfigurationException("The model has no parameter that is trained; unfreeze some, or give it some.")
    named = {id(p) for group in chosen for p in (group["params"] if isinstance(group, Mapping) else [group])}
    left_out = sum(id(p) not in named for p in trainable)
    if left_out:
        warnings.warn(f"{left_out} trainable parameters are not given to the optimizer.", UserWarning, stacklevel=2)
    return chosen


def _resolve(kind: str, options: OptimizerOptions | LrSchedulerOptions, skip: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    if not options.name:
        raise MMLMisconfigurationException(f"{options.group}.name must be one of {', '.join(registry.names(kind))}, got null.")
    factory = registry.lookup(kind, options.name)
    params = {key: value for key, value in options.plain().items() if key != "name"}
    signature = inspect.signature(factory).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values()):
        allowed = [name for name in signature if name not in (*skip, "self")]
        for name in sorted(set(params) - set(allowed)):
            raise MMLMisconfigurationException(no_option_message(f"{options.group}={options.name}", name, allowed))
    return factory, params


def _call(kind: str, name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise MMLMisconfigurationException(f"{kind}={name} cannot be built: {error}") from error


def _by_epoch(scheduler: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "epoch", "frequency": 1}


def cosine(target: ScheduleTarget, T_max: int | None = None, eta_min: float = 0.0) -> dict[str, Any]:
    """Cosine down to ``eta_min`` over ``T_max`` epochs (all of them)."""
    return _by_epoch(schedules.CosineAnnealingLR(target.optimizer, T_max or target.max_epochs, eta_min))


def cosine_restart(target: ScheduleTarget, T_0: int = 25, T_mult: int = 1, eta_min: float = 0.0) -> dict[str, Any]:
    """Cosine, restarted after ``T_0`` epochs (Loshchilov and Hutter 2017)."""
    return _by_epoch(schedules.CosineAnnealingWarmRestarts(target.optimizer, T_0, T_mult, eta_min))


def exponential(target: ScheduleTarget, gamma: float = 0.99) -> dict[str, Any]:
    """Times ``gamma`` each epoch."""
    return _by_epoch(schedules.ExponentialLR(target.optimizer, gamma))


def step(target: ScheduleTarget, step_size: int = 25, gamma: float = 0.1) -> dict[str, Any]:
    """Times ``gamma`` every ``step_size`` epochs."""
    return _by_epoch(schedules.StepLR(target.optimizer, step_size, gamma))


def plateau(
    target: ScheduleTarget,
    mode: str = "min",
    factor: float = 0.1,
    patience: int = 5,
    threshold: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
    monitor: str = "val/loss",
) -> dict[str, Any]:
    """Times ``factor`` when ``monitor`` has not improved for ``patience`` epochs."""
    scheduler = schedules.ReduceLROnPlateau(
        target.optimizer,
        mode,  # type: ignore[arg-type]
        factor=factor,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
    )
    return {**_by_epoch(scheduler), "monitor": monitor}


def one_cycle(
    target: ScheduleTarget,
    max_lr: float | None = None,
    total_steps: int | str | None = "auto",
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> dict[str, Any]:
    """Up to ``max_lr`` (the optimizer's rate) and down again, once, step by step (Smith and Topin 2017)."""
    needed = target.total_steps()
    steps = needed if total_steps in ("auto", None) else int(total_steps or 0)
    if steps < needed:
        raise ValueError(f"total_steps={steps}, but this training has {needed} steps; auto counts them.")
    peak = target.optimizer.param_groups[0]["lr"] if max_lr is None else max_lr
    scheduler = schedules.OneCycleLR(
        target.optimizer, peak, total_steps=steps, pct_start=pct_start, div_factor=div_factor, final_div_factor=final_div_factor
    )
    return {"scheduler": scheduler, "interval": "step", "frequency": 1}


for _schedule in (cosine, cosine_restart, exponential, step, plateau, one_cycle):
    registry.add("scheduler", _schedule.__name__, _schedule)
