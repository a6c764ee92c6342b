"""From the entry of a sample to an array: checked once at creation, read for every batch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from mml_ray_buzz.keypoints import LANDMARKS

from mml_ray.data.loaders import ModalityLoader
from mml_ray.errors import DataError
from mml_ray.prepare.task import MODALITY_VERIFIER_MAP
from mml_ray.prepare.verifiers import Verified, VerifierContext
from mml_ray.registry import registry


def verify_landmarks(value: Any, context: VerifierContext) -> Verified:
    """As many pairs of finite numbers as the task has landmarks."""
    try:
        points = [[float(x), float(y)] for x, y in value]
    except (TypeError, ValueError):
        points = []
    if len(points) != len(context.idx_to_class) or not all(math.isfinite(number) for point in points for number in point):
        raise DataError(f"Landmarks must be {len(context.idx_to_class)} pairs of finite numbers, got {value!r}.")
    return Verified(points)


MODALITY_VERIFIER_MAP[LANDMARKS] = verify_landmarks


class LandmarkLoader(ModalityLoader):
    """``float32 [K, 2]``: x and y of each landmark, in pixels of the image as it is at the time."""

    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """The task's landmarks."""
        super().__init__(idx_to_class)
        self._shape = (len(idx_to_class), 2)

    def raw(self, entry: Any, root: str) -> Any:
        """The points; preprocessing and augmentations move them afterwards."""
        points = np.asarray(entry, np.float32)
        if points.shape != self._shape:
            raise DataError(f"There must be {self._shape[0]} landmarks, got an array of shape {points.shape}.")
        return points


registry.add("loader", "landmark_list", LandmarkLoader)
