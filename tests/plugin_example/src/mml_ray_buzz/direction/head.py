"""From an architecture's features to a direction."""

import torch.nn.functional as F
from torch import Tensor

from mml_ray.models.architectures.base import Features
from mml_ray.models.heads import PooledHead
from mml_ray.registry import registry


class DirectionHead(PooledHead):
    """A linear layer, and then the nearest point of the unit circle: ``[N, 2]``."""

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Cosine and sine for each image."""
        return F.normalize(super().forward(features, size), dim=1)


registry.add("head", "direction", DirectionHead)
