"""Helpers of a model: its configuration as a ``DictConfig``, renaming of its state, the seed of its initial weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.losses import LossConfig
from mml_ray.seeding import keyed_seed


def rename_keys(state_dict: Mapping[str, Any], rename: Callable[[str], str]) -> OrderedDict[str, Any]:
    """``state_dict`` with other names and the same ``_metadata``; tensors are shared, a collision raises ``KeyError``."""
    renamed: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        name = rename(key)
        if name in renamed:
            raise KeyError(f"Two entries of the state become '{name}'; one of them is '{key}'.")
        renamed[name] = value
    if hasattr(state_dict, "_metadata"):
        renamed._metadata = state_dict._metadata  # type: ignore[attr-defined]  # where torch keeps it
    return renamed


@contextmanager
def seeded(seed: int | None, *parts: Any) -> Iterator[None]:
    """Set torch's CPU generator to ``keyed_seed(seed, *parts)`` inside the context; ``None`` leaves it alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(keyed_seed(seed, *parts))
        yield


def as_config(config: Any) -> DictConfig:
    """A mapping, an instance of a ``Config`` or null as a ``DictConfig``; losses become plain mappings."""
    if is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in fields(config)}
    if not isinstance(config, Mapping | None):
        raise MMLMisconfigurationException(f"A model configuration must be a mapping, got {type(config).__name__}.")
    if isinstance(config, DictConfig):
        return config
    return OmegaConf.create({key: _loss_items(value) for key, value in (config or {}).items()})


def _loss_items(value: Any) -> Any:
    if isinstance(value, LossConfig):
        return vars(value)
    return [_loss_items(item) for item in value] if isinstance(value, (list, tuple)) else value
