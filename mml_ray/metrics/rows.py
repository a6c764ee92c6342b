"""What metrics are computed from: one row per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mml_ray.tasks.kinds import IGNORE_INDEX, TaskKind

if TYPE_CHECKING:
    from mml_ray.store.predictions import Predictions

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Scores and targets of one task's samples, as numpy arrays with a row per sample.

    =================  ========================================  =============================  ==================
    task               ``scores``                                ``targets``                    ``probabilities``
    =================  ========================================  =============================  ==================
    classification     float32 [N, C], logits                    int64 [N], class indices       softmax, [N, C]
    multi-label        float32 [N, C], logits                    float32 [N, C], 0 to 1         sigmoid, [N, C]
    regression         float32 [N, 1], values                    float32 [N, 1]                 null
    segmentation       int64 [N, C, 3], see ``pixel_counts``     empty                          null
    of a plugin        float32, what its head gives              what its loader gives          null
    =================  ========================================  =============================  ==================

    ``sample_ids`` are empty while training, which does not need them.
    """

    scores: Array
    targets: Array
    probabilities: Array | None = None
    sample_ids: Sequence[str] = field(default=(), repr=False)

    @classmethod
    def of(cls, kind: TaskKind, scores: Array, targets: Array, sample_ids: Sequence[str] = ()) -> Rows:
        """What was collected of a task of this kind, with the probabilities."""
        activation = kind.activation if kind.metric_rows == "scores" else None
        return cls(scores, targets, probabilities_of(scores, activation), sample_ids)

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: Array) -> Rows:
        """The rows at ``index`` (row numbers, or a mask)."""
        targets = self.targets[index] if self.targets.size else self.targets  # segmentation has none beside the counts
        probabilities = None if self.probabilities is None else self.probabilities[index]
        ids = np.asarray(self.sample_ids)[index].tolist() if len(self.sample_ids) else ()
        return Rows(self.scores[index], targets, probabilities, ids)

    @cached_property
    def labels(self) -> Array:
        """The targets as integers; a soft label counts from one half on."""
        return (self.targets >= 0.5).astype(np.int64) if self.targets.dtype.kind == "f" else self.targets

    @cached_property
    def is_finite(self) -> bool:
        """Whether the probabilities (without them: the scores) have neither NaN nor inf."""
        return bool(np.isfinite(self.scores if self.probabilities is None else self.probabilities).all())


def probabilities_of(scores: Array, activation: str | None) -> Array | None:
    """``softmax`` (over axis 1) or ``sigmoid`` of ``scores``, in their precision; null for null."""
    if activation is None:
        return None
    with np.errstate(invalid="ignore"):  # scores that are not finite give probabilities that are not
        if activation == "sigmoid":
            sigmoid: Array = np.exp(-np.logaddexp(0, -scores))
            return sigmoid
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        softmax: Array = powers / powers.sum(axis=1, keepdims=True)
        return softmax


def pixel_counts(predicted: Any, true: Any, num_classes: int, xp: Any = np) -> Any:
    """int64 [N, C, 3]: of each image and class the pixels that are right, predicted and true, ignored ones left out.

    ``predicted`` and ``true`` are class indices [N, H, W]: numpy arrays or, with ``xp=torch``, tensors, counted on their device.
    """
    image = xp.arange(len(true), device=true.device)[:, None, None]
    pairs = ((image * num_classes + true) * num_classes + predicted)[true != IGNORE_INDEX]
    confusion = xp.bincount(pairs, minlength=len(true) * num_classes**2).reshape(len(true), num_classes, num_classes)
    return xp.stack([confusion.diagonal(0, 1, 2), confusion.sum(1), confusion.sum(2)], -1)


def rows_of_predictions(predictions: Predictions, column: str = "probabilities") -> Rows:
    """The labelled rows of a prediction table; with ``column="calibrated"`` from calibrated probabilities.

    The class of a pixel is that of the largest stored probability, which is a multiple of 1/255: where two are as close as that,
    the counts differ from those that were made of the scores.
    """
    predictions = predictions.labelled()
    kind, ids = predictions.kind, predictions.table["sample_id"].to_pylist()
    targets = predictions.targets()
    if kind.metric_rows == "pixel_counts":
        classes = int(predictions.metadata["num_classes"])
        maps = [probabilities.argmax(0)[None] for probabilities in predictions.probabilities(column)]
        counts = [pixel_counts(guess, true[None], classes) for guess, true in zip(maps, targets, strict=True)]
        return Rows(np.concatenate([np.empty((0, classes, 3), np.int64), *counts]), np.empty(0), sample_ids=ids)
    probabilities = np.asarray(predictions.probabilities(column)) if kind.activation else None
    return Rows(predictions.scores(), np.asarray(targets), probabilities, ids)
