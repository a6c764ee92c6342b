"""Loaders of labels and values: no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mml_ray.data.loaders.base import ModalityLoader
from mml_ray.errors import DataError
from mml_ray.tasks.classes import class_names, index_map


class _ClassBased(ModalityLoader):
    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """Look up the final index of each raw one."""
        super().__init__(idx_to_class)
        self._final = index_map(idx_to_class)
        self._count = len(class_names(idx_to_class))

    def _index(self, raw: Any) -> int:
        try:
            return self._final[int(raw)]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{raw!r} is not a class index of the task. Allowed are {_some(self._final)}.") from None


class ClassLoader(_ClassBased):
    """The final class index, an ``int``."""

    def raw(self, entry: Any, root: str) -> int:
        """Map the raw index."""
        return self._index(entry)


class MultiLabelClassLoader(_ClassBased):
    """Multi-hot ``float32 [classes]`` from a list of raw indices."""

    def raw(self, entry: Any, root: str) -> NDArray[np.float32]:
        """Map the raw indices; an empty list gives zeros."""
        result = np.zeros(self._count, np.float32)
        for raw in _listed(entry, "class indices"):
            result[self._index(raw)] = 1.0
        return result


class SoftLabelClassLoader(_ClassBased):
    """Probabilities ``float32 [classes]`` from one number for each raw index, in ascending order; merged classes add up."""

    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """Build the matrix from raw positions to final classes."""
        super().__init__(idx_to_class)
        raws = sorted(self._final)
        self._matrix = np.zeros((len(raws), self._count), np.float64)
        for position, raw in enumerate(raws):
            self._matrix[position, self._final[raw]] = 1.0

    def raw(self, entry: Any, root: str) -> NDArray[np.float32]:
        """Add up what belongs to one class; the numbers have to lie in [0, 1]."""
        given = np.asarray(_listed(entry, "probabilities"), np.float64)
        if given.shape != (len(self._matrix),):
            raise DataError(f"The entry must be {len(self._matrix)} probabilities, one for each class index, got {given.shape}.")
        if not (given >= 0.0).all() or not (given <= 1.0).all():
            raise DataError(f"Probabilities must lie between 0 and 1, got {entry!r}.")
        return np.minimum(given @ self._matrix, 1.0).astype(np.float32)


class ValueLoader(ModalityLoader):
    """``float32 [1]``."""

    def raw(self, entry: Any, root: str) -> NDArray[np.float32]:
        """Convert; NaN and infinity are refused."""
        try:
            value = float(entry)
        except (TypeError, ValueError):
            raise DataError(f"A value must be a number, got {entry!r}.") from None
        if not np.isfinite(value):
            raise DataError(f"A value must be finite, got {entry!r}.")
        return np.array([value], np.float32)


class ArrayLoader(ModalityLoader):
    """``float32`` of any shape, from a number or nested lists of numbers; all samples of a task must have one shape."""

    def raw(self, entry: Any, root: str) -> NDArray[np.float32]:
        """Convert; NaN and infinity are refused."""
        try:
            values = np.asarray(entry, np.float32)
        except (TypeError, ValueError):
            values = np.array(np.nan, np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"An array must hold finite numbers, in lists of equal length, got {entry!r}.")
        return values


def _listed(entry: Any, what: str) -> Sequence[Any]:
    if not isinstance(entry, (list, tuple)):
        raise DataError(f"The entry must be a list of {what}, got {entry!r}.")
    return entry


def _some(indices: Mapping[int, int]) -> str:
    shown = [str(index) for index in sorted(indices)[:12]]
    return ", ".join(shown) + (f", ... ({len(indices)} in all)" if len(indices) > 12 else "")
