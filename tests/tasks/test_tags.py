from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, UnknownNameError
from mml_ray.registry import registry
from mml_ray.tasks import tags
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.variant import Variant, to_bytes
from tests.tasks import builders

BUILDERS: dict[str, Callable[[], TaskDescription]] = {
    "classification": builders.classification,
    "groups": lambda: builders.classification(120, groups=24),
    "segmentation": builders.segmentation,
    "multilabel": builders.multilabel,
    "soft": builders.soft,
    "regression": builders.regression,
}


def derive(task: TaskDescription, tag: str) -> TaskDescription:
    return tags.derive(task, tags.parse(f"x+{tag}").tags[0])


# -- names ---------------------------------------------------------------------------------------------------------------
def test_a_name_is_taken_apart_and_put_together() -> None:
    name = tags.parse("digits+nested?0?3+subset?0_5")
    assert name.base == "digits" and name.tags == (tags.Tag("nested", ("0", "3")), tags.Tag("subset", ("0_5",)))
    assert str(name) == "digits+nested?0?3+subset?0_5"
    assert name.prefixes() == ["digits", "digits+nested?0?3", "digits+nested?0?3+subset?0_5"]


def test_d_str_1_a_duplicate_has_the_data_of_its_original() -> None:
    assert tags.strip_duplicate("digits+duplicate?1") == "digits"
    assert tags.strip_duplicate("digits+duplicate?1+nested?0") == "digits+nested?0"
    assert tags.parse("digits+nested?0+duplicate?2").prefixes() == ["digits", "digits+nested?0"]
    tags.check("digits+duplicate?1")


@pytest.mark.parametrize("name", ["", "+nested?0", "digits+", "digits++nested?0", "digits+subset?0.5", "digits+?1"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(MMLMisconfigurationException):
        tags.parse(name)


def test_unknown_tags_and_wrong_arguments_are_explained() -> None:
    with pytest.raises(UnknownNameError, match="Unknown tag 'nestd'. Did you mean: nested"):
        tags.check("digits+nestd?0")
    with pytest.raises(MMLMisconfigurationException, match=r"nested takes \(fold, new_folds=''\)"):
        tags.check("digits+nested")
    with pytest.raises(MMLMisconfigurationException, match="number of arguments"):
        tags.check("digits+subset?0_5?1?2")


def test_a_plugin_adds_a_tag() -> None:
    def only_first(description: TaskDescription) -> Variant:
        return Variant(train_folds=[[0], [1]], class_occ={"A": 2, "B": 0})

    registry.add("tag", "only_first", only_first)
    try:
        assert derive(builders.classification(), "only_first").train_folds == [["s0000"], ["s0001"]]
    finally:
        registry.remove("tag", "only_first")


# -- nested --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", BUILDERS)
def test_d_tc_2_every_task_type_can_be_nested(kind: str) -> None:
    task = BUILDERS[kind]()
    for fold in range(task.n_folds):
        inner = derive(task, f"nested?{fold}")
        assert inner.name == f"toy+nested?{fold}" and inner.n_folds == task.n_folds
        assert set(inner.test_samples) == set(task.train_folds[fold])
        rest = {sample_id for other, ids in enumerate(task.train_folds) if other != fold for sample_id in ids}
        dealt = [sample_id for ids in inner.train_folds for sample_id in ids]
        assert set(dealt) == rest and len(dealt) == len(rest)
        assert inner.unlabeled_samples == task.unlabeled_samples
        assert all(inner.train_samples[i] == task.train_samples[i] for i in rest)


def test_d_tc_6_nesting_keeps_or_sets_the_number_of_folds() -> None:
    task = builders.classification(90, n_folds=3)
    assert derive(task, "nested?0").n_folds == 3
    assert derive(task, "nested?0?4").n_folds == 4


def test_d_tc_5_nesting_tears_no_group() -> None:
    task = builders.classification(200, groups=40)
    inner = derive(task, "nested?1")
    folds_of: dict[str, set[int]] = {}
    for fold, ids in enumerate(inner.train_folds):
        for sample_id in ids:
            folds_of.setdefault(inner.train_samples[sample_id]["group"], set()).add(fold)
    assert all(len(folds) == 1 for folds in folds_of.values()) and len(folds_of) == 32
    sizes = [len(ids) for ids in inner.train_folds]
    assert max(sizes) - min(sizes) <= 5


def test_d_tc_3_a_class_that_nesting_removes_counts_zero() -> None:
    task = builders.classification(50, n_classes=3)
    for fold, ids in enumerate(task.train_folds):
        for sample_id in ids:
            task.train_samples[sample_id]["class"] = 2 if fold == 1 else fold % 2
    inner = derive(task, "nested?1")
    assert inner.class_occ == {"A": 30, "B": 10, "C": 0}
    assert list(inner.idx_to_class.values()) == ["A", "B", "C"]


def test_nested_folds_are_balanced_by_class() -> None:
    inner = derive(builders.classification(200, n_classes=4), "nested?3")
    for ids in inner.train_folds:
        assert Counter(inner.train_samples[i]["class"] for i in ids) == Counter({0: 8, 1: 8, 2: 8, 3: 8})
    assert inner.class_occ == dict.fromkeys("ABCD", 40)


def test_nested_folds_are_balanced_by_value_labels_and_masks() -> None:
    values = derive(builders.regression(200), "nested?0")
    means = [sum(values.train_samples[i]["value"] for i in ids) / len(ids) for ids in values.train_folds]
    assert max(means) - min(means) < 0.05
    labels = derive(builders.multilabel(300), "nested?0")
    for raw in (0, 1, 2):
        shown = [sum(raw in labels.train_samples[i]["classes"] for i in ids) for ids in labels.train_folds]
        assert max(shown) - min(shown) <= 2
    masks = derive(builders.segmentation(120), "nested?0")
    assert masks.mask_classes is not None
    shown = [sum(2 in masks.mask_classes[i] for i in ids) for ids in masks.train_folds]
    assert max(shown) - min(shown) <= 1 and masks.class_occ["B"] == sum(shown)


def test_a_rare_class_does_not_prevent_nesting() -> None:
    task = builders.classification(100)
    for sample_id in list(task.train_samples)[:98]:
        task.train_samples[sample_id]["class"] = 0
    inner = derive(task, "nested?0")
    assert sum(map(len, inner.train_folds)) == 80 and min(map(len, inner.train_folds)) >= 15


@pytest.mark.parametrize("tag", ["nested?5", "nested?-1", "nested?nine", "nested?", "nested?0?1", "nested?0?x"])
def test_impossible_nesting_is_refused(tag: str) -> None:
    with pytest.raises(MMLMisconfigurationException):
        derive(builders.classification(), tag)


def test_too_few_samples_or_groups_for_the_new_folds() -> None:
    with pytest.raises(DataError, match=r"cannot be nested on fold 0 with 9 new folds: 8 sample\(s\) cannot fill 9 folds"):
        derive(builders.classification(10), "nested?0?9")
    with pytest.raises(DataError, match=r"3 group\(s\) \(of 80 samples\) cannot fill 5 folds"):
        derive(builders.classification(100, groups=3), "nested?0")


def test_segmentation_needs_its_masks_read() -> None:
    task = builders.segmentation()
    task.mask_classes = None
    with pytest.raises(DataError, match="no masks were read"):
        derive(task, "nested?0")


# -- the other tags ------------------------------------------------------------------------------------------------------
def test_identity_changes_nothing_but_the_name() -> None:
    task = builders.classification()
    same = derive(task, "identity?7")
    assert (same.train_samples, same.test_samples, same.class_occ) == (task.train_samples, task.test_samples, task.class_occ)
    assert [sorted(ids) for ids in same.train_folds] == [sorted(ids) for ids in task.train_folds]
    assert same.name == "toy+identity?7" and "identity?7" in same.creation_protocol


def test_subset_keeps_a_share_of_each_fold() -> None:
    task = builders.classification()
    half = derive(task, "subset?0_5")
    assert [len(ids) for ids in half.train_folds] == [10] * 5
    assert all(set(kept) <= set(ids) for kept, ids in zip(half.train_folds, task.train_folds, strict=True))
    assert half.test_samples == task.test_samples and sum(half.class_occ.values()) == 50
    assert derive(task, "subset?0_5").train_folds == half.train_folds
    with pytest.raises(DataError, match="leaves no sample in a fold"):
        derive(task, "subset?0_01")
    with pytest.raises(MMLMisconfigurationException, match="between 0 and 1"):
        derive(task, "subset?2")


def test_confuse_replaces_labels_of_training_samples_only() -> None:
    task = builders.classification(1000, n_classes=4)
    wrong = derive(task, "confuse?0_4")
    changed = [i for i in task.train_samples if wrong.train_samples[i]["class"] != task.train_samples[i]["class"]]
    assert 250 < len(changed) < 350  # 400 are drawn, a quarter of them draws its own class
    assert wrong.test_samples == task.test_samples and wrong.train_folds == [sorted(ids) for ids in task.train_folds]
    counted = Counter(wrong.idx_to_class[sample["class"]] for sample in wrong.train_samples.values())
    assert wrong.class_occ == {name: counted[name] for name in "ABCD"}
    assert task.train_samples["s0000"]["class"] == 0
    with pytest.raises(MMLMisconfigurationException, match="classification"):
        derive(builders.regression(), "confuse?0_1")


def test_shrink_train_leaves_the_validation_fold_alone() -> None:
    task = builders.classification(500)
    small = derive(task, "shrink_train?60?3")
    assert sorted(small.train_folds[0]) == sorted(task.train_folds[0])
    assert sum(map(len, small.train_folds[1:])) == 60 and sum(small.class_occ.values()) == 60
    assert derive(task, "shrink_train?60?4").train_folds != small.train_folds
    least = derive(task, "shrink_train?8")
    for ids in least.train_folds[1:]:
        assert Counter(least.train_samples[i]["class"] for i in ids) == Counter({0: 5, 1: 5})
    with pytest.raises(MMLMisconfigurationException, match="from 1 to 400"):
        derive(task, "shrink_train?401")


def test_shrink_equal_takes_as_many_of_each_class() -> None:
    task = builders.classification(500, n_classes=4)
    small = derive(task, "shrink_equal?20")
    assert small.class_occ == dict.fromkeys("ABCD", 20) and [len(ids) for ids in small.train_folds] == [16] * 5
    for wrong in ("shrink_equal?4", "shrink_equal?126"):
        with pytest.raises(DataError, match="from 5 .* to 125"):
            derive(task, wrong)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("subset?2", r"The tag 'subset\?2': The argument share must be between 0 and 1, .*got '2'"),
        ("subset?0_1_5", "must be between 0 and 1"),
        ("shrink_train?1_5", r"The tag 'shrink_train\?1_5': The argument total must be an integer, got '1_5'"),
        ("nested?x", r"The tag 'nested\?x': The argument fold must be an integer"),
        ("redistribute_splits?1", r"redistribute_splits\?1: a single fraction must be greater than 0 and less than 1"),
    ],
)
def test_wrong_arguments_name_the_tag(tag: str, said: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=said):
        derive(builders.classification(), tag)


def test_redistribute_splits_with_one_two_and_three_fractions() -> None:
    task = builders.classification(100)
    one = derive(task, "redistribute_splits?0_8")
    assert [len(ids) for ids in one.train_folds] == [20, 80] and one.test_samples == task.test_samples
    two = derive(task, "redistribute_splits?0_5?0_2")
    assert [len(ids) for ids in two.train_folds] == [20, 50] and two.test_samples == task.test_samples
    three = derive(task, "redistribute_splits?0_6?0_2?0_2")
    assert [len(ids) for ids in three.train_folds] == [22, 66] and len(three.test_samples) == 22
    assert three.class_occ == {"A": 44, "B": 44}
    everything = {*three.train_samples, *three.test_samples}
    assert everything == {*task.train_samples, *task.test_samples}
    for wrong in ("redistribute_splits?0_8?0_3", "redistribute_splits?0", "redistribute_splits?1"):
        with pytest.raises(MMLMisconfigurationException, match="sum to at most 1|less than 1"):
            derive(task, wrong)


def test_redistribute_splits_keeps_groups_whole() -> None:
    found = derive(builders.classification(200, groups=20), "redistribute_splits?0_5?0_3")
    groups = [{found.train_samples[i]["group"] for i in ids} for ids in found.train_folds]
    assert not groups[0] & groups[1] and all(groups)


def test_ids_that_two_splits_share_cannot_be_merged() -> None:
    task = builders.classification()
    task.test_samples = {"s0000": task.test_samples["t0"], **{f"s{i:04d}": task.test_samples[f"t{i}"] for i in range(1, 10)}}
    with pytest.raises(DataError, match="uses a sample id twice"):
        derive(task, "redistribute_splits?0_6?0_3?0_1")


def test_subclass_reduces_classes() -> None:
    task = builders.classification(300, n_classes=4)
    two = derive(task, "subclass?1?3")
    assert two.idx_to_class == {1: "B", 3: "D"} and two.class_occ == {"B": 75, "D": 75}
    assert {sample["class"] for sample in two.train_samples.values()} == {1, 3}
    labels = derive(builders.multilabel(), "subclass?0?2")
    assert len(labels.train_samples) == 60 and labels.train_samples["s6"]["classes"] == [0]
    assert labels.class_occ == {"A": 30, "C": 6}
    masks = derive(builders.segmentation(), "subclass?2")
    assert masks.idx_to_class == {0: "background", 2: "B"} and masks.class_occ == {"background": 60, "B": 10}
    for wrong in ("subclass?1", "subclass?1?9", "subclass"):
        with pytest.raises(MMLMisconfigurationException, match="0=A, 1=B, 2=C, 3=D"):
            derive(task, wrong)
    with pytest.raises(MMLMisconfigurationException, match="cannot leave out classes"):
        derive(builders.soft(), "subclass?0?1")


# -- storage -------------------------------------------------------------------------------------------------------------
def store(task: TaskDescription, tag: str, folder: Path) -> Path:
    task.save(folder / "base.json")
    name = f"{task.name}+{tag}"
    path = folder / "variant.json"
    atomic.write_bytes(path, to_bytes(tags.modify(task, tags.parse(name).tags[0]), task, name=name, base_file="base.json"))
    return path


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("tag", ["nested?2", "identity?1"])
def test_a_stored_variant_is_the_derived_task(kind: str, tag: str, tmp_path: Path) -> None:
    task = BUILDERS[kind]()
    assert TaskDescription.load(store(task, tag, tmp_path)) == derive(task, tag)


@pytest.mark.parametrize("tag", ["confuse?0_5", "subclass?0?1", "shrink_train?30", "redistribute_splits?0_5?0_2?0_3"])
def test_stored_labels_and_classes_come_back(tag: str, tmp_path: Path) -> None:
    task = builders.classification(100, n_classes=4)
    assert TaskDescription.load(store(task, tag, tmp_path)) == derive(task, tag)


def test_a_variant_of_another_version_of_its_base_is_refused(tmp_path: Path) -> None:
    path = store(builders.classification(), "nested?0", tmp_path)
    changed = builders.classification()
    changed.train_samples["s0003"]["class"] = 1
    changed.save(tmp_path / "base.json")
    with pytest.raises(DataError, match="changed after its variant"):
        TaskDescription.load(path)


def test_statistics_and_files_of_the_base_may_change(tmp_path: Path) -> None:
    path = store(builders.classification(), "nested?0", tmp_path)
    changed = builders.classification()
    for sample in changed.train_samples.values():
        sample["image"] += ".jpg"
    changed.means = changed.stds
    changed.save(tmp_path / "base.json")
    assert TaskDescription.load(path).samples(DataSplit.VAL, 0).popitem()[1]["image"].endswith(".png.jpg")


def test_p_json_a_nested_variant_of_100_000_samples_is_small(tmp_path: Path) -> None:
    task = builders.classification(100_000, n_classes=10)
    path = store(task, "nested?0", tmp_path)
    assert path.stat().st_size < 300_000
    assert TaskDescription.load(path).n_folds == 5
