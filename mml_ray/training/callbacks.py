"""Callbacks by name (registry kind ``callback``), from the configuration group ``callbacks``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, StochasticWeightAveraging

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.registry import registry
from mml_ray.tasks.kinds import check_fact
from mml_ray.training.options import CallbackOptions, callback_options

registry.require_base("callback", Callback)


def create_callbacks(configs: Mapping[str, CallbackOptions | Mapping[str, Any] | None]) -> list[Callback]:
    """The callbacks of ``{id: options}``; without a name the id is the name."""
    return [_create(identity, callback_options(identity, config)) for identity, config in configs.items()]


def _create(identity: str, options: CallbackOptions) -> Callback:
    params = options.plain()
    name = params.pop("name", None) or identity
    cls = registry.lookup("callback", name)
    try:
        made: Callback = cls(**params)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise MMLMisconfigurationException(f"cbs.{identity}: '{name}' cannot be created with {params}: {error}") from error
    return made


@registry.register_callback("learning_rate_monitor")
class LearningRateMonitor(Callback):
    """Records the learning rate of the epoch's last step as ``lr`` (``lr/<group>`` if there are several groups)."""

    def __init__(self) -> None:
        self._rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the rates before schedules step on."""
        self._rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log them."""
        several = len(self._rates) > 1
        pl_module.log_dict({f"lr/{i}" if several else "lr": rate for i, rate in enumerate(self._rates)})


class _Mixing(Callback):
    """Mixes the samples of a training batch pairwise; the targets become probabilities, so such batches have no train metrics."""

    def __init__(self, function: str, **settings: Any) -> None:
        """``function`` of :mod:`mml_ray.data.augment.mix`, with its settings."""
        self._function, self._settings = function, settings

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Mix every task of the batch, in place; the draw follows torch's generator, which is keyed by the step."""
        from mml_ray.data.augment import mix

        for task, fields in batch.items():
            spec = getattr(pl_module, "specs", {}).get(task)
            if spec is None:
                raise MMLMisconfigurationException(f"mixup and cutmix need a model that knows the type of task '{task}'.")
            check_fact(spec.kind, "mixable", what="Mixing of samples (mixup, cutmix)", task=task)
            seed = int(torch.randint(2**62, ()).item())
            fields["image"], fields["targets"] = getattr(mix, self._function)(
                fields["image"], fields["targets"], num_classes=spec.num_classes, seed=seed, **self._settings
            )


@registry.register_callback("mixup")
class MixUp(_Mixing):
    """Mixup (Zhang et al. 2018), see :func:`mml_ray.data.augment.mix.mixup`."""

    def __init__(self, alpha: float = 0.4, label_smoothing: float = 0.0) -> None:
        super().__init__("mixup", alpha=alpha, label_smoothing=label_smoothing)


@registry.register_callback("cutmix")
class CutMix(_Mixing):
    """CutMix (Yun et al. 2019), see :func:`mml_ray.data.augment.mix.cutmix`."""

    def __init__(self, alpha: float = 0.4, label_smoothing: float = 0.0, minmax: list[float] | None = None) -> None:
        super().__init__("cutmix", alpha=alpha, label_smoothing=label_smoothing, minmax=minmax)


@registry.register_callback("device_stats_monitor")
class DeviceStats(Callback):
    """Records what a training takes, after each epoch: ``stats/rss_gb`` of the process, ``stats/gpu_gb`` at most on the GPU."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's peak."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log both, in 10^9 bytes."""
        values = {"stats/rss_gb": psutil.Process().memory_info().rss / 1e9}
        if pl_module.device.type == "cuda":
            values["stats/gpu_gb"] = torch.cuda.max_memory_allocated(pl_module.device) / 1e9
        pl_module.log_dict(values)


@registry.register_callback("early_stopping")
class MMLEarlyStopping(EarlyStopping):
    """Stops when ``monitor`` has not improved for ``patience`` epochs."""

    def __init__(self, monitor: str = "val/loss", mode: str = "min", patience: int = 10, **kwargs: Any) -> None:
        super().__init__(monitor=monitor, mode=mode, patience=patience, **kwargs)


@registry.register_callback("stochastic_weight_averaging")
class MMLStochasticWeightAveraging(StochasticWeightAveraging):
    """Averages the weights of the last epochs (Izmailov et al. 2018)."""

    def __init__(self, swa_lrs: float | list[float] = 0.005, **kwargs: Any) -> None:
        super().__init__(swa_lrs=swa_lrs, **kwargs)
