from __future__ import annotations

from pathlib import Path

import pytest

from mml_ray.errors import DataError
from mml_ray.prepare.iterators import (
    get_iterator_and_mapping_from_image_dataset,
    get_iterator_from_segmentation_dataset,
    get_iterator_from_unlabeled_dataset,
)
from mml_ray.tasks.attributes import Modality
from tests.prepare.makers import class_folders, picture, write


def test_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, classes={"b": 2, "a": 1})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    write(tmp_path / "a" / ".hidden.png", picture())
    write(tmp_path / "b" / "deep" / "x.JPG", picture())
    samples, mapping = get_iterator_and_mapping_from_image_dataset(tmp_path)
    assert mapping == {0: "a", 1: "b"}
    assert [(sample[Modality.SAMPLE_ID], sample[Modality.CLASS]) for sample in samples] == [
        ("002", 0), ("000", 1), ("001", 1), ("deep/x", 1)
    ]  # fmt: skip
    assert samples[3][Modality.IMAGE] == tmp_path / "b" / "deep" / "x.JPG"


def test_ids_get_their_class_where_they_would_not_be_unique(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "1.png", picture())
    samples, _ = get_iterator_and_mapping_from_image_dataset(tmp_path)
    assert [sample[Modality.SAMPLE_ID] for sample in samples] == ["a/1", "b/1"]
    samples, mapping = get_iterator_and_mapping_from_image_dataset(tmp_path, classes=["b"], dup_id_flag=False)
    assert [sample[Modality.SAMPLE_ID] for sample in samples] == ["1"] and mapping == {0: "b"}


def test_pairs_of_images_and_masks(tmp_path: Path) -> None:
    write(tmp_path / "i" / "x" / "1.jpg", picture())
    write(tmp_path / "m" / "x" / "1.png", picture()[:, :, 0])
    (sample,) = get_iterator_from_segmentation_dataset(tmp_path / "i", tmp_path / "m")
    assert sample == {
        Modality.SAMPLE_ID: "x/1.jpg",
        Modality.IMAGE: tmp_path / "i/x/1.jpg",
        Modality.MASK: tmp_path / "m/x/1.png",
    }
    (sample,) = get_iterator_from_segmentation_dataset(
        tmp_path / "i", tmp_path / "m", path_matcher=lambda path: path.with_suffix(".png")
    )
    assert sample[Modality.MASK] == tmp_path / "m/x/1.png"
    write(tmp_path / "i" / "2.jpg", picture())
    with pytest.raises(DataError, match="2.jpg has no mask"):
        get_iterator_from_segmentation_dataset(tmp_path / "i", tmp_path / "m")


def test_flat_folders_and_missing_ones(tmp_path: Path) -> None:
    write(tmp_path / "u" / "a.png", picture())
    assert get_iterator_from_unlabeled_dataset(tmp_path / "u") == [
        {Modality.SAMPLE_ID: "a.png", Modality.IMAGE: tmp_path / "u" / "a.png"}
    ]
    for call in (get_iterator_from_unlabeled_dataset, get_iterator_and_mapping_from_image_dataset):
        with pytest.raises(DataError, match="does not exist"):
            call(tmp_path / "none")
    with pytest.raises(DataError, match="must contain one folder per class"):
        get_iterator_and_mapping_from_image_dataset(tmp_path / "u")
