"""Metrics chosen by name, computed once per epoch from what was collected batch by batch.

A configuration item is a name or ``{type, params, key}`` (``key`` is the name it is logged by). A metric is registered under
the kind ``metric`` as a factory ``(route, num_classes, **params) -> function(rows) -> value``. ``rows`` is a :class:`Rows`:
for ``cls``, ``mlcls`` and ``reg`` the logits and targets of all samples, for ``seg`` the per-image counts of true positive,
guessed and true pixels of each class. Everything is a row per sample, so a bootstrap draws rows. Higher is better except for
errors; values are plain floats, NaN where a metric is not defined.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.meters import Rows
from mml_ray.registry import registry
from mml_ray.seeding import keyed_seed
from mml_ray.tasks.kinds import IGNORE_INDEX as IGNORED

DEFAULTS: dict[str, list[str]] = {
    "cls": ["accuracy", "f1", "average_precision", "auroc", "matthews_corrcoef", "precision", "recall", "calibration_error"],
    "mlcls": ["multilabel_average_precision", "multilabel_ranking_average_precision", "multilabel_coverage_error"],
    "seg": ["dice"],
    "reg": ["mean_squared_error", "spearman_corrcoef"],
}


MetricFunction = Callable[[Rows], "Tensor | float"]


class MetricSet:
    """The metrics of one task. ``given`` is a list of items; null takes the route's defaults."""

    def __init__(self, route: str, num_classes: int, given: Sequence[Any] | None = None) -> None:
        self.route = route
        self._metrics: dict[str, MetricFunction] = {}
        if given is None and route not in DEFAULTS:
            raise MMLMisconfigurationException(f"There are no metrics for '{route}' tasks: set metrics.{route}, [] for none.")
        for item in DEFAULTS[route] if given is None else given:
            name, params, key = _parse_metric(item)
            if key in self._metrics:
                raise MMLMisconfigurationException(f"The metric '{key}' is given twice; name one of them with 'key'.")
            self._metrics[key] = build_metric(name, route, num_classes, params)

    def __len__(self) -> int:
        return len(self._metrics)

    def compute(self, rows: Rows) -> dict[str, float]:
        """Every metric's value."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics warns about classes that do not occur; the value is NaN or left out
            return {key: float(function(rows)) for key, function in self._metrics.items()}

    def bootstrap(self, rows: Rows, draws: int, seed: int = 0) -> dict[str, float]:
        """``<metric>_mean`` and ``<metric>_std`` over ``draws`` resamples of the rows, a function of ``seed``."""
        generator = torch.Generator().manual_seed(keyed_seed(seed, "bootstrap", len(rows)))
        drawn: dict[str, list[float]] = {key: [] for key in self._metrics}
        for _ in range(draws):
            index = torch.randint(len(rows), (len(rows),), generator=generator).to(rows.scores.device)
            for key, value in self.compute(rows.draw(index)).items():
                drawn[key].append(value)
        result: dict[str, float] = {}
        for key, values in drawn.items():
            mean = sum(values) / len(values)
            result[f"{key}_mean"] = mean
            result[f"{key}_std"] = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
        return result


def _parse_metric(item: Any) -> tuple[str, dict[str, Any], str]:
    if isinstance(item, str):
        return item, {}, item
    if isinstance(item, Mapping) and item.get("type") and not set(item) - {"type", "params", "key"}:
        return str(item["type"]), dict(item.get("params") or {}), str(item.get("key") or item["type"])
    raise MMLMisconfigurationException(f"A metric is a name or a mapping of type, params, key (type is needed); got {item!r}.")


def build_metric(name: str, route: str, num_classes: int, params: Mapping[str, Any]) -> MetricFunction:
    """The function behind a metric's name; unknown names, routes and parameters raise a user error."""
    factory = registry.lookup("metric", name)
    try:
        made = factory(route, num_classes, **params)
    except TypeError as error:
        accepted = [p for p in inspect.signature(factory).parameters if p not in ("route", "num_classes")]
        raise MMLMisconfigurationException(
            f"Metric '{name}': {error}. Its parameters: {', '.join(accepted) or 'none'}."
        ) from error
    function: MetricFunction = made
    return function


def _refuse(name: str, route: str, routes: Sequence[str]) -> MMLMisconfigurationException:
    return MMLMisconfigurationException(f"The metric '{name}' is for {', '.join(routes)} tasks, not for '{route}'.")


def _labelled(name: str, functional_name: str, average: str | None = None, routes: Sequence[str] = ("cls", "mlcls")) -> None:
    """Register ``multiclass_<functional_name>`` and ``multilabel_<functional_name>`` of torchmetrics."""

    def factory(route: str, num_classes: int, **params: Any) -> MetricFunction:
        from torchmetrics.functional import classification

        if route not in routes:
            raise _refuse(name, route, routes)
        if average is not None:
            params.setdefault("average", average)
        kind, count, prepare = (
            ("multiclass", "num_classes", _softmax) if route == "cls" else ("multilabel", "num_labels", _sigmoid)
        )
        function = getattr(classification, f"{kind}_{functional_name}")
        allowed = [p for p in inspect.signature(function).parameters if p not in ("preds", "target", count)]
        if set(params) - set(allowed):
            raise MMLMisconfigurationException(
                f"Metric '{name}' takes {', '.join(allowed)}, not {sorted(set(params) - set(allowed))}."
            )
        params[count] = num_classes
        return lambda rows: function(prepare(rows.scores), _labels(rows.targets), **params)

    registry.add("metric", name, factory)


def _softmax(scores: Tensor) -> Tensor:
    return F.softmax(scores, dim=1)


def _sigmoid(scores: Tensor) -> Tensor:
    return torch.sigmoid(scores)


def _labels(targets: Tensor) -> Tensor:
    return (targets >= 0.5).long() if targets.is_floating_point() else targets  # soft labels count from one half on


_labelled("accuracy", "accuracy", "macro")
_labelled("f1", "f1_score", "macro")
_labelled("precision", "precision", "macro")
_labelled("recall", "recall", "macro")
_labelled("specificity", "specificity", "macro")
_labelled("auroc", "auroc", "macro")
_labelled("average_precision", "average_precision", "macro")
_labelled("matthews_corrcoef", "matthews_corrcoef")
_labelled("cohen_kappa", "cohen_kappa", routes=("cls",))
_labelled("calibration_error", "calibration_error", routes=("cls",))
_labelled("multilabel_average_precision", "average_precision", "macro", ("mlcls",))
_labelled("multilabel_ranking_average_precision", "ranking_average_precision", routes=("mlcls",))
_labelled("multilabel_ranking_loss", "ranking_loss", routes=("mlcls",))
_labelled("multilabel_coverage_error", "coverage_error", routes=("mlcls",))
_labelled("exact_match", "exact_match", routes=("mlcls",))


def _regression(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def factory(route: str, num_classes: int) -> MetricFunction:
        if route != "reg":
            raise _refuse(name, route, ["reg"])
        return lambda rows: function(rows.scores.flatten().double(), rows.targets.flatten().double())

    registry.add("metric", name, factory)


def _r2(guess: Tensor, truth: Tensor) -> Tensor:
    return 1 - (guess - truth).square().sum() / (truth - truth.mean()).square().sum()


def _pearson(guess: Tensor, truth: Tensor) -> Tensor:
    a, b = guess - guess.mean(), truth - truth.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0, ties share their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks: Tensor = (ends - (counts.double() + 1) / 2)[inverse]
    return ranks


_regression("mean_squared_error", lambda guess, truth: (guess - truth).square().mean())
_regression("root_mean_squared_error", lambda guess, truth: (guess - truth).square().mean().sqrt())
_regression("mean_absolute_error", lambda guess, truth: (guess - truth).abs().mean())
_regression("r2_score", _r2)
_regression("pearson_corrcoef", _pearson)
_regression("spearman_corrcoef", lambda guess, truth: _pearson(_ranks(guess), _ranks(truth)))


def _overlap(name: str, ratio: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Register a ratio of (hits, guessed, true) pixels.

    ``samplewise``: the mean over images, else over the pixels of all; ``average``: ``macro`` is the mean over classes (one
    that is neither in the image nor guessed is left out), ``micro`` counts all classes together.
    """

    def factory(
        route: str,
        num_classes: int,
        average: str = "macro",
        samplewise: bool = True,
        include_background: bool = True,
        ignore_index: int = IGNORED,
    ) -> MetricFunction:
        if route != "seg":
            raise _refuse(name, route, ["seg"])
        if average not in ("macro", "micro") or ignore_index != IGNORED:
            raise MMLMisconfigurationException(f"Metric '{name}': average is macro or micro, and ignore_index is {IGNORED}.")

        def compute(rows: Rows) -> Tensor:
            counts = rows.scores.double()[:, 0 if include_background else 1 :]
            counts = counts if samplewise else counts.sum(0, keepdim=True)
            counts = counts if average == "macro" else counts.sum(1, keepdim=True)
            return torch.nanmean(ratio(counts[..., 0], counts[..., 1], counts[..., 2]))

        return compute

    registry.add("metric", name, factory)


_overlap("dice", lambda hits, guessed, true: 2 * hits / (guessed + true))
_overlap("iou", lambda hits, guessed, true: hits / (guessed + true - hits))


def _pixel_accuracy(route: str, num_classes: int) -> MetricFunction:
    if route != "seg":
        raise _refuse("pixel_accuracy", route, ["seg"])
    return lambda rows: rows.scores[..., 0].sum().double() / rows.scores[..., 2].sum()


registry.add("metric", "pixel_accuracy", _pixel_accuracy)
