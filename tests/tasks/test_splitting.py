from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.splitting import fold_lengths, permutation, split_pools, split_stratified


def test_permutation_is_fixed_for_all_times() -> None:
    assert permutation(8, 42) == [3, 0, 6, 1, 4, 5, 2, 7]
    assert permutation(8, 42) != permutation(8, 43)
    assert sorted(permutation(1000, "x")) == list(range(1000))


def test_lengths_give_the_surplus_to_the_first_folds() -> None:
    assert fold_lengths(13, 5) == [3, 3, 3, 2, 2]
    assert fold_lengths(20, 3, 0.25) == [5, 8, 7]


@given(sizes=st.lists(st.integers(5, 40), min_size=1, max_size=5), n_folds=st.integers(2, 5), seed=st.integers(0, 100))
def test_pools_reach_every_fold_with_their_exact_share(sizes: list[int], n_folds: int, seed: int) -> None:
    pools, start = {}, 0
    for number, size in enumerate(sizes):
        pools[number] = list(range(start, start + size))
        start += size
    folds = split_pools(pools, n_folds, seed=seed)
    assert sorted(position for fold in folds for position in fold) == list(range(start))
    for pool in pools.values():
        assert [len(set(pool) & set(fold)) for fold in folds] == fold_lengths(len(pool), n_folds)


def test_the_first_fold_takes_its_fraction() -> None:
    folds = split_pools({"all": range(100)}, 3, fold_0_fraction=0.2)
    assert [len(fold) for fold in folds] == [20, 40, 40]


def test_a_pool_that_cannot_reach_all_folds_is_named() -> None:
    with pytest.raises(DataError, match=r"Class 'rare' has 3 sample\(s\).*5 folds"):
        split_pools({"Class 'common'": range(50), "Class 'rare'": range(50, 53)}, 5)


@pytest.mark.parametrize(("n_folds", "fraction"), [(1, None), (0, None), (True, None), (3, 0.0), (3, 1.0), (3, -0.1)])
def test_impossible_shapes_are_refused(n_folds: int, fraction: float | None) -> None:
    with pytest.raises(MMLMisconfigurationException):
        split_pools({"all": range(100)}, n_folds, fold_0_fraction=fraction)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_groups_are_never_torn_and_no_fold_is_empty(data: st.DataObject, n_folds: int, seed: int) -> None:
    groups = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 12)), min_size=5, max_size=80))
    labels = data.draw(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=len(groups), max_size=len(groups)))
    units = len({group for group in groups if group is not None}) + groups.count(None)
    if units < n_folds:
        with pytest.raises(DataError, match="cannot fill"):
            split_stratified(labels, n_folds, groups=groups, seed=seed)
        return
    folds = split_stratified(labels, n_folds, groups=groups, seed=seed)
    assert sorted(position for fold in folds for position in fold) == list(range(len(groups)))
    assert all(folds)
    for group in {group for group in groups if group is not None}:
        assert sum(any(groups[position] == group for position in fold) for fold in folds) == 1


def test_every_label_is_spread_evenly() -> None:
    labels = [tuple(label for label, every in enumerate((2, 3, 10, 50)) if i % every == 0) for i in range(1000)]
    folds = split_stratified(labels, 5)
    assert {len(fold) for fold in folds} == {200}
    for label, total in enumerate((500, 334, 100, 20)):
        shares = [sum(label in labels[position] for position in fold) for fold in folds]
        assert max(shares) - min(shares) <= 2 and sum(shares) == total


def test_groups_are_balanced_by_class_where_they_can_be() -> None:
    classes = [group % 2 for group in range(40) for _ in range(5)]
    folds = split_stratified([(c,) for c in classes], 4, groups=[i // 5 for i in range(200)])
    assert [Counter(classes[position] for position in fold) for fold in folds] == [Counter({0: 25, 1: 25})] * 4


def test_uneven_shares_hold_for_groups_too() -> None:
    folds = split_stratified([()] * 300, 3, groups=[i // 3 for i in range(300)], fold_0_fraction=0.1)
    assert [len(fold) for fold in folds] == [30, 135, 135]
