"""Metrics of regression (``reg``), in double precision. None of them leaves a sample out: of NaN they are NaN."""

from __future__ import annotations

import numpy as np

from mml_ray.metrics.definition import metric
from mml_ray.metrics.rows import Array, Rows


def _values(rows: Rows) -> tuple[Array, Array]:
    """Predicted and true values, float64 [N]."""
    return rows.scores.ravel().astype(float), rows.targets.ravel().astype(float)


@metric("mean_squared_error", "reg")
def mean_squared_error(rows: Rows) -> float:
    """The mean of the squared errors, in the squared unit of the values."""
    guess, truth = _values(rows)
    return float(np.square(guess - truth).mean())


@metric("root_mean_squared_error", "reg")
def root_mean_squared_error(rows: Rows) -> float:
    """The root of the mean squared error, in the unit of the values."""
    return float(np.sqrt(mean_squared_error(rows)))


@metric("mean_absolute_error", "reg")
def mean_absolute_error(rows: Rows) -> float:
    """The mean of the absolute errors, in the unit of the values."""
    guess, truth = _values(rows)
    return float(np.abs(guess - truth).mean())


@metric("r2_score", "reg")
def r2_score(rows: Rows) -> float:
    """The share of the variance that is explained, 1 at best; NaN or -inf where all true values are the same."""
    guess, truth = _values(rows)
    return float(1 - np.square(guess - truth).sum() / np.square(truth - truth.mean()).sum())


@metric("pearson_corrcoef", "reg")
def pearson_corrcoef(rows: Rows) -> float:
    """The linear correlation, -1 to 1; NaN where predictions or true values are all the same."""
    return _correlation(*_values(rows))


@metric("spearman_corrcoef", "reg")
def spearman_corrcoef(rows: Rows) -> float:
    """The correlation of the ranks, -1 to 1, ties share their mean rank; NaN where predictions or true values are all the same."""
    guess, truth = _values(rows)
    return _correlation(_ranks(guess), _ranks(truth))


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / np.sqrt(np.square(one).sum() * np.square(other).sum()))


def _ranks(values: Array) -> Array:
    """Ranks from 0, ties share their mean rank; NaN has none."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.where(np.isnan(values), np.nan, (counts.cumsum() - (counts + 1) / 2)[inverse])
