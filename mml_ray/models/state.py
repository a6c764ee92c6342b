"""Helpers of a model: its configuration as a ``DictConfig``, renaming of its state, the seed of its initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.losses import LossConfig
from mml_ray.seeding import keyed_seed


def rename_keys(state_dict: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """``state_dict`` with other names and the same ``_metadata``; tensors are shared, a collision raises ``KeyError``."""
    renamed: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = rename(key)
        if name in renamed:
            raise KeyError(f"Two entries of the state become '{name}'; one of them is '{key}'.")
        renamed[name] = value
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is None:
        return renamed
    with_metadata = _StateDict(renamed)
    with_metadata._metadata = metadata
    return with_metadata


class _StateDict(dict[str, Any]):
    """A dictionary that may carry torch's ``_metadata``."""

    _metadata: Any = None

    def copy(self) -> _StateDict:
        """Shallow, with the metadata (torch copies before loading)."""
        made = _StateDict(self)
        made._metadata = self._metadata
        return made


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
    if config is None:
        config = {}
    if is_dataclass(config) and not isinstance(config, type):
        config = {f.name: _loss_items(getattr(config, f.name)) for f in fields(config)}
    made = config if isinstance(config, DictConfig) else OmegaConf.create(_plain_mapping(config))
    if not isinstance(made, DictConfig):
        raise MMLMisconfigurationException(f"A model configuration must be a mapping, got {type(config).__name__}.")
    return made


def _plain_mapping(config: Any) -> Any:
    return {key: _loss_items(value) for key, value in config.items()} if isinstance(config, Mapping) else config


def _loss_items(value: Any) -> Any:
    if isinstance(value, LossConfig):
        return vars(value)
    return [_loss_items(item) for item in value] if isinstance(value, (list, tuple)) else value
