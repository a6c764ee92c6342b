"""Orders, weights and the numbers of batches."""

from __future__ import annotations

import numpy as np
import pytest

from mml_ray.data.sampling import (
    BatchPlan,
    Stream,
    class_weights,
    multilabel_weights,
    parallel_batches,
    repeats_of,
    sequential_batches,
)


def stream(size: int, batch_size: int = 4, **others: object) -> Stream:
    return Stream("t", size, batch_size, **{"shuffle": True, "seed": 3, **others})  # type: ignore[arg-type]


def test_each_epoch_is_another_permutation_known_from_its_key() -> None:
    orders = [stream(50).order(epoch) for epoch in range(4)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert np.array_equal(stream(50).order(2), orders[2])
    assert not np.array_equal(stream(50, seed=4).order(2), orders[2])
    assert not np.array_equal(stream(50).order(2, cycle=1), orders[2])
    assert stream(50, shuffle=False).order(7).tolist() == list(range(50))


def test_drawing_with_replacement() -> None:
    order = stream(10, sample_num=1000).order(0)
    assert len(order) == 1000 and np.bincount(order, minlength=10).min() > 60
    weights = np.array([1.0, 0.0, 3.0])
    counts = np.bincount(stream(3, sample_num=4000, weights=weights).order(0), minlength=3)
    assert counts[1] == 0 and abs(counts[2] / counts[0] - 3) < 0.4
    assert len(stream(3, weights=weights).order(0)) == 3


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_hold_every_sample_once(drop_last: bool, shuffle: bool) -> None:
    for size in range(1, 30):
        for batch_size in range(1, min(size, 8) + 1):
            made = stream(size, batch_size, drop_last=drop_last and shuffle, shuffle=shuffle)
            batches = [draw.indices for [draw] in parallel_batches([made], BatchPlan(1))]
            assert len(batches) == made.batches
            seen = sorted(np.concatenate(batches).tolist())
            if drop_last and shuffle:
                assert len(seen) == size // batch_size * batch_size and len(set(seen)) == len(seen)
            else:
                assert seen == list(range(size))
            sizes = [len(batch) for batch in batches]
            assert all(length == batch_size for length in sizes[:-1]) and sizes[-1] <= batch_size + 1
            if shuffle and size > 1 and batch_size > 1:
                assert min(sizes) > 1, "no training batch of one sample"


def test_a_plan_enters_anywhere() -> None:
    streams = [stream(23), stream(9, 2, sample_num=7), stream(5, 3)]
    for batches in (parallel_batches, sequential_batches):
        whole = [_plain(draws) for draws in batches(streams, BatchPlan(2))]
        for start in range(len(whole) + 1):
            assert [_plain(draws) for draws in batches(streams, BatchPlan(2, start))] == whole[start:]


def _plain(draws: list) -> list:  # type: ignore[type-arg]
    return [(draw.stream, draw.epoch, draw.indices.tolist(), draw.repeats.tolist()) for draw in draws]


def test_repeats_count_earlier_occurrences_over_the_whole_epoch() -> None:
    assert repeats_of(np.array([5, 2, 5, 5, 2])).tolist() == [0, 0, 1, 2, 1] and repeats_of(np.array([], np.int64)).tolist() == []
    streams = [stream(12), stream(3, 2)]
    seen: dict[int, set[int]] = {}
    for draws in parallel_batches(streams, BatchPlan(0)):
        for index, repeat in zip(draws[1].indices.tolist(), draws[1].repeats.tolist(), strict=True):
            assert repeat not in seen.setdefault(index, set())
            seen[index].add(repeat)


def test_weights_even_out_the_classes() -> None:
    labels = np.array([0, 0, 0, 2])
    weights = class_weights(labels)
    assert np.isclose(weights[labels == 0].sum(), weights[labels == 2].sum())
    hot = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
    assert np.allclose(multilabel_weights(hot), [1 / 2, (1 / 2 + 1) / 2, 1 / 2, 1 / 2])
    soft = np.array([[0.5, 0.5], [1.0, 0.0]])
    assert np.allclose(multilabel_weights(soft), [0.5 / 1.5 + 0.5 / 0.5, 1 / 1.5])
