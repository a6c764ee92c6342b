"""From ``uint8`` batches to what a network takes. Done by batches, as late as possible.

Pixels travel as bytes between processes and to the device: a quarter of the traffic, and one pass over a batch where it is
used costs a fraction of a pass over each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import IMAGENET_MEAN, IMAGENET_STD, RGBInfo
from mml_ray.tasks.description import TaskDescription

Stats = tuple[Sequence[float], Sequence[float]]
_CHOICES = ("imagenet", "task", "pretraining", "null")


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 - mean) / std`` for each channel."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def from_bytes(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """``uint8 [N, C, H, W]`` to normalized ``float32`` of the same shape, on the device of ``images``.

        On a CPU the result is written to ``out``, if given.
        """
        if images.device.type == "cpu":
            return self._looked_up(images, torch.empty(images.shape) if out is None else out)
        return self.from_floats(images.float().div_(255.0))

    def from_floats(self, images: Tensor) -> Tensor:
        """The same for floats in [0, 1]."""
        shape = (len(self.mean), 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        return (images - mean).div_(torch.tensor(self.std, device=images.device).view(shape))

    def _looked_up(self, images: Tensor, result: Tensor) -> Tensor:
        # a whole batch in a row: done image by image, its writes would drive the augmentation out of the processor's cache
        for image, target in zip(images.contiguous().numpy(), result.numpy(), strict=True):
            for plane, table, out in zip(image, self._tables, target, strict=True):
                cv2.LUT(plane, table, dst=out)
        return result

    @cached_property
    def _tables(self) -> list[NDArray[np.float32]]:
        """The 256 results of each channel: one pass through a table, where arithmetic would take three."""
        values = np.arange(256, dtype=np.float64) / 255.0
        return [((values - mean) / std).astype(np.float32) for mean, std in zip(self.mean, self.std, strict=True)]


def choose(option: str | None, description: TaskDescription, pretraining: Stats | None) -> Normalization:
    """The normalization that ``augmentations.normalization`` names, for one task."""
    if option is None:
        return Normalization()
    if option == "imagenet":
        return _of(IMAGENET_MEAN, IMAGENET_STD)
    if option == "task":
        return _of_task(description)
    if option == "pretraining":
        if pretraining is None:
            raise MMLMisconfigurationException(
                "augmentations.normalization=pretraining needs a model with the statistics it was pretrained with; this one has "
                "none. Choose imagenet or task."
            )
        return Normalization(tuple(map(float, pretraining[0])), tuple(map(float, pretraining[1])))
    raise MMLMisconfigurationException(f"augmentations.normalization must be one of {', '.join(_CHOICES)}, got {option!r}.")


def _of(mean: RGBInfo, std: RGBInfo) -> Normalization:
    return Normalization((mean.r, mean.g, mean.b), (std.r, std.g, std.b))


def _of_task(description: TaskDescription) -> Normalization:
    means, stds = description.means, description.stds
    if means is None or stds is None or min(stds.r, stds.g, stds.b) <= 0.0:
        raise DataError(
            f"Task '{description.name}' has no usable color statistics (means {means}, stds {stds}), which "
            "augmentations.normalization=task needs. Create the task with statistics, or choose imagenet."
        )
    return _of(means, stds)
