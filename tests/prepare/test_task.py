from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_ray.errors import (
    BrokenSampleError,
    DataError,
    InvalidTransitionError,
    LeakageError,
    MMLMisconfigurationException,
    StorageError,
)
from mml_ray.imaging import files
from mml_ray.prepare.checks.facts import load_facts
from mml_ray.prepare.context import activated
from mml_ray.prepare.iterators import (
    get_iterator_and_mapping_from_image_dataset,
    get_iterator_from_segmentation_dataset,
    get_iterator_from_unlabeled_dataset,
)
from mml_ray.prepare.task import TaskCreator, TaskCreatorState
from mml_ray.prepare.verifiers import MODALITY_VERIFIER_MAP, Verified, VerifierContext
from mml_ray.tasks.attributes import (
    EMPTY_MASK_TOKEN,
    PATH_MODALITIES,
    Keyword,
    License,
    Modality,
    RGBInfo,
    Sizes,
    TaskType,
)
from mml_ray.tasks.description import TaskDescription
from tests.prepare.makers import class_folders, context, picture, write

M = Modality


@pytest.fixture
def dset(tmp_path: Path) -> Path:
    folder = tmp_path / "RAW" / "DSET_toy"
    folder.mkdir(parents=True)
    return folder


def classified(dset: Path, *, per_class: int = 12, **options: Any) -> TaskCreator:
    """A creator that has found classes a, b, c and four test images."""
    class_folders(dset / "training_data", classes={"a": per_class, "b": per_class, "c": per_class})
    class_folders(dset / "testing_data", classes={"a": 2, "b": 2}, size=(9, 9))
    creator = TaskCreator(dset, "toy", task_type=TaskType.CLASSIFICATION, **options)
    train, mapping = get_iterator_and_mapping_from_image_dataset(dset / "training_data")
    test, _ = get_iterator_and_mapping_from_image_dataset(dset / "testing_data", classes=["a", "b"])
    creator.find_data(train_iterator=train, test_iterator=test, idx_to_class=mapping)
    return creator


def samples(dset: Path, entries: Iterable[dict[Modality, Any]]) -> list[dict[Modality, Any]]:
    """One image for each of these entries."""
    return [{M.SAMPLE_ID: f"s{n}", M.IMAGE: write(dset / f"{n}.png", picture(n)), **entry} for n, entry in enumerate(entries)]


# -- the way through -----------------------------------------------------------------------------------------------------
def test_a_task_from_folders(dset: Path) -> None:
    creator = classified(
        dset, desc="text", ref="ref", url="url", instr="how", lic=License.MIT, release="1", keywords=[Keyword.MEDICAL]
    )
    creator.split_folds()
    creator.infer_stats()
    path = creator.push_and_test()
    task = TaskDescription.load(path)
    assert path == dset / "TASK_toy.json" and creator.state == TaskCreatorState.FINISHED
    assert task.idx_to_class == {0: "a", 1: "b", 2: "c"} and task.class_occ == {"a": 12, "b": 12, "c": 12}
    assert task.n_folds == 5 and len(task.test_samples) == 4 and task.modalities == {M.CLASS: "", M.IMAGE: "png; "}
    first = next(iter(task.train_samples.values()))
    assert first == {"image": "training_data/a/000.png", "class": 0}
    assert task.sizes.to_list() == [16, 16, 20, 20] and 0.4 < task.means.r < 0.6 and 0.2 < task.stds.g < 0.4
    assert (task.description, task.reference, task.download, task.license) == ("text", "ref", "how", License.MIT)
    for step in ("Started", "Found data (36 FULL_TRAIN, 4 TEST)", "Split into 5 folds", "Inferred statistics", "Finished"):
        assert step in task.creation_protocol


def test_a_segmentation_task_with_empty_and_ignored_masks(dset: Path) -> None:
    for number in range(10):
        write(dset / "images" / f"{number}.png", picture(number))
        mask = np.zeros((16, 20), np.uint8)
        mask[:4] = 255
        mask[5:, : number + 1] = 1 if number % 2 else 7
        write(dset / "masks" / f"{number}.png", mask)
    found = get_iterator_from_segmentation_dataset(dset / "images", dset / "masks")
    found[4] = {**found[4], M.MASK: EMPTY_MASK_TOKEN}
    creator = TaskCreator(dset, "cells", task_type=TaskType.SEMANTIC_SEGMENTATION)
    creator.find_data(train_iterator=found, idx_to_class={0: "background", 1: "small", 7: "big"})
    task = TaskDescription.load(creator.auto_complete())
    assert task.class_occ == {"background": 10, "small": 5, "big": 4}
    assert task.train_samples["4.png"]["mask"] == EMPTY_MASK_TOKEN and task.modalities[M.MASK] == "png; "
    assert load_facts(creator.path, task)["mask_classes"]["3.png"] == [0, 1]


def test_regression_multilabel_soft_and_unlabelled_tasks(dset: Path) -> None:
    values = TaskCreator(dset, "values", task_type=TaskType.REGRESSION)
    values.find_data(train_iterator=samples(dset, [{M.VALUE: n / 4} for n in range(20)]))
    assert TaskDescription.load(values.auto_complete()).class_occ == {}
    labels = TaskCreator(dset, "labels", task_type=TaskType.MULTILABEL_CLASSIFICATION)
    entries = [{M.CLASSES: np.array([2, 4][: n % 3])} for n in range(20)]
    labels.find_data(train_iterator=samples(dset, entries), idx_to_class={2: "x", 4: "y"})
    task = TaskDescription.load(labels.auto_complete())
    assert task.class_occ == {"x": 13, "y": 6} and task.train_samples["s2"]["classes"] == [2, 4]
    soft = TaskCreator(dset, "soft", task_type=TaskType.MULTILABEL_CLASSIFICATION)
    soft.find_data(train_iterator=samples(dset, [{M.SOFT_CLASSES: (0.25, 0.75)}] * 20), idx_to_class={0: "x", 1: "y"})
    assert TaskDescription.load(soft.auto_complete()).class_occ == {"x": 5, "y": 15}
    bare = TaskCreator(dset, "bare", task_type=TaskType.NO_TASK)
    bare.find_data(unlabeled_iterator=get_iterator_from_unlabeled_dataset(dset))
    task = TaskDescription.load(bare.auto_complete())
    assert (task.n_folds, task.num_samples, task.sizes.max_width) == (0, 20, 20)


def test_statistics_are_of_training_images_only(dset: Path) -> None:
    train = [
        {M.SAMPLE_ID: str(n), M.IMAGE: write(dset / f"{n}.png", np.full((8, 8, 3), 51, np.uint8)), M.VALUE: 0.5} for n in range(4)
    ]
    test = [{M.SAMPLE_ID: "t", M.IMAGE: write(dset / "t.png", np.full((99, 99, 3), 255, np.uint8)), M.VALUE: 0.5}]
    creator = TaskCreator(dset, "x", task_type=TaskType.REGRESSION)
    creator.find_data(train_iterator=train, test_iterator=test)
    creator.split_folds(2, ensure_balancing=False)
    creator.infer_stats()
    assert creator.task.means.to_list() == pytest.approx([0.2] * 3) and creator.task.sizes.to_list() == [8, 8, 8, 8]


def test_input_is_not_changed_and_files_are_read_once(dset: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    read: list[str] = []
    real = files.read_bytes

    def counted(path: str) -> bytes:
        read.append(Path(path).name)
        return real(path)

    monkeypatch.setattr("mml_ray.imaging.backends.read_bytes", counted)
    given = samples(dset, [{M.CLASS: n % 2} for n in range(20)])
    before = [dict(sample) for sample in given]
    creator = TaskCreator(dset, "toy", task_type=TaskType.CLASSIFICATION)
    creator.find_data(train_iterator=iter(given), idx_to_class={0: "a", 1: "b"})
    creator.auto_complete()
    assert given == before and Counter(read) == Counter({f"{n}.png": 1 for n in range(20)})


# -- states --------------------------------------------------------------------------------------------------------------
def test_steps_out_of_order_are_refused(dset: Path) -> None:
    creator = TaskCreator(dset, "toy", task_type=TaskType.CLASSIFICATION)
    for step in (creator.split_folds, creator.infer_stats, creator.push_and_test, creator.auto_complete):
        with pytest.raises(InvalidTransitionError, match="find_data"):
            step()
    creator = classified(dset)
    with pytest.raises(InvalidTransitionError, match="find_data cannot be called .* state DATA_FOUND"):
        creator.find_data(train_iterator=[])
    with pytest.raises(InvalidTransitionError):
        creator.infer_stats()
    creator.split_folds()
    creator.split_folds(3)  # may be repeated
    assert creator.task.n_folds == 3
    with pytest.raises(InvalidTransitionError):
        creator.push_and_test()
    creator.push_and_test(ignore_state=True)  # type: ignore[call-arg]
    assert creator.state == TaskCreatorState.FINISHED
    with pytest.raises(InvalidTransitionError):
        creator.split_folds()


def test_a_failed_step_does_not_count(dset: Path) -> None:
    creator = classified(dset, per_class=3)
    with pytest.raises(DataError):
        creator.split_folds(5)
    assert creator.state == TaskCreatorState.DATA_FOUND
    creator.split_folds(3)


def test_an_existing_task_is_taken_up(dset: Path) -> None:
    path = classified(dset).auto_complete()
    again = TaskCreator(dset)
    again.load_existent(path)
    assert again.task.name == "toy" and again.state == TaskCreatorState.STATS_SET
    again.split_folds(3)
    again.infer_stats()
    again.push_and_test()
    task = TaskDescription.load(path)
    assert task.n_folds == 3 and "Loaded from TASK_toy.json" in task.creation_protocol


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a?b", "50%", "_TOP_LEVEL_"])
def test_names_that_cannot_be(dset: Path, name: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match="The name of a task must not be"):
        TaskCreator(dset, name)


def test_default_is_no_name(dset: Path) -> None:
    creator = TaskCreator(dset, task_type=TaskType.REGRESSION)
    creator.find_data(train_iterator=samples(dset, [{M.VALUE: n / 9} for n in range(9)]))
    with pytest.raises(MMLMisconfigurationException, match="'default'"):
        creator.auto_complete()


# -- what is refused -----------------------------------------------------------------------------------------------------
def find(dset: Path, task_type: TaskType, entry: dict[Modality, Any], **options: Any) -> None:
    TaskCreator(dset, "toy", task_type=task_type).find_data(train_iterator=samples(dset, [entry]), **options)


CLS, SEG, ML, REG = (
    TaskType.CLASSIFICATION,
    TaskType.SEMANTIC_SEGMENTATION,
    TaskType.MULTILABEL_CLASSIFICATION,
    TaskType.REGRESSION,
)
TWO = {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("task_type", "entry", "message"),
    [
        (CLS, {M.CLASS: 2}, "'s0' .*2 is not a class index. Allowed are 0=a, 1=b"),
        (CLS, {M.CLASS: True}, "True is not a class index"),
        (CLS, {M.CLASS: "a"}, "'a' is not a class index"),
        (CLS, {}, "'s0' of task 'toy' needs class and image"),
        (ML, {}, "needs classes and image or soft_classes and image"),
        (ML, {M.CLASSES: [0, 9]}, "9 is not a class index"),
        (ML, {M.CLASSES: "01"}, "list of indices"),
        (ML, {M.SOFT_CLASSES: [0.5]}, "2 probabilities, one for each class.*, got 1"),
        (ML, {M.SOFT_CLASSES: [0.5, 1.5]}, "between 0 and 1"),
        (ML, {M.SOFT_CLASSES: [0.5, "x"]}, "'x' is not a number"),
        (REG, {M.VALUE: float("nan")}, "finite"),
        (REG, {M.VALUE: 1.5}, "between 0 and 1"),
        (REG, {M.VALUE: "1"}, "'1' is not a number"),
        (CLS, {M.CLASS: 0, M.GROUP: ""}, "group"),
        (CLS, {M.CLASS: 0, M.BBOX: 1}, "The modality 'bbox' has no verifier"),
    ],
)
def test_d_tc_4_wrong_entries_raise_and_name_the_sample(
    dset: Path, task_type: TaskType, entry: dict[Modality, Any], message: str
) -> None:
    with pytest.raises((DataError, MMLMisconfigurationException), match=message):
        find(dset, task_type, entry, idx_to_class=TWO)


@pytest.mark.parametrize(
    ("task_type", "mapping", "message"),
    [
        (CLS, None, "at least two classes"),
        (CLS, {0: "a", 1: "a"}, "at least two classes"),
        (CLS, {0: "a", "1": "b"}, "integers from 0"),
        (CLS, {0: "a", 1: 2}, "integers from 0"),
        (TaskType.UNKNOWN, TWO, "must have one of the task types"),
    ],
)
def test_wrong_class_mappings(dset: Path, task_type: TaskType, mapping: Any, message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        find(dset, task_type, {M.CLASS: 0}, idx_to_class=mapping)


def test_ids_are_needed_and_unique_in_a_split(dset: Path) -> None:
    image = write(dset / "a.png", picture())
    for wrong, message in (
        ([{M.IMAGE: image, M.VALUE: 1.0}], "has no id|id None"),
        ([{M.SAMPLE_ID: 3, M.IMAGE: image, M.VALUE: 1.0}], "text"),
        ([{M.SAMPLE_ID: "a", M.IMAGE: image, M.VALUE: 1.0}] * 2, "Two FULL_TRAIN samples .* 'a'"),
    ):
        with pytest.raises(DataError, match=message):
            TaskCreator(dset, "toy", task_type=REG).find_data(train_iterator=wrong)
    same = [{M.SAMPLE_ID: "a", M.IMAGE: image, M.VALUE: 1.0}]
    TaskCreator(dset, "toy", task_type=REG).find_data(train_iterator=same, test_iterator=same)
    with pytest.raises(DataError, match="No samples"):
        TaskCreator(dset, "toy", task_type=REG).find_data(train_iterator=[])


def test_files_have_to_be_in_the_dataset(dset: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.png", picture())
    for wrong in (outside, "../../outside.png", dset / ".." / ".." / "outside.png"):
        with pytest.raises(DataError, match="must lie within its dataset"):
            find(dset, REG, {M.VALUE: 1.0, M.IMAGE: wrong})
    find(dset, REG, {M.VALUE: 1.0, M.IMAGE: "0.png"})


def mask(dset: Path, values: Any, size: tuple[int, int] = (16, 20)) -> Path:
    array = np.zeros(size, np.uint16 if max(values) > 255 else np.uint8)
    array.ravel()[: len(values)] = values
    return write(dset / "mask.png", array)


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ([0, 1, 3], (16, 20), "mask.png holds the value 3, which is not a class index"),
        ([0, 300], (16, 20), "mask.png holds values up to 300"),
        ([0, 1], (16, 16), r"differ in size: \(16, 20\) and \(16, 16\)"),
    ],
)
def test_wrong_masks_are_named(dset: Path, values: list[int], size: tuple[int, int], message: str) -> None:
    with pytest.raises(BrokenSampleError, match=message):
        find(dset, SEG, {M.MASK: mask(dset, values, size)}, idx_to_class={0: "background", 1: "x"})


def test_a_broken_image_is_named_or_left_out(dset: Path, tmp_path: Path) -> None:
    given = samples(dset, [{M.CLASS: n % 2} for n in range(22)])
    broken = [dset / "3.png", dset / "8.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    creator = TaskCreator(dset, "toy", task_type=CLS)
    with pytest.raises(BrokenSampleError, match=r"3.png is broken: it is truncated\. \(sample 's3'.*on_broken=skip"):
        creator.find_data(train_iterator=given, idx_to_class=TWO)
    with activated(context(tmp_path, on_broken="skip")), pytest.warns(UserWarning, match=r"2 broken sample\(s\).*3.png"):
        creator.find_data(train_iterator=given, idx_to_class=TWO)
    creator.use_existing_folds([[f"s{n}" for n in range(22) if n % 2 == part] for part in (0, 1)])
    creator.infer_stats()
    task = TaskDescription.load(creator.push_and_test())
    assert len(task.train_samples) == 20 and "s3" not in task.train_samples and task.class_occ == {"a": 10, "b": 10}
    assert "left out 2 broken" in task.creation_protocol


def test_a_class_without_samples_warns_and_counts_zero(dset: Path) -> None:
    creator = TaskCreator(dset, "toy", task_type=CLS)
    with pytest.warns(UserWarning, match="no training samples of the classes c"):
        creator.find_data(train_iterator=samples(dset, [{M.CLASS: n % 2} for n in range(20)]), idx_to_class={**TWO, 5: "c"})
    assert TaskDescription.load(creator.auto_complete()).class_occ == {"a": 10, "b": 10, "c": 0}


def test_too_few_samples_of_classes_are_all_listed(dset: Path) -> None:
    class_folders(dset / "x", classes={"a": 9, "b": 2, "c": 3})
    train, mapping = get_iterator_and_mapping_from_image_dataset(dset / "x")
    creator = TaskCreator(dset, "toy", task_type=CLS)
    creator.find_data(train_iterator=train, idx_to_class=mapping)
    with pytest.raises(
        DataError,
        match=r"at least 5 training samples, one per fold, but: Class 'b' \(index 1\): 2, Class 'c' \(index 2\): 3.*mode.n_folds",
    ):
        creator.split_folds()
    creator.split_folds(ensure_balancing=False)
    assert sorted(map(len, creator.task.train_folds)) == [2, 3, 3, 3, 3]


# -- settings of the creation ----------------------------------------------------------------------------------------------
def test_d_tc_1_number_of_folds_and_balancing_come_from_the_creation(dset: Path, tmp_path: Path) -> None:
    with activated(context(tmp_path, n_folds=3, ensure_balancing=False)):
        creator = classified(dset)
        creator.split_folds()
        assert creator.task.n_folds == 3 and "balanced: False" in creator.task.creation_protocol
        creator.split_folds(4, True)
        assert creator.task.n_folds == 4
    creator.split_folds()
    assert creator.task.n_folds == 5


def test_copies_across_splits_warn_or_are_refused(dset: Path, tmp_path: Path) -> None:
    def make() -> TaskCreator:
        creator = TaskCreator(dset, "toy", task_type=REG)
        train = samples(dset, [{M.VALUE: n / 9, M.GROUP: f"g{n // 2}"} for n in range(10)])
        test = [{M.SAMPLE_ID: "copy", M.IMAGE: write(dset / "copy.bmp", picture(3)), M.VALUE: 1.0, M.GROUP: "g4"}]
        creator.find_data(train_iterator=train, test_iterator=test)
        creator.split_folds()
        creator.infer_stats()
        return creator

    with pytest.warns(UserWarning) as caught:
        path = make().push_and_test()
    said = [str(warning.message) for warning in caught]
    assert any("1 image(s) occur in several splits" in text and "s3 = test/copy" in text for text in said)
    assert any("1 group(s) are spread" in text and "g4 in test" in text for text in said)
    report = load_facts(path, TaskDescription.load(path))["integrity"]
    assert report["duplicated_images"] == 1 and report["torn_groups"] == 1
    path.unlink()
    with activated(context(tmp_path, forbid_leakage=True)), pytest.raises(LeakageError, match="'toy' leaks: 1 image"):
        make().push_and_test()
    assert not path.exists()


def test_replacing_a_description_warns(dset: Path) -> None:
    classified(dset).auto_complete()
    with pytest.warns(UserWarning, match="TASK_toy.json is replaced"):
        classified(dset).auto_complete()


def test_a_folder_that_cannot_be_written_is_named(dset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_ray import atomic

    class Denied(atomic.FileSystem):
        def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
            raise PermissionError(13, "Permission denied", str(path))

    creator = classified(dset)
    monkeypatch.setattr(atomic, "fs", Denied())
    with pytest.raises(StorageError, match="No permission to write .*DSET_toy"):
        creator.auto_complete()
    assert not creator.path.exists()


# -- an added modality -------------------------------------------------------------------------------------------------------
def test_a_plugin_brings_a_modality_and_its_verifier(dset: Path) -> None:
    points = Modality.register("toy_points")
    kind = TaskType.register("toy_pointing", requires=[[points, M.IMAGE]], target=points)
    image = write(dset / "0.png", picture())
    given = [{M.SAMPLE_ID: "a", M.IMAGE: image, points: "points.txt"}]

    def verify(value: Any, known: VerifierContext) -> Verified:
        return Verified(known.relative(value, "list of points"))

    with pytest.raises(MMLMisconfigurationException, match="toy_points.*MODALITY_VERIFIER_MAP"):
        TaskCreator(dset, "toy", task_type=kind).find_data(train_iterator=given)
    MODALITY_VERIFIER_MAP[points] = verify
    PATH_MODALITIES.add(points)
    try:
        creator = TaskCreator(dset, "toy", task_type=kind)
        with pytest.raises(BrokenSampleError, match="list of points .* does not exist"):
            creator.find_data(train_iterator=given)
        (dset / "points.txt").write_text("1 2")
        creator.find_data(train_iterator=given * 1)
        assert creator.task.modalities == {M.IMAGE: "png; ", points: "txt; "} and creator.task.target is points
        assert points in MODALITY_VERIFIER_MAP and len(MODALITY_VERIFIER_MAP) == len(list(MODALITY_VERIFIER_MAP))
    finally:
        del MODALITY_VERIFIER_MAP[points]
        PATH_MODALITIES.discard(points)
    with pytest.raises(KeyError):
        MODALITY_VERIFIER_MAP[points]


def test_stats_may_be_set(dset: Path) -> None:
    creator = classified(dset)
    creator.split_folds()
    creator.set_stats(means=RGBInfo(1, 2, 3), stds=RGBInfo(4, 5, 6), sizes=Sizes(1, 2, 3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = TaskDescription.load(creator.push_and_test())
    assert task.means == RGBInfo(1, 2, 3) and task.sizes.to_list() == [1, 2, 3, 4]
