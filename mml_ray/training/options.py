"""The settings of one training: trainer, callbacks, the search before it. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, field_validator, model_validator

from mml_ray.options import (
    AS_TEXT,
    LIST,
    AtLeastOne,
    Count,
    Field,
    Fraction,
    NonNegative,
    Options,
    Positive,
    Text,
    build,
    in_words,
)

ONE_DEVICE = "One training runs on one device; several devices train several folds side by side."
Limit = Count | Fraction


class TrainerOptions(Options):
    """How one training runs. Further keys are arguments of Lightning's ``Trainer``.

    ``precision`` ``auto`` is ``32-true`` on a CPU, ``bf16-mixed`` on a GPU that has it, else ``16-mixed``. ``min_epochs`` is cut to
    ``max_epochs``.
    """

    model_config = ConfigDict(extra="allow")
    group = "trainer"

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Literal["auto"] | Annotated[int, Field(ge=-1)] | Annotated[tuple[int, ...], LIST] = 1
    strategy: Any = "auto"
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "bf16", "64", "32", "16"], AS_TEXT
    ] = "auto"
    min_epochs: Count | None = None
    max_epochs: AtLeastOne = 50
    max_time: str | dict[str, Any] | None = None
    benchmark: bool | None = None
    deterministic: Literal["warn"] | bool = False
    accumulate_grad_batches: AtLeastOne = 1
    gradient_clip_val: NonNegative | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    check_val_every_n_epoch: AtLeastOne | None = 1
    val_check_interval: AtLeastOne | Annotated[float, Field(gt=0, le=1)] | None = None
    limit_train_batches: Limit | None = None
    limit_val_batches: Limit | None = None
    limit_test_batches: Limit | None = None
    limit_predict_batches: Limit | None = None
    overfit_batches: Limit = 0
    checkpoint_every_minutes: Positive | None = 30.0
    enable_progress_bar: bool = True

    @field_validator("max_time")
    @classmethod
    def _check_duration(cls, given: Any) -> Any:
        if isinstance(given, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", given):
            raise ValueError(f"must be null or days:hours:minutes:seconds, as in 00:12:00:00, got '{given}'.")
        return given

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        count = len(self.devices) if isinstance(self.devices, tuple) else self.devices
        if count not in (1, "auto", -1) and isinstance(self.strategy, str):
            raise ValueError(f".devices must be 1, got {in_words(self.devices)}. {ONE_DEVICE}")
        return self


class CallbackOptions(Options):
    """One entry of ``cbs``: the registered name (else its id is the name), and the parameters of the callback."""

    model_config = ConfigDict(extra="allow")

    name: Text | None = None
    monitor: Text | None = None


class EarlyStoppingOptions(CallbackOptions):
    """``early_stopping``."""

    monitor: Text = "val/loss"
    mode: Literal["min", "max"] = "min"
    patience: Count = 10


class WeightAveragingOptions(CallbackOptions):
    """``stochastic_weight_averaging``."""

    swa_lrs: Positive | Annotated[tuple[Positive, ...], LIST] = 0.005


class MixingOptions(CallbackOptions):
    """``mixup`` and ``cutmix``."""

    alpha: Positive = 0.4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    minmax: Annotated[tuple[Fraction, Fraction], LIST] | None = None


#: registered name to options; any other callback takes what its class takes
CALLBACKS: dict[str, type[CallbackOptions]] = {
    "early_stopping": EarlyStoppingOptions,
    "stochastic_weight_averaging": WeightAveragingOptions,
    "mixup": MixingOptions,
    "cutmix": MixingOptions,
}


def callback_options(identity: str, given: CallbackOptions | Mapping[str, Any] | None) -> CallbackOptions:
    """The options of one callback, by the name that is given or else its id."""
    if isinstance(given, CallbackOptions):
        return given
    return build(options_of_callback(identity, given), f"cbs.{identity}", given or {})


def options_of_callback(identity: str, given: Any) -> type[CallbackOptions]:
    """The class that holds the options of a callback."""
    name = given.get("name", identity) if isinstance(given, Mapping) else identity
    return CALLBACKS.get(str(name), CallbackOptions)


class TuneOptions(Options):
    """What is searched before a training."""

    group = "tune"

    lr: bool = False
    bs: bool = False
    lr_kwargs: dict[str, Any] = {}
    bs_kwargs: dict[str, Any] = {}
