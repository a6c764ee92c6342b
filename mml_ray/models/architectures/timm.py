"""Image models of timm: one vector per image, with or without pretrained weights (``pip install 'mml-ray[timm]'``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.architectures.base import Architecture, PooledNet, take
from mml_ray.models.architectures.extras import load_extra, with_weights


def check_model(name: str) -> None:
    """Raises :class:`UnknownNameError` if timm has no such model."""
    timm = load_extra("timm", "timm", "timm")
    if not timm.is_model(name):
        raise UnknownNameError.of("model of arch=timm", name, timm.list_models())


def create(params: Mapping[str, Any]) -> Architecture:
    """``name`` (default ``resnet34``), ``pretrained`` (true), ``in_channels`` (3), ``params`` for ``timm.create_model``."""
    chosen = take(params, {"name": "resnet34", "pretrained": True, "in_channels": 3, "params": {}}, "timm")
    timm = load_extra("timm", "timm", "timm")
    name, pretrained = str(chosen["name"]), bool(chosen["pretrained"])
    check_model(name)
    more = dict(chosen["params"] or {})

    def make() -> Any:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=int(chosen["in_channels"]), **more)

    try:
        network = with_weights(make, name, "arch.pretrained=false")
    except TypeError as error:
        raise MMLMisconfigurationException(f"arch.params={more} for '{name}': {error}") from error
    made = PooledNet(name, network, int(getattr(network, "head_hidden_size", None) or network.num_features))
    made.mean, made.std = tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"])
    return made
