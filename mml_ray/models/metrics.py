"""Where plugins find what metrics are made of; everything is in :mod:`mml_ray.metrics`."""

from __future__ import annotations

from mml_ray.metrics.definition import MetricFunction, MetricSet, metric
from mml_ray.metrics.rows import Rows

__all__ = ["MetricFunction", "MetricSet", "Rows", "metric"]
