"""What an architecture is: images in, features out; heads are put on top by the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.kinds import kind_of_route


class Features(NamedTuple):
    """``pooled`` [N, D] describes the image, ``dense`` [N, E, h, w] its places; an architecture gives at least one."""

    pooled: Tensor | None
    dense: Tensor | None


#: configuration route -> the features its head needs, where its TaskKind does not say so; plugins may add theirs
NEEDS: dict[str, str] = {}


def needed_features(route: str) -> str:
    """``pooled`` or ``dense``: the features that the heads of a configuration route need."""
    return NEEDS.get(route) or kind_of_route(route).features


class Architecture(nn.Module):
    """Base of architectures. ``pooled_dim`` and ``dense_dim`` are the channels of the features, 0 where there are none.

    ``mean`` and ``std`` are those its pretrained weights expect of images; null where there are no such weights.
    """

    name: str = ""
    pooled_dim: int = 0
    dense_dim: int = 0
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def forward_features(self, images: Tensor) -> Features:
        """Features of ``images`` [N, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} has to implement forward_features(self, images).")

    def forward(self, images: Tensor) -> Features:
        return self.forward_features(images)

    def supports(self, route: str) -> bool:
        """Whether a head for tasks of this configuration route can be put on top."""
        return bool(self.pooled_dim if needed_features(route) == "pooled" else self.dense_dim)


class PooledNet(Architecture):
    """A network without its classifier: one vector per image."""

    def __init__(self, name: str, network: nn.Module, pooled_dim: int) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.pooled_dim = pooled_dim

    def forward_features(self, images: Tensor) -> Features:
        """``pooled`` only."""
        return Features(self.network(images).flatten(1), None)


def pad_to(images: Tensor, multiple: int, least: int = 0) -> Tensor:
    """``images`` with their last row and column repeated until both sides are a ``multiple`` and ``least`` long."""
    more = [max(least, side + -side % multiple) - side for side in (images.shape[-1], images.shape[-2])]
    # without need it is left out: its gradient has no deterministic form on CUDA
    return F.pad(images, (0, more[0], 0, more[1]), mode="replicate") if any(more) else images


def take(params: Mapping[str, Any], defaults: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """``params`` over ``defaults``; other keys raise, naming those that there are (``drop_rate`` belongs to heads)."""
    unknown = sorted(set(params) - set(defaults) - {"drop_rate"})
    if unknown:
        raise MMLMisconfigurationException(
            f"arch.{', arch.'.join(unknown)}: not known to the backend '{backend}', which takes {', '.join(defaults)}, drop_rate."
        )
    return {key: params.get(key, default) for key, default in defaults.items()}
