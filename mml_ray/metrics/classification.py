"""Metrics of classification (``cls``) and multi-label classification (``mlcls``).

Where a metric is averaged over classes, ``macro`` is their mean, ``weighted`` their mean weighted by the number of true samples, and
``micro`` counts the decisions of all classes together. The classes of a multi-label task are its labels. ``macro`` leaves out a class
that is neither true nor predicted in any row (with ``top_k`` above 1: that is not true); labels are never left out.

``top_k``: a sample counts as right if its class is among the ``k`` most probable ones. ``threshold``: a label is predicted above it.
``ignore_index``: samples of this class are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.metrics.definition import metric
from mml_ray.metrics.rows import Array, Rows
from mml_ray.options import Field, Fraction

#: parameters that only one of the two kinds takes
_ONLY = {"top_k": "cls", "ignore_index": "cls", "threshold": "mlcls"}
Average = Literal["macro", "micro", "weighted"]
Positive = Annotated[int, Field(ge=1)]
Thresholds = Annotated[int, Field(ge=2)] | list[Fraction] | None


@dataclass(frozen=True)
class _Counts:
    """Decisions by class: true and false positives and negatives, each [C]; ``counted``: the classes that a macro mean is over."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array
    counted: Array
    of_labels: bool = False

    @classmethod
    def of(cls, rows: Rows, top_k: Positive = 1, threshold: Fraction = 0.5, ignore_index: int | None = None) -> _Counts:
        """The counts of class indices or, where the targets are [N, C], of labels."""
        if rows.targets.ndim == 2:
            guess, truth = _predicted_labels(rows, threshold), rows.labels == 1
            tp, positive, true = (guess & truth).sum(0), guess.sum(0), truth.sum(0)
            return cls(tp, positive - tp, true - tp, len(rows) - positive - true + tp, np.ones(len(tp), bool), True)
        confusion = confusion_matrix(rows, top_k, ignore_index)
        tp, positive, true = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
        counted = (positive + true if top_k == 1 else true) > 0
        return cls(tp, positive - tp, true - tp, confusion.sum() - positive - true + tp, counted)

    def average(self, numerator: Array, denominator: Array, average: Average, undefined: float = 0.0) -> float:
        """The average over classes of a ratio, which is ``undefined`` where it is 0/0."""
        if average == "micro":
            return float(_divide(numerator.sum(), denominator.sum(), undefined))
        weights = self.counted if average == "macro" else self.tp + self.fn
        return float(_divide((weights * _divide(numerator, denominator, undefined)).sum(), weights.sum()))


def confusion_matrix(rows: Rows, top_k: Positive = 1, ignore_index: int | None = None) -> Array:
    """Samples by true and predicted class, [C, C]."""
    rows = _without(rows, ignore_index)
    assert rows.probabilities is not None
    classes = rows.probabilities.shape[1]
    guess = rows.probabilities.argmax(1)
    if top_k != 1:
        if top_k > classes:
            raise MMLMisconfigurationException(f"top_k must be at most the number of classes, {classes}, got {top_k}.")
        best = np.argpartition(rows.probabilities, -top_k, axis=1)[:, -top_k:]
        guess = np.where((best == rows.targets[:, None]).any(1), rows.targets, guess)
    return np.bincount(rows.targets * classes + guess, minlength=classes**2).reshape(classes, classes)


def _ratio(ratio: Callable[[_Counts], tuple[Array, Array]]) -> Callable[[_Counts], tuple[Array, Array]]:
    """Register a ratio of counts by class as a metric with the name of the function; ``zero_division`` is its value where it is 0/0."""

    def compute(
        rows: Rows,
        average: Average = "macro",
        top_k: Positive = 1,
        threshold: Fraction = 0.5,
        ignore_index: int | None = None,
        zero_division: Fraction = 0.0,
    ) -> float:
        counts = _Counts.of(rows, top_k, threshold, ignore_index)
        return counts.average(*ratio(counts), average, zero_division)

    compute.__doc__ = ratio.__doc__
    metric(ratio.__name__, "cls", "mlcls", **_ONLY)(compute)
    return ratio


@_ratio
def accuracy(counts: _Counts) -> tuple[Array, Array]:
    """The share of a class's samples that are right: averaged by ``macro`` it is balanced accuracy, by ``micro`` plain accuracy.

    Multi-label: the share of right decisions, present or absent, of each label. A class without samples that is predicted counts 0.
    """
    if counts.of_labels:
        return counts.tp + counts.tn, counts.tp + counts.tn + counts.fp + counts.fn
    return counts.tp, counts.tp + counts.fn


@_ratio
def f1(counts: _Counts) -> tuple[Array, Array]:
    """The harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
    return 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn


@_ratio
def precision(counts: _Counts) -> tuple[Array, Array]:
    """The share of right ones among the samples predicted as a class, TP / (TP + FP); 0 for a class that is never predicted."""
    return counts.tp, counts.tp + counts.fp


@_ratio
def recall(counts: _Counts) -> tuple[Array, Array]:
    """The share of a class's samples that are found, TP / (TP + FN); 0 for a class without samples that is predicted."""
    return counts.tp, counts.tp + counts.fn


@_ratio
def specificity(counts: _Counts) -> tuple[Array, Array]:
    """The share of the other samples that are not taken for a class, TN / (TN + FP); 0 where there are no others."""
    return counts.tn, counts.tn + counts.fp


@metric("exact_match", "mlcls")
def exact_match(rows: Rows, threshold: Fraction = 0.5) -> float:
    """The share of samples whose labels are all right."""
    return float((_predicted_labels(rows, threshold) == (rows.labels == 1)).all(1).mean())


@metric("matthews_corrcoef", "cls", "mlcls", ignore_index="cls", threshold="mlcls")
def matthews_corrcoef(rows: Rows, threshold: Fraction = 0.5, ignore_index: int | None = None) -> float:
    """The correlation of truth and prediction (Gorodkin 2004), -1 to 1; of the decisions of all labels together.

    Where the truth or the prediction is constant: 0; of two classes 1 if all are right, -1 if all are wrong, else
    (right - wrong) / sqrt(samples * right * wrong).
    """
    if rows.targets.ndim == 2:
        counts = _Counts.of(rows, threshold=threshold)
        confusion = np.array([[counts.tn.sum(), counts.fp.sum()], [counts.fn.sum(), counts.tp.sum()]])
    else:
        confusion = confusion_matrix(rows, ignore_index=ignore_index)
    confusion = confusion.astype(float)
    total, true, guessed, right = confusion.sum(), confusion.sum(1), confusion.sum(0), confusion.trace()
    variances = (total**2 - true @ true) * (total**2 - guessed @ guessed)
    if variances == 0 and len(confusion) == 2 and total:
        wrong = total - right
        return float(_divide(right - wrong, np.sqrt(total * right * wrong), np.sign(right - wrong)))
    return float(_divide(right * total - true @ guessed, np.sqrt(variances)))


@metric("cohen_kappa", "cls")
def cohen_kappa(
    rows: Rows, weights: Literal["none", "linear", "quadratic"] | None = None, ignore_index: int | None = None
) -> float:
    """Agreement beyond chance (Cohen 1960); ``weights`` of a disagreement: none, ``linear`` or ``quadratic`` in the class indices.

    NaN where truth and prediction are the same single class.
    """
    confusion = confusion_matrix(rows, ignore_index=ignore_index).astype(float)
    number = np.arange(len(confusion))
    distance = np.abs(number[:, None] - number)
    cost = distance**2 if weights == "quadratic" else distance if weights == "linear" else distance > 0
    by_chance = np.outer(confusion.sum(1), confusion.sum(0)) / confusion.sum()
    return float(1 - (cost * confusion).sum() / (cost * by_chance).sum())


@metric("calibration_error", "cls")
def calibration_error(
    rows: Rows, n_bins: Positive = 15, norm: Literal["l1", "l2", "max"] = "l1", ignore_index: int | None = None
) -> float:
    """How far confidence and accuracy lie apart in bins of the top class's probability (Guo et al. 2017).

    ``l1``: the mean over samples, ``l2``: its root mean square, ``max``: the largest of the ``n_bins`` equal bins. NaN for scores that
    are not finite.
    """
    rows = _without(rows, ignore_index)
    if rows.probabilities is None or not rows.is_finite:
        return np.nan
    confidence = rows.probabilities.max(1)
    right = rows.probabilities.argmax(1) == rows.targets
    number = np.searchsorted(np.linspace(0, 1, n_bins + 1, dtype=confidence.dtype), confidence, side="right") - 1
    samples = np.bincount(number, minlength=n_bins + 1)  # a confidence of 1 has a bin of its own
    gap = np.abs(_divide(np.bincount(number, right - confidence.astype(float), minlength=n_bins + 1), samples))
    if norm == "max":
        return float(gap.max())
    power = 1 if norm == "l1" else 2
    return float(((gap**power * samples).sum() / samples.sum()) ** (1 / power))


@metric("auroc", "cls", "mlcls", ignore_index="cls")
def auroc(rows: Rows, average: Average = "macro", thresholds: Thresholds = None, ignore_index: int | None = None) -> float:
    """The area under the receiver operating characteristic, of each class against the others, averaged over classes.

    A class with no samples, or without others, counts 0. ``thresholds`` (a number of equal steps, or a list) makes it coarser; null: all.
    NaN for scores that are not finite.
    """

    def area(truth: Array, scores: Array) -> float:
        tp, fp = _curve(truth, scores)
        return float(_divide(np.trapezoid(tp, fp), tp[-1] * fp[-1]))

    return _of_curves(area, _without(rows, ignore_index), average, thresholds)


def _average_precision(
    rows: Rows, average: Average = "macro", thresholds: Thresholds = None, ignore_index: int | None = None
) -> float:
    """The mean precision over the steps of recall, of each class against the others, averaged over classes.

    A label without samples counts 0. So does a class with ``thresholds``, or where all samples are of class 0; else it is left out.
    ``thresholds`` as for ``auroc``. NaN for scores that are not finite.
    """
    rows = _without(rows, ignore_index)
    absent = np.nan if rows.targets.ndim == 1 and thresholds is None and rows.targets.any() else 0.0

    def area(truth: Array, scores: Array) -> float:
        tp, fp = _curve(truth, scores)
        return float((np.diff(tp) * tp[1:] / (tp + fp)[1:]).sum() / tp[-1]) if tp[-1] else absent

    return _of_curves(area, rows, average, thresholds)


average_precision = metric("average_precision", "cls", "mlcls", ignore_index="cls")(_average_precision)
metric("multilabel_average_precision", "mlcls", ignore_index="cls")(_average_precision)


@metric("multilabel_ranking_average_precision", "mlcls")
def label_ranking_average_precision(rows: Rows) -> float:
    """For each true label the share of true ones among the labels ranked as high or higher; the mean over labels, then samples.

    1 for a sample with all labels or none; NaN for scores that are not finite.
    """
    if rows.probabilities is None or not rows.is_finite:
        return np.nan
    truth, total = rows.labels == 1, 0.0
    step = max(1, 2**22 // truth.shape[1] ** 2)  # rows at a time: pairs of labels take memory
    for start in range(0, len(rows), step):
        scores, true = rows.probabilities[start : start + step], truth[start : start + step]
        as_high = scores[:, None, :] >= scores[:, :, None]
        share = (as_high & true[:, None, :]).sum(2) / as_high.sum(2)
        total += _divide((share * true).sum(1), true.sum(1), 1.0).sum()
    return float(total / len(rows))


@metric("multilabel_ranking_loss", "mlcls")
def label_ranking_loss(rows: Rows) -> float:
    """The share of pairs of a true and a false label that are ordered wrongly, ties among them; the mean over samples.

    0 for a sample with all labels or none; NaN for scores that are not finite.
    """
    from sklearn.metrics import label_ranking_loss as loss

    return float(loss(rows.labels, rows.probabilities)) if rows.is_finite else np.nan


@metric("multilabel_coverage_error", "mlcls")
def coverage_error(rows: Rows) -> float:
    """How many labels, from the highest score down, contain all true ones of a sample; the mean over samples.

    0 for a sample without labels; NaN for scores that are not finite.
    """
    from sklearn.metrics import coverage_error as error

    return float(error(rows.labels, rows.probabilities)) if rows.is_finite else np.nan


def _of_curves(area: Callable[[Array, Array], float], rows: Rows, average: Average, thresholds: Thresholds) -> float:
    """The average over classes of ``area(truth, scores)``, without those where it is NaN."""
    if rows.probabilities is None or not rows.is_finite or not len(rows):
        return np.nan
    scores = rows.probabilities
    if thresholds is not None:
        steps = np.linspace(0, 1, thresholds) if isinstance(thresholds, int) else np.sort(thresholds)
        scores = np.searchsorted(steps.astype(scores.dtype), scores, side="right")
    truth = rows.labels == 1 if rows.targets.ndim == 2 else rows.targets[:, None] == np.arange(scores.shape[1])
    if average == "micro":
        return area(truth.ravel(), scores.ravel())
    areas = np.array([area(truth[:, number], scores[:, number]) for number in range(scores.shape[1])])
    known = ~np.isnan(areas)
    weights = truth.sum(0)[known] if average == "weighted" else np.ones(known.sum())
    return float(_divide((weights * areas[known]).sum(), weights.sum(), 0.0 if known.any() else np.nan))


def _curve(truth: Array, scores: Array) -> tuple[Array, Array]:
    """True and false positives above every threshold that makes a difference, from the highest (none) to the lowest (all)."""
    order = np.argsort(-scores)
    scores, hits = scores[order], truth[order].cumsum()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores fall together
    tp = np.append(0, hits[last])
    return tp, np.append(0, last + 1) - tp


def _predicted_labels(rows: Rows, threshold: float) -> Array:
    assert rows.probabilities is not None
    predicted: Array = rows.probabilities > threshold
    return predicted


def _without(rows: Rows, ignore_index: int | None) -> Rows:
    return rows if ignore_index is None else rows.take(rows.targets != ignore_index)


def _divide(numerator: Any, denominator: Any, undefined: float = 0.0) -> Array:
    """The ratio, ``undefined`` where the denominator is 0."""
    denominator = np.asarray(denominator, float)
    return np.where(denominator != 0, numerator / np.where(denominator != 0, denominator, 1), undefined)
