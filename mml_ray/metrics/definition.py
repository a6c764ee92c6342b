"""How a metric is defined, chosen by name, and computed for the rows of a task.

A configuration item is a name or ``{type, params, key}`` (``key`` is the name it is logged by). Values are plain floats, NaN where a
metric is not defined.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_type_hints

import numpy as np
from pydantic import create_model

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.metrics.rows import Array, Rows
from mml_ray.metrics.summary import mean_and_deviation
from mml_ray.options import Options, build
from mml_ray.registry import registry
from mml_ray.seeding import keyed_seed
from mml_ray.tasks.kinds import all_kinds

MetricFunction = Callable[[Rows], Any]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """The one definition of a metric; the docstring of ``function`` says what it measures and what is undefined.

    ``function`` is called with the rows and the configured parameters. ``routes`` are the kinds of task it is for, ``only`` holds the
    parameters that only one of them takes.
    """

    name: str
    routes: tuple[str, ...]
    function: Callable[..., Any]
    only: Mapping[str, str] = field(default_factory=dict, hash=False)

    def bind(self, route: str, params: Mapping[str, Any], key: str) -> MetricFunction:
        """The metric of one kind of task with its parameters; wrong ones are user errors that name them by ``key``."""
        if route not in self.routes:
            raise MMLMisconfigurationException(
                f"The metric '{self.name}' is for {', '.join(self.routes)} tasks, not for '{route}'."
            )
        build(_params_of(self, route), key, params)
        return lambda rows: self.function(rows, **params)


@functools.cache
def _params_of(metric: Metric, route: str) -> type[Options]:
    """The parameters that a metric takes for one kind of task; what each may be stands in the signature of its function."""
    hints = get_type_hints(metric.function, include_extras=True)
    rows, *params = inspect.signature(metric.function).parameters.values()
    fields: Any = {p.name: (hints[p.name], p.default) for p in params if metric.only.get(p.name, route) == route}
    return create_model(metric.name, __base__=Options, **fields)


def metric(name: str, *routes: str, **only: str) -> Callable[[F], F]:
    """Register a function ``(rows, **parameters) -> float`` as a metric for the kinds of task ``routes``.

    ``only`` names parameters that one of several routes takes: ``top_k="cls"``.
    """

    def register(function: F) -> F:
        registry.add("metric", name, Metric(name, routes, function, only))
        return function

    return register


def _with_tensors(factory: Callable[..., MetricFunction], key: str, *args: Any, **params: Any) -> MetricFunction:
    """A metric of a plugin that registered a bare factory ``(route, num_classes, **params)``: the function it makes gets tensors."""
    try:
        function = factory(*args, **params)
    except TypeError as error:
        raise MMLMisconfigurationException(f"{key}: {error}.") from error

    def compute(rows: Rows) -> Any:
        import torch

        tensors: Any = {name: torch.from_numpy(getattr(rows, name)) for name in ("scores", "targets")}
        return function(replace(rows, **tensors))

    return compute


class MetricSet:
    """The metrics of one task.

    ``given`` is a list of configuration items; null takes the defaults of the kind of task with this ``route``.
    """

    def __init__(self, route: str, num_classes: int, given: Sequence[Any] | None = None) -> None:
        self._functions: dict[str, MetricFunction] = {}
        for number, item in enumerate(_defaults(route) if given is None else given):
            name, params, key = _parse_item(item)
            if key in self._functions:
                raise MMLMisconfigurationException(f"The metric '{key}' is given twice. Name one of them with 'key'.")
            place, found = f"metrics.{route}.{number}.params", registry.lookup("metric", name)
            if isinstance(found, Metric):
                self._functions[key] = found.bind(route, params, place)
            else:
                self._functions[key] = _with_tensors(found, place, route, num_classes, **params)

    def __len__(self) -> int:
        return len(self._functions)

    def compute(self, rows: Rows) -> dict[str, float]:
        """The value of every metric."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter(
                "ignore"
            )  # scikit-learn warns of classes that do not occur; the definitions say what becomes of them
            return {key: float(function(rows)) for key, function in self._functions.items()}

    def bootstrap(self, rows: Rows, draws: int, seed: int = 0) -> dict[str, float]:
        """``<metric>_mean`` and ``<metric>_std`` over ``draws`` resamples of the rows, a function of ``seed``.

        Both are NaN where a metric is not finite in one of the resamples.
        """
        values: dict[str, list[float]] = {key: [] for key in self._functions}
        for index in _resamples(len(rows), draws, keyed_seed(seed, "bootstrap", len(rows))):
            for key, value in self.compute(rows.take(index)).items():
                values[key].append(value)
        result: dict[str, float] = {}
        for key, drawn in values.items():
            mean, deviation = mean_and_deviation(drawn)
            result[f"{key}_mean"], result[f"{key}_std"] = mean or 0.0, deviation or 0.0  # of one draw there is no deviation
        return result


def _resamples(count: int, draws: int, seed: int) -> Array:
    """Row numbers [draws, count], with replacement.

    The words of the generator are taken modulo the count, as ``torch.randint`` does: stored bootstrap results were drawn by it.
    """
    words = np.frombuffer(np.random.RandomState(seed & 0xFFFFFFFF).bytes(4 * draws * count), "<u4")
    return (words % count).astype(np.int64).reshape(draws, count)


def _defaults(route: str) -> Sequence[str]:
    for kind in all_kinds():
        if kind.route == route and kind.metrics:
            return kind.metrics
    raise MMLMisconfigurationException(f"There are no default metrics for '{route}' tasks: set metrics.{route}, [] for none.")


def _parse_item(item: Any) -> tuple[str, dict[str, Any], str]:
    if isinstance(item, str):
        return item, {}, item
    if isinstance(item, Mapping) and item.get("type") and not set(item) - {"type", "params", "key"}:
        return str(item["type"]), dict(item.get("params") or {}), str(item.get("key") or item["type"])
    raise MMLMisconfigurationException(
        f"A metric must be a name or a mapping of type, params, key (type is needed), got {item!r}."
    )
