"""Mean and deviation of repeated measurements, such as folds and resamples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def finite(values: Iterable[float]) -> list[float]:
    """The values that are neither NaN nor infinite."""
    return [float(value) for value in values if math.isfinite(value)]


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the sample standard deviation (n - 1); null where there are too few values, NaN where one is not finite."""
    if len(finite(values)) < len(values):
        return math.nan, math.nan
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
