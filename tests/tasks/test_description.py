from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import DataSplit, Keyword, License, Modality, TaskType
from mml_ray.tasks.classes import class_names, count_classes, index_map
from mml_ray.tasks.description import TaskDescription, clean_name, description_file_name, read_header
from tests.patience import promised, promised_cpu
from tests.tasks import builders

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_data_root"
KEYS = (
    "name task_type keywords modalities means stds sizes idx_to_class class_occ description creation_protocol reference url "
    "download license release unlabeled_samples train_folds train_samples test_samples"
).split()
FILES = sorted(REFERENCE.rglob("TASK_*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_the_established_format_are_written_back_byte_for_byte(path: Path, tmp_path: Path) -> None:
    TaskDescription.load(path).save(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == path.read_bytes()


def test_a_new_description_has_the_established_keys_in_order(tmp_path: Path) -> None:
    description = builders.classification(20, groups=4)
    description.train_samples["s0000"] = {Modality.IMAGE: "a.png", Modality.CLASS: 0, Modality.GROUP: "p"}
    description.save(tmp_path / "t.json")
    stored = json.loads((tmp_path / "t.json").read_text())
    assert list(stored) == KEYS
    assert stored["train_samples"]["s0000"] == {"image": "a.png", "class": 0, "group": "p"}
    assert TaskDescription.load(tmp_path / "t.json") == description


def test_header_fields_are_typed() -> None:
    header = read_header(REFERENCE / "RAW" / "DSET_ref_blobs" / "TASK_ref_blobs.json")
    assert header.task_type is TaskType.CLASSIFICATION and header.target is Modality.CLASS
    assert header.keywords == [Keyword.MEDICAL, Keyword.CLE] and header.license is License.CC_BY_4_0
    assert header.modalities == {Modality.CLASS: "", Modality.IMAGE: "png; "}
    assert header.description.startswith("Büste") and header.sizes.max_width == 24
    assert header.idx_to_class == {0: "round", 1: "flat", 5: "round", 9: "spiky"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_header_alone_equals_the_one_of_the_whole_file(path: Path) -> None:
    assert read_header(path) == TaskDescription.load(path).header()


def test_a_header_is_read_from_pretty_printed_and_reordered_files(tmp_path: Path) -> None:
    source = REFERENCE / "RAW" / "DSET_ref_blobs" / "TASK_ref_blobs.json"
    content = json.loads(source.read_text())
    pretty, reversed_ = tmp_path / "pretty.json", tmp_path / "reversed.json"
    pretty.write_text(json.dumps(content, indent=4))
    reversed_.write_text(json.dumps(dict(reversed(content.items()))))
    assert read_header(pretty) == read_header(reversed_) == read_header(source)


@pytest.mark.parametrize("length", [10, 32_700, 32_768, 200_000])
def test_a_header_longer_than_one_read_is_complete(tmp_path: Path, length: int) -> None:
    description = builders.classification(20)
    description.creation_protocol = "ä" * length
    description.save(tmp_path / "t.json")
    assert read_header(tmp_path / "t.json").creation_protocol == description.creation_protocol


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"[1, 2]", "holds a list"),
        (b'{"name": "x"}', "lacks task_type"),
        (b'{"name": "x", ', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "TASK_x.json"
    path.write_bytes(content)
    for read in (read_header, TaskDescription.load):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_every_truncation_of_a_description_is_an_error_or_a_header(tmp_path: Path) -> None:
    whole = (REFERENCE / "RAW" / "DSET_ref_blobs" / "TASK_ref_blobs.json").read_bytes()
    path = tmp_path / "t.json"
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            TaskDescription.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task_type", "clasification", "Did you mean: classification"),
        ("sizes", ["a", 1, 1, 1], "'sizes' is invalid"),
        ("train_folds", {}, "'train_folds' is a dict"),
        ("idx_to_class", {"x": "a"}, "'idx_to_class' is invalid"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = json.loads(FILES[0].read_text())
    content[key] = value
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        TaskDescription.load(path)


def test_splits_are_what_they_say() -> None:
    task = builders.classification(100)
    train, val = task.samples(DataSplit.TRAIN, 2), task.samples("val", 2)
    assert list(val) == task.train_folds[2] and not set(train) & set(val)
    assert list(train) == [i for fold in (0, 1, 3, 4) for i in task.train_folds[fold]]
    assert set(train) | set(val) == set(task.samples(DataSplit.FULL_TRAIN))
    assert list(task.samples(DataSplit.TEST, 99)) == list(task.test_samples)
    assert list(task.samples(DataSplit.UNLABELLED)) == ["u0", "u1", "u2", "u3"]
    assert (task.n_folds, task.num_samples) == (5, 100)


@pytest.mark.parametrize("split", [DataSplit.TRAIN, DataSplit.VAL])
@pytest.mark.parametrize("fold", [-1, 5, 99, True, 1.0, None])
def test_d_dl_1_a_fold_out_of_bounds_is_refused(split: DataSplit, fold: int) -> None:
    with pytest.raises(MMLMisconfigurationException, match="folds are: 0 to 4"):
        builders.classification().sample_ids(split, fold)


def test_a_fold_with_an_unknown_sample_is_named() -> None:
    task = builders.classification()
    task.train_folds[1].append("ghost")
    with pytest.raises(DataError, match="'ghost'"):
        task.samples(DataSplit.VAL, 1)


def test_an_unlabelled_task_counts_its_unlabelled_samples() -> None:
    task = TaskDescription.load(REFERENCE / "RAW" / "DSET_ref_cells" / "TASK_ref_unlabelled.json")
    assert (task.n_folds, task.num_samples, task.target) == (0, 12, None)
    with pytest.raises(MMLMisconfigurationException, match="has no training data"):
        task.samples(DataSplit.TRAIN, 0)


def test_final_classes_merge_equal_names() -> None:
    mapping = {9: "spiky", 0: "round", 5: "round", 1: "flat"}
    assert class_names(mapping) == ["round", "flat", "spiky"]
    assert index_map(mapping) == {0: 0, 1: 1, 5: 0, 9: 2}


@pytest.mark.parametrize("name", ["ref_blobs", "ref_count", "ref_kinds", "ref_soft"])
def test_class_counts_agree_with_the_established_ones(name: str) -> None:
    task = TaskDescription.load(next(path for path in FILES if path.name == f"TASK_{name}.json"))
    counted = count_classes(task.train_samples, task.task_type, idx_to_class=task.idx_to_class)
    assert counted == task.class_occ


def test_masks_have_to_be_read_before_they_are_counted() -> None:
    task = builders.segmentation(12)
    assert task.class_occ == {"background": 12, "A": 6, "B": 2}
    with pytest.raises(DataError, match="no masks were read"):
        count_classes(task.train_samples, task.task_type, idx_to_class=task.idx_to_class)


def test_w_name_file_names_are_safe_and_distinct() -> None:
    odd = ["a/b", "a\\b", "..", "ä", "x*y", "a:b", "t+s?0_5?é", "d" * 300, "d" * 301]
    names = ["digits", "digits+nested?0", "digits+nested=0", *odd]
    cleaned = [clean_name(name) for name in names]
    assert len(set(cleaned)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._+=~-]{1,120}", name) for name in cleaned)
    assert clean_name("digits+nested?0") == "digits+nested=0" and clean_name("my task") == "my_task"
    assert description_file_name("digits") == "TASK_digits.json" and clean_name("..") != ".."


def test_p_idx_header_of_100_000_samples(tmp_path: Path) -> None:
    builders.classification(100_000).save(tmp_path / "big.json")
    started = time.perf_counter()
    read_header(tmp_path / "big.json")
    assert time.perf_counter() - started < promised(0.05)
    started = time.process_time()
    task = TaskDescription.load(tmp_path / "big.json")
    assert len(task.samples(DataSplit.TRAIN, 0)) == 80_000
    assert time.process_time() - started < promised_cpu(0.8)
