from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mml_ray.errors import DataError
from mml_ray.prepare.checks.integrity import IntegrityReport, check_integrity
from mml_ray.prepare.folds import check_existing_folds, split_folds
from mml_ray.tasks.attributes import TaskType
from tests.tasks import builders

CLS = TaskType.CLASSIFICATION
TWO = {0: "a", 1: "b"}


def labelled(count: int, groups: int = 0) -> dict[str, dict[str, Any]]:
    return {f"s{n}": {"class": int(n % 4 == 0), **({"group": f"g{n % groups}"} if groups else {})} for n in range(count)}


def test_equal_data_give_equal_folds_and_other_seeds_others() -> None:
    first = split_folds(labelled(100), CLS, idx_to_class=TWO)
    assert first == split_folds(labelled(100), CLS, idx_to_class=TWO)
    assert first != split_folds(labelled(100), CLS, idx_to_class=TWO, seed=1)
    assert len(first[0]) == 20 and first[0] != sorted(first[0], key=lambda sample_id: int(sample_id[1:]))


def test_every_fold_has_its_share_of_each_class() -> None:
    samples = labelled(103)
    for fold in split_folds(samples, CLS, idx_to_class=TWO, n_folds=4):
        counts = Counter(samples[sample_id]["class"] for sample_id in fold)
        assert counts[1] in (6, 7) and counts[0] in (19, 20)


def test_groups_stay_together_and_classes_balanced() -> None:
    samples = labelled(200, groups=40)
    folds = split_folds(samples, CLS, idx_to_class=TWO)
    for group in {sample["group"] for sample in samples.values()}:
        assert sum(any(samples[i]["group"] == group for i in fold) for fold in folds) == 1
    assert [Counter(samples[i]["class"] for i in fold) for fold in folds] == [Counter({0: 30, 1: 10})] * 5
    with pytest.raises(DataError, match=r"3 group\(s\) \(of 90 samples\) cannot fill 5 folds"):
        split_folds(labelled(90, groups=3), CLS, idx_to_class=TWO)


def test_the_first_fold_may_have_another_size() -> None:
    folds = split_folds(labelled(200), CLS, idx_to_class=TWO, n_folds=3, fold_0_fraction=0.1)
    assert [len(fold) for fold in folds] == [20, 91, 89]  # of 150 and of 50 samples
    values = {f"s{n}": {"value": n / 10} for n in range(100)}
    folds = split_folds(values, TaskType.REGRESSION, idx_to_class={}, n_folds=3, fold_0_fraction=0.2)
    assert [len(fold) for fold in folds] == [20, 40, 40]
    assert all(abs(sum(values[i]["value"] for i in fold) / len(fold) - 4.95) < 0.4 for fold in folds)


def test_a_small_first_fold_gets_no_more_than_its_share() -> None:
    grouped = {f"s{n}": {"class": n % 3, "group": f"g{n // 4}"} for n in range(1000)}
    folds = split_folds(grouped, CLS, idx_to_class={**TWO, 2: "c"}, n_folds=2, fold_0_fraction=0.1)
    assert abs(len(folds[0]) - 100) <= 4  # a group
    assert all(abs(count - 33) <= 4 for count in Counter(grouped[i]["class"] for i in folds[0]).values())
    for count, fraction in ((20, 0.2), (30, 0.2), (50, 0.1), (100, 0.05)):
        values = {f"s{n}": {"value": float(n)} for n in range(count)}
        folds = split_folds(values, TaskType.REGRESSION, idx_to_class={}, n_folds=2, fold_0_fraction=fraction)
        assert len(folds[0]) == round(fraction * count)


def test_without_balancing_only_the_sizes_are_alike() -> None:
    samples = {f"s{n}": {"class": int(n < 2)} for n in range(50)}
    assert [len(fold) for fold in split_folds(samples, CLS, idx_to_class=TWO, ensure_balancing=False)] == [10] * 5
    with pytest.raises(DataError, match=r"Class 'b' \(index 1\): 2"):
        split_folds(samples, CLS, idx_to_class=TWO)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([["s0", "s1", "s2", "s3"]], "at least two"),
        ([["s0", "s1", "s2", "s3"], []], "Fold 1 has no samples"),
        ([["s0", "s1"], ["s2", "s3", "s1"]], "twice in the folds, such as 's1'"),
        ([["s0", "s1"], ["s2", "s3", "x"]], "not training samples, such as 'x'"),
        ([["s0", "s1"], ["s2"]], "in no fold, such as 's3'"),
    ],
)
def test_given_folds_have_to_be_a_partition(folds: list[list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_existing_folds(folds, labelled(4))


def test_given_folds_that_tear_groups_warn() -> None:
    with pytest.warns(UserWarning, match=r"split 1 group\(s\), such as 'g0'"):
        check_existing_folds([["s0", "s1"], ["s2", "s3"]], {**labelled(4, groups=4), "s2": {"class": 0, "group": "g0"}})


# -- integrity -------------------------------------------------------------------------------------------------------------
def test_integrity_finds_copies_and_torn_groups_across_places() -> None:
    task = builders.classification(20)
    digests = {s["image"]: s["image"] for s in [*task.train_samples.values(), *task.test_samples.values()]}
    assert check_integrity(task, digests) == IntegrityReport()
    digests["testing_data/3.png"] = digests["training_data/7.png"] = "same"
    digests["training_data/0.png"] = digests["training_data/5.png"] = "fine"  # both are in fold 0
    task.train_samples["s0001"]["group"] = task.train_samples["s0002"]["group"] = "patient"
    report = check_integrity(task, digests)
    assert report.duplicated_images == 1 and report.duplicates == [["fold 2/s0007", "test/t3"]]
    assert report.torn_groups == 1 and report.groups == [["patient in fold 1", "patient in fold 2"]]
    assert not report.ok and len(report.lines()) == 2
    assert IntegrityReport(**report.to_json()) == report


def test_examples_are_few_but_counts_are_whole() -> None:
    task = builders.classification(200)
    report = check_integrity(task, {s["image"]: f"{n // 2}" for n, s in enumerate(task.train_samples.values())})
    assert report.duplicated_images == 100 and len(report.duplicates) == 10
    assert len(report.lines()[0]) < 300
