"""Which samples make up the batches of an epoch: a pure function of (seed, task, epoch).

Nothing here keeps a generator alive, so an epoch can be entered at any batch, by any number of loader processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mml_ray.seeding import keyed_seed

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """Where a loader stands: ``start_batch`` batches of ``epoch`` have been seen."""

    epoch: int = 0
    start_batch: int = 0


@dataclass(frozen=True)
class Draw:
    """The samples of one batch of one task: ``indices`` into the dataset, and how often each came earlier in the epoch."""

    stream: int
    epoch: int
    indices: Indices
    repeats: Indices


@dataclass(frozen=True)
class Request:
    """What a loader process is asked for: a batch made of ``draws``; without any, to finish what it has stored.

    ``writers``: the streams whose stores it may fill (:mod:`mml_ray.data.cache.node`).
    """

    draws: tuple[Draw, ...] = ()
    writers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Stream:
    """How the samples of one task follow one another.

    ``shuffle=False`` is the order of the dataset. ``sample_num`` samples are drawn with replacement (0: all, once).
    ``weights`` (one for each sample, any scale) makes the draw unequal, always with replacement.
    """

    task: str
    size: int
    batch_size: int
    shuffle: bool = False
    sample_num: int = 0
    weights: NDArray[np.float64] | None = None
    drop_last: bool = False
    seed: int = 0

    @property
    def length(self) -> int:
        """Samples of an epoch."""
        return (self.sample_num or self.size) if self.shuffle and self.size else self.size

    @property
    def batches(self) -> int:
        """Batches of an epoch; a single sample that would be left over in training joins the batch before it.

        (Batch normalization cannot train on one sample.)
        """
        full, rest = divmod(self.length, self.batch_size)
        if rest == 0 or (full and (self.drop_last or (self.shuffle and rest == 1))):
            return full
        return full + 1

    def order(self, epoch: int, cycle: int = 0) -> Indices:
        """The indices of one pass; passes after the first (``cycle`` > 0) fill up an epoch that another task makes longer."""
        if not self.shuffle:
            return np.arange(self.size, dtype=np.int64)
        key = (self.seed, "order", self.task, epoch, cycle) if cycle else (self.seed, "order", self.task, epoch)
        generator = np.random.Generator(np.random.PCG64(keyed_seed(*key)))
        if self.weights is not None:
            edges = np.cumsum(self.weights, dtype=np.float64)
            found: Indices = np.searchsorted(edges, generator.random(self.length) * edges[-1], side="right").astype(np.int64)
            return np.minimum(found, self.size - 1)
        if self.sample_num:
            drawn: Indices = generator.integers(0, self.size, self.sample_num)
            return drawn
        shuffled: Indices = generator.permutation(self.size).astype(np.int64)
        return shuffled

    def bounds(self, batch: int) -> slice:
        """Which part of the order is batch number ``batch``."""
        end = self.length if batch == self.batches - 1 and not self.drop_last else (batch + 1) * self.batch_size
        return slice(batch * self.batch_size, end)


def repeats_of(order: Indices) -> Indices:
    """How often each entry occurred before: ``[5, 2, 5, 5] -> [0, 0, 1, 2]``."""
    by_value = np.argsort(order, kind="stable")
    values = order[by_value]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, np.int64)
    counts = np.diff(np.r_[starts, len(values)])
    result = np.empty(len(order), np.int64)
    result[by_value] = np.arange(len(order)) - np.repeat(starts, counts)
    return result


def parallel_length(streams: Sequence[Stream]) -> int:
    """Batches of an epoch when all tasks go side by side: those of the longest."""
    return max((stream.batches for stream in streams), default=0)


def parallel_batches(streams: Sequence[Stream], plan: BatchPlan) -> Iterator[list[Draw]]:
    """Batches with every task in each; shorter tasks start over (in another order) until the longest is through."""
    passes: dict[int, tuple[int, Indices, Indices]] = {}
    for batch in range(plan.start_batch, parallel_length(streams)):
        draws = []
        for number, stream in enumerate(streams):
            cycle, within = divmod(batch, stream.batches)
            if number not in passes or passes[number][0] != cycle:
                order = stream.order(plan.epoch, cycle)
                # without replacement a sample comes once in each pass
                drawn = stream.sample_num or stream.weights is not None
                repeats = repeats_of(order) if drawn else np.zeros(len(order), np.int64)
                passes[number] = (cycle, order, repeats)
            _, order, repeats = passes[number]
            part = stream.bounds(within)
            draws.append(Draw(number, plan.epoch, order[part], repeats[part] + cycle * _STRIDE))
        yield draws


#: separates the repeats of one pass from those of the next
_STRIDE = 1 << 32


def sequential_length(streams: Sequence[Stream]) -> int:
    """Batches when the tasks follow one another."""
    return sum(stream.batches for stream in streams)


def sequential_batches(streams: Sequence[Stream], plan: BatchPlan) -> Iterator[list[Draw]]:
    """Batches of one task after the other."""
    seen = 0
    for number, stream in enumerate(streams):
        order = stream.order(plan.epoch)
        for batch in range(stream.batches):
            if seen >= plan.start_batch:
                part = order[stream.bounds(batch)]
                yield [Draw(number, plan.epoch, part, np.zeros(len(part), np.int64))]
            seen += 1


# -- weights -------------------------------------------------------------------------------------------------------
def class_weights(labels: Indices) -> NDArray[np.float64]:
    """For each sample 1 / (samples of its class), so every class that occurs is drawn equally often."""
    counts = np.bincount(labels)
    result: NDArray[np.float64] = 1.0 / counts[labels]
    return result


def multilabel_weights(hot: NDArray[Any]) -> NDArray[np.float64]:
    """For each row of ``hot [N, C]`` the mean of 1 / (samples of the class) over its classes, weighted for soft labels.

    Rows without any class get 1 / (number of such rows).
    """
    hot = np.asarray(hot, np.float64)
    occurrences = hot.sum(axis=0)
    inverse = np.divide(1.0, occurrences, out=np.zeros_like(occurrences), where=occurrences > 0)
    present = hot.sum(axis=1)
    empty = present <= 0
    result: NDArray[np.float64] = (hot @ inverse) / np.where(empty, 1.0, present)
    result[empty] = 1.0 / max(1, int(empty.sum()))
    return result
