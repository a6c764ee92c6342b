"""The settings of a model: architecture, optimizer, schedule, losses, metrics. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, model_validator

from mml_ray.options import LIST, AtLeastOne, Count, Field, NonNegative, Numbers, Options, Positive, Text, Texts

Share = Annotated[float, Field(ge=0, lt=1)]


class ArchOptions(Options):
    """The network. Further keys belong to the backend (``pretrained``, ``encoder``, ``weights``)."""

    model_config = ConfigDict(extra="allow")
    group = "arch"

    backend: Text = "monai"
    name: Text = "resnet_small"
    drop_rate: Share = 0.0
    params: dict[str, Any] | None = {}


class OptimizerOptions(Options):
    """The optimizer by its registered name. Further keys are parameters of its class."""

    model_config = ConfigDict(extra="allow")
    group = "optimizer"

    name: Text
    lr: Positive = 5e-4
    betas: Annotated[tuple[Share, Share], LIST] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    momentum: NonNegative = 0.0
    dampening: NonNegative = 0.0


class LrSchedulerOptions(Options):
    """The learning-rate schedule by its registered name; null: the rate stays. Further keys are parameters of its function."""

    model_config = ConfigDict(extra="allow")
    group = "lr_scheduler"

    name: Text | None = None
    T_max: AtLeastOne | None = None
    T_0: AtLeastOne = 25
    step_size: AtLeastOne = 25
    gamma: Positive = 0.1
    mode: Literal["min", "max"] = "min"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Count = 5
    threshold: NonNegative = 1e-4
    monitor: Text = "val/loss"
    max_lr: Positive | None = None
    total_steps: Literal["auto"] | AtLeastOne | None = "auto"


def _as_items(given: Any) -> Any:
    """All forms that a list of losses or metrics may have: a name, a mapping, or a list of them; null means the usual ones."""
    if given is None:
        return None
    items = given if isinstance(given, list | tuple) else [given]
    return [{"type": item} if isinstance(item, str) else item for item in items]


class LossItem(Options):
    """One loss: ``weight`` multiplies it, ``datasets`` (if given) limits it to these data sets."""

    type: Text
    params: Any = None
    weight: float = 1.0
    datasets: Texts | None = None


class MetricItem(Options):
    """One metric; ``key`` is the name it is logged by."""

    type: Text
    params: dict[str, Any] | None = None
    key: Text | None = None


LossItems = Annotated[Annotated[tuple[LossItem, ...], LIST] | None, BeforeValidator(_as_items)]
MetricItems = Annotated[Annotated[tuple[MetricItem, ...], LIST] | None, BeforeValidator(_as_items)]


class LossOptions(Options):
    """Class weights, and by kind of task (further keys) its losses."""

    model_config = ConfigDict(extra="allow")
    group = "loss"
    __pydantic_extra__: dict[str, LossItems]

    auto_activate_weighing: bool = False
    class_weights: Numbers | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.class_weights and self.auto_activate_weighing:
            raise ValueError(".class_weights needs loss.auto_activate_weighing=false, which is true.")
        return self


class MetricsOptions(Options):
    """The resamples of a test, and by kind of task (further keys) its metrics."""

    model_config = ConfigDict(extra="allow")
    group = "metrics"
    __pydantic_extra__: dict[str, MetricItems]

    bootstrap: Count | None = 0


class CompileOptions(Options):
    """Compilation of the network; ``kwargs`` go to ``torch.compile``."""

    group = "compile"

    enable: bool = False
    kwargs: dict[str, Any] | None = {}


class PeftOptions(Options):
    """Adapters; null: all weights are trained."""

    group = "peft"

    name: Text | None = None
    r: AtLeastOne = 8
    target_modules: Literal["auto"] | Texts = "auto"
    exclude_modules: Texts | None = None
