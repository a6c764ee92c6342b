"""Metrics of segmentation (``seg``), from the pixels of each class that are right, predicted and true in an image: ``pixel_counts``."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mml_ray.metrics.definition import metric
from mml_ray.metrics.rows import Array, Rows

Average = Literal["macro", "micro"]


@metric("dice", "seg")
def dice(
    rows: Rows,
    average: Average = "macro",
    samplewise: bool = True,
    include_background: bool = True,
    ignore_index: Literal[255] = 255,
) -> float:
    """The overlap 2 TP / (predicted + true) of each class (Dice 1945), 1 at best.

    ``samplewise``: the mean over images, else over the pixels of all; ``average``: ``macro`` is the mean over classes, ``micro``
    counts all classes together. Pixels of ``ignore_index`` never count. A class that is neither predicted nor true in an image is
    left out; NaN where nothing is left.
    """
    right, predicted, true = _selected(rows, average, samplewise, include_background)
    return float(np.nanmean(2 * right / (predicted + true)))


@metric("iou", "seg")
def iou(
    rows: Rows,
    average: Average = "macro",
    samplewise: bool = True,
    include_background: bool = True,
    ignore_index: Literal[255] = 255,
) -> float:
    """Intersection over union, TP / (predicted + true - TP), of each class (Jaccard 1912), 1 at best; averaged as ``dice`` is."""
    right, predicted, true = _selected(rows, average, samplewise, include_background)
    return float(np.nanmean(right / (predicted + true - right)))


@metric("pixel_accuracy", "seg")
def pixel_accuracy(rows: Rows) -> float:
    """The share of right pixels of all images together; NaN where all pixels are ignored."""
    return float(np.float64(rows.scores[..., 0].sum()) / rows.scores[..., 2].sum())


def _selected(rows: Rows, average: Average, samplewise: bool, include_background: bool) -> Array:
    """Right, predicted and true pixels, [3, images or 1, classes or 1]."""
    counts = rows.scores[:, 0 if include_background else 1 :].astype(float)
    counts = counts if samplewise else counts.sum(0, keepdims=True)
    counts = counts if average == "macro" else counts.sum(1, keepdims=True)
    return np.moveaxis(counts, -1, 0)
