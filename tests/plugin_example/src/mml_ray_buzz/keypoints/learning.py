"""Head, loss and metrics of the route ``kp``: points in pixels in, points in pixels out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mml_ray.metrics.definition import metric
from mml_ray.metrics.rows import Rows
from mml_ray.models.architectures.base import Architecture, Features
from mml_ray.models.heads import TaskSpec
from mml_ray.registry import registry


class LandmarkHead(nn.Module):
    """A map for each landmark; the landmark is where its map expects it: ``[N, K, 2]``.

    Nibali et al., "Numerical Coordinate Regression with Convolutional Neural Networks" (2018).
    """

    def __init__(self, architecture: Architecture, spec: TaskSpec, drop_rate: float) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Dropout2d(drop_rate), nn.Conv2d(architecture.dense_dim, spec.num_classes, kernel_size=1))

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """x and y in pixels, for images of ``size`` (height, width)."""
        maps = self.maps(features.dense)
        chances = maps.flatten(2).softmax(dim=2).view_as(maps)
        height, width = (torch.arange(side, device=maps.device, dtype=maps.dtype) for side in maps.shape[-2:])
        x, y = (chances.sum(2) * width).sum(2), (chances.sum(3) * height).sum(2)
        return torch.stack([x * (size[1] / maps.shape[-1]), y * (size[0] / maps.shape[-2])], dim=2)


registry.add("head", "kp", LandmarkHead)


@registry.register_loss("landmark_distance")
class LandmarkDistance(nn.Module):
    """Mean distance, as a share of the image's diagonal."""

    requires = ("targets",)

    def forward(self, sample_list: Mapping[str, Any], model_output: Mapping[str, Any]) -> Tensor:
        """The mean over samples and landmarks."""
        height, width = sample_list["image"].shape[-2:]
        distances = torch.linalg.vector_norm(model_output["scores"] - sample_list["targets"], dim=-1)
        return distances.mean() / (height**2 + width**2) ** 0.5


@metric("landmark_error", "kp")
def landmark_error(rows: Rows) -> float:
    """The mean distance between predicted and true landmarks, in pixels."""
    return float(np.linalg.norm(rows.scores - rows.targets, axis=-1).mean())


@metric("landmarks_found", "kp")
def landmarks_found(rows: Rows, pixels: float = 5.0) -> float:
    """The share of landmarks that are found up to ``pixels``."""
    return float((np.linalg.norm(rows.scores - rows.targets, axis=-1) <= pixels).mean())
