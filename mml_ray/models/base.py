"""``BaseModel``, the base of every model. A subclass implements ``build`` and ``forward``; losses are computed by the base.

A model is built by ``__init__(config)`` -> ``build()`` -> ``init_losses()``; ``mml_ray.models.build_model`` does all three, Lightning
does it through ``configure_model``. Calling a model runs ``forward`` and fills ``output["losses"]``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from omegaconf import MISSING, DictConfig, OmegaConf
from torch import Tensor

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.losses import Losses
from mml_ray.models.meters import EpochMeter
from mml_ray.models.sample import ContractError, convert_batch_to_sample_list, to_device
from mml_ray.models.state import as_config, rename_keys
from mml_ray.registry import registry

PHASES = ("train", "val", "test")


class BaseModel(LightningModule):
    """Base of all models. ``config`` may be a mapping, a ``Config`` or null; it is kept as a ``DictConfig`` in ``config``.

    The epoch's losses are means over samples and are logged as ``<phase>/<data set>/<loss>`` and ``<phase>/loss``. They live in
    :attr:`meters`, are part of a checkpoint, and so survive a resume within an epoch.
    """

    @dataclass
    class Config:
        """What a configuration holds; subclasses extend it."""

        model: str = MISSING
        losses: Any = MISSING

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config: DictConfig = as_config(config)
        self.is_pretrained = False
        self.is_pl_enabled = False
        self.meters: dict[str, EpochMeter] = {phase: EpochMeter() for phase in PHASES}
        self.lr: float | None = None  # found by a learning rate search; takes precedence over the configuration
        self._built = False
        self._losses_ready = False
        self._warned_losses = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            type.__setattr__(cls, "build", _marking_built(cls.__dict__["build"]))

    @classmethod
    def from_params(cls, **kwargs: Any) -> BaseModel:
        """A model, not built, of the keyword arguments that its ``Config`` takes; others raise ``TypeError``."""
        return cls(cls.Config(**kwargs))

    @classmethod
    def config_path(cls) -> str | None:
        """The path of the default configuration; ``None`` by default."""
        return None

    # -- building -----------------------------------------------------------------------------------------------
    def build(self) -> None:
        """Create the submodules; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} must implement build(self).")

    def init_losses(self) -> None:
        """Create ``self.losses`` from ``config.losses``; a second call replaces them."""
        given = self.setting("losses")
        if not given and not self.is_pretrained and "losses" not in self.config:
            warnings.warn("No losses are defined in the configuration; forward() must return them.", UserWarning, stacklevel=2)
        self.losses = Losses(given)
        self._losses_ready = True

    def ensure_built(self) -> None:
        """Build the model and create its losses, unless that was done."""
        if not self._built:
            self.build()
            self._built = True
        if not self._losses_ready:
            self.init_losses()
            self._losses_ready = True

    configure_model = ensure_built  # Lightning's hook

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting as plain data; ``default`` if it is absent, null or missing."""
        if name not in self.config or OmegaConf.is_missing(self.config, name):
            return default
        value = self.config[name]
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        return default if value is None else value

    # -- calling ------------------------------------------------------------------------------------------------
    def forward(self, sample_list: Any, *args: Any, **kwargs: Any) -> Any:
        """The output mapping of a batch, with ``scores`` where losses are to be computed; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(self, sample_list).")

    def __call__(self, sample_list: Any, *args: Any, **kwargs: Any) -> Any:
        """``forward`` on the model's device, with ``losses`` filled in (unless the model is pretrained)."""
        if self._is_redirected():
            return super().__call__(sample_list, *args, **kwargs)
        if not self.is_pl_enabled:
            sample_list = self.prepare_batch(sample_list)
        output = super().__call__(sample_list, *args, **kwargs)
        if self.is_pretrained:
            return output
        if not isinstance(output, Mapping):
            raise ContractError(f"A dict must be returned from the forward of the model, got {type(output).__name__}.")
        if "losses" in output:
            self._check_own_losses(output)
        else:
            output["losses"] = self.compute_losses(sample_list, output)  # type: ignore[index]
        return output

    def prepare_batch(self, batch: Any) -> Any:
        """The batch as this model's ``forward`` takes it, on its device."""
        return to_device(batch, self.device)

    def compute_losses(self, sample_list: Any, output: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch by name; empty before :meth:`init_losses`."""
        return self.losses(sample_list, output) if self._losses_ready else {}

    def total_loss(self, output: Mapping[str, Any]) -> Tensor:
        """What is minimized: the sum of the means of ``output["losses"]``."""
        return torch.stack([value.mean() for value in output["losses"].values()]).sum()

    def format_for_prediction(self, results: Any, report: Any) -> Any:
        """A hook to change predictions; unchanged by default."""
        return results

    def _check_own_losses(self, output: Mapping[str, Any]) -> None:
        if not self._warned_losses:
            self._warned_losses = True
            warnings.warn("'losses' already present in the model's output; none are computed.", UserWarning, stacklevel=3)
        if not isinstance(output["losses"], Mapping):
            raise ContractError(f"'losses' must be a dict, got {type(output['losses']).__name__}.")

    def _is_redirected(self) -> bool:
        """Whether a wrapper (DDP) has replaced ``forward`` by one of our steps, whose result is not an output."""
        replaced = self.__dict__.get("forward")
        if replaced is None or torch.compiler.is_compiling():
            return False
        replaced = getattr(replaced, "_torchdynamo_orig_callable", replaced)
        return getattr(replaced, "__self__", None) is not self

    # -- steps --------------------------------------------------------------------------------------------------
    def training_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The output with its ``loss``; raises a user error without any loss."""
        output = self._step(batch, "train")
        if "loss" not in output:
            raise MMLMisconfigurationException(
                f"{type(self).__name__} has no loss to train with: set 'losses', or return them from forward()."
            )
        return output

    def validation_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The output, with ``loss`` where there are losses."""
        return self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`validation_step`."""
        return self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The output, through :meth:`format_for_prediction`."""
        batch = self.prepare_batch(batch)
        return self.format_for_prediction(self(batch), batch)

    def _step(self, batch: Any, phase: str) -> Any:
        batch = self.prepare_batch(convert_batch_to_sample_list(batch))
        output = self(batch)
        if output.get("losses"):
            output["loss"] = self.total_loss(output)
        self.measure(batch, output, phase)
        return {key: v.detach() if isinstance(v, Tensor) and key != "loss" else v for key, v in output.items()}

    def measure(self, batch: Any, output: Mapping[str, Any], phase: str) -> None:
        """Add one batch to the phase's meter."""
        count = batch.get_batch_size()
        for name, value in (output.get("losses") or {}).items():
            self.meters[phase].add_loss(name, value.detach().mean(), count)

    def summarize(self, phase: str) -> dict[str, float]:
        """What is logged at the end of a phase: the epoch's means, and their total as ``<phase>/loss``."""
        values = self.meters[phase].losses()
        return {**values, f"{phase}/loss": sum(values.values())} if values else {}

    def on_train_epoch_start(self) -> None:
        self.meters["train"].reset()

    def on_validation_epoch_start(self) -> None:
        self.meters["val"].reset()

    def on_test_epoch_start(self) -> None:
        self.meters["test"].reset()

    def on_train_epoch_end(self) -> None:
        self._log_phase("train")

    def on_validation_epoch_end(self) -> None:
        self._log_phase("val")

    def on_test_epoch_end(self) -> None:
        self._log_phase("test")

    def _log_phase(self, phase: str) -> None:
        several = torch.distributed.is_available() and torch.distributed.is_initialized()  # then the values are of all processes
        self.log_dict(self.summarize(phase), batch_size=1, sync_dist=several)
        self.meters[phase].reset()

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule that ``config.optimizer`` and ``config.lr_scheduler`` name (Adam, constant rate)."""
        from mml_ray.models.optimizers import configure

        return configure(self)

    # -- state --------------------------------------------------------------------------------------------------
    @classmethod
    def format_state_key(cls, key: str) -> str:
        """The current name of a stored parameter; must be idempotent. Identity by default."""
        return key

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's, with every key passed through :meth:`format_state_key`; two keys that become equal raise ``KeyError``."""
        return super().load_state_dict(rename_keys(state_dict, self.format_state_key), *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds ``config`` and the running epoch's ``meters`` as plain data and tensors."""
        checkpoint["config"] = self.plain_config()
        checkpoint["meters"] = {"train": self.meters["train"].state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Builds what is not built yet; accepts Lightning checkpoints and bare weights."""
        self.ensure_built()
        if "state_dict" not in checkpoint:
            weights = {key: checkpoint.pop(key) for key in list(checkpoint) if isinstance(checkpoint[key], Tensor)}
            checkpoint["state_dict"] = rename_keys(weights, self.format_state_key)
        if "meters" in checkpoint:
            self.meters["train"].load(checkpoint["meters"]["train"])

    def plain_config(self) -> dict[str, Any]:
        """The configuration, resolved, as dictionaries and lists."""
        plain = OmegaConf.to_container(self.config, resolve=True, throw_on_missing=False)
        return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}


def _marking_built(build: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(build)
    def marked(self: BaseModel) -> None:
        build(self)
        self._built = True

    return marked


registry.require_base("model", BaseModel)
