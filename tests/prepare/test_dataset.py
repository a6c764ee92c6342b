from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mml_ray.errors import ArchiveError, DataError, MMLMisconfigurationException, StorageError
from mml_ray.imaging import read_image, read_mask
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.dataset import DatasetUnderConstruction, DSetCreator
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import Modality, TaskType
from tests.prepare.makers import files_below, picture, write, zip_of


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "root")


def test_archives_go_to_the_folder_of_their_kind(root: DataRoot, tmp_path: Path) -> None:
    creator = DSetCreator("scans", data_root=root)
    creator.use_source(zip_of(tmp_path / "test.zip", {"t.txt": b"t"}), data_kind=DataKind.TESTING_DATA)
    creator.use_source(zip_of(tmp_path / "train.zip", {"a/x.txt": b"x"}), data_kind=DataKind.TRAINING_DATA)
    folder = creator.unpack_and_store()
    assert folder == root.dataset_path("scans") and root.is_complete("scans")
    assert files_below(folder) == {"testing_data/t.txt": b"t", "training_data/a/x.txt": b"x"}


def test_a_file_somebody_has_to_fetch(root: DataRoot) -> None:
    creator = DSetCreator("scans", data_root=root)
    with pytest.raises(DataError, match=r"DOWNLOADS/scans/Scans.zip is missing. Fetch it from https://x and put it there."):
        creator.verify_pre_download("Scans.zip", "Fetch it from\n   https://x and put it there.")
    zip_of(creator.download_path / "Scans.zip", {"a.txt": b"1"})
    with pytest.raises(DataError, match="md5 checksum"):
        creator.verify_pre_download("Scans.zip", "", md5sum="0" * 32)
    creator.verify_pre_download("Scans.zip", "")
    assert files_below(creator.unpack_and_store()) == {"mixed_data/a.txt": b"1"}


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "x" * 61])
def test_names_that_cannot_be(root: DataRoot, name: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match="must be up to 60 letters"):
        DSetCreator(name, data_root=root)


def test_wrong_folders_and_missing_roots(root: DataRoot, tmp_path: Path) -> None:
    with pytest.raises(MMLMisconfigurationException, match="data_root="):
        DSetCreator("x")
    with pytest.raises(MMLMisconfigurationException, match="does not exist"):
        DSetCreator("x", data_root=root, download_path=tmp_path / "none")
    with pytest.raises(MMLMisconfigurationException, match="must start with DSET_"):
        DSetCreator("x", data_root=root, dset_path=tmp_path / "none")
    with pytest.raises(DataError, match="no archives to unpack"):
        DSetCreator("x", data_root=root).unpack_and_store()
    with pytest.raises(DataError, match=r"source must be an existing file or folder, got .*none\.zip"):
        DSetCreator("x", data_root=root).use_source(tmp_path / "none.zip")
    with pytest.raises(DataError, match="must not contain the folder to which it is copied"):
        DSetCreator("x", data_root=root).use_source(root.path.parent)


def test_a_refused_archive_leaves_no_dataset(root: DataRoot, tmp_path: Path) -> None:
    creator = DSetCreator("scans", data_root=root)
    creator.use_source(zip_of(tmp_path / "a.zip", {"a.txt": b"1"}))
    creator.use_source(zip_of(tmp_path / "b.zip", {"../b.txt": b"2"}), data_kind=DataKind.TESTING_DATA)
    with pytest.raises(ArchiveError, match="b.zip"):
        creator.unpack_and_store()
    assert list((root.path / "RAW").iterdir()) == []


def test_a_dataset_is_never_overwritten(root: DataRoot, tmp_path: Path) -> None:
    root.dataset_path("scans").mkdir(parents=True)
    creator = DSetCreator("scans", data_root=root)
    creator.use_source(zip_of(tmp_path / "a.zip", {"a.txt": b"1"}))
    with pytest.raises(StorageError, match="already exists"):
        creator.unpack_and_store()
    assert files_below(root.dataset_path("scans")) == {}


def test_the_mark_is_there_while_a_dataset_is_being_made(root: DataRoot) -> None:
    folder = root.dataset_path("scans")
    with DatasetUnderConstruction(folder), DatasetUnderConstruction(folder):
        assert not root.is_complete("scans")
        (folder / "x").write_text("x")
    assert root.is_complete("scans") and files_below(folder) == {"x": b"x"}
    with pytest.raises(KeyboardInterrupt), DatasetUnderConstruction(root.dataset_path("other")):
        raise KeyboardInterrupt
    assert not root.dataset_path("other").exists()


def test_a_root_without_permission_is_named(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StorageError, match="No permission to write .*RAW"), DatasetUnderConstruction(root.dataset_path("scans")):
        pass


# -- datasets of PyTorch's kind ------------------------------------------------------------------------------------------------
class Stored(list[Any]):
    """A map-style dataset."""

    transform: Any = None


class Pil:
    """What is needed of a PIL image."""

    def __init__(self, pixels: Any, mode: str) -> None:
        self.pixels, self.mode = pixels, mode

    def convert(self, mode: str) -> Pil:
        return Pil(np.repeat(self.pixels[:, :, :1], 3, axis=2), mode)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.pixels


def test_classification_from_map_style_datasets(root: DataRoot) -> None:
    train = Stored(
        [(picture(0), 1), {Modality.IMAGE: picture(1), Modality.CLASS: 0}, (Pil(picture(2)[:, :, 0], "L"), np.int64(1))]
    )
    test, bare = Stored([(picture(3), 0)]), Stored([picture(4), (picture(5),)])
    creator = DSetCreator("toy", data_root=root)
    folder = creator.extract_from_pytorch_datasets(
        {"unlabeled": bare, "testing": test, "training": train}, TaskType.CLASSIFICATION, class_names=["cat", "dog"]
    )
    assert sorted(files_below(folder)) == [
        "testing_data/cat/000003.png",
        "training_data/cat/000001.png",
        "training_data/dog/000000.png",
        "training_data/dog/000002.png",
        "unlabeled_data/000004.png",
        "unlabeled_data/000005.png",
    ]
    assert (read_image(folder / "training_data/dog/000000.png") == picture(0)).all()
    assert (read_image(folder / "training_data/dog/000002.png")[:, :, 1] == picture(2)[:, :, 0]).all()


def test_classes_without_names_are_numbers_and_odd_modes_become_rgb(root: DataRoot) -> None:
    creator = DSetCreator("toy", data_root=root)
    folder = creator.extract_from_pytorch_datasets({"training": [(Pil(picture(0), "CMYK"), 7)]}, TaskType.CLASSIFICATION)
    assert list(files_below(folder)) == ["training_data/007/000000.png"]


def test_palettes_are_colours_in_images_and_numbers_in_masks(root: DataRoot) -> None:
    colours = np.zeros((16, 20, 3), np.uint8)
    colours[:8] = (200, 30, 60)
    paletted = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    classes = Image.new("P", (20, 16), 2)
    classes.putpalette([9, 9, 9, 7, 7, 7, 250, 0, 0])
    two = Image.fromarray(colours[:, :, 0] > 100)
    folder = DSetCreator("toy", data_root=root).extract_from_pytorch_datasets(
        {"training": [(paletted, classes), (two, two)]}, TaskType.SEMANTIC_SEGMENTATION
    )
    assert (read_image(folder / "training_data/000000.png") == colours).all()
    assert (read_mask(folder / "training_labels/000000.png") == 2).all()
    assert set(np.unique(read_image(folder / "training_data/000001.png"))) == {0, 255}
    assert read_mask(folder / "training_labels/000001.png").tolist() == [[1] * 20] * 8 + [[0] * 20] * 8


def test_segmentation_and_mask_transformation(root: DataRoot) -> None:
    colours = np.zeros((16, 20, 3), np.uint8)
    colours[:8] = (255, 0, 0)
    creator = DSetCreator("toy", data_root=root)
    folder = creator.extract_from_pytorch_datasets(
        {"training": [(picture(0), colours)], "testing": [(picture(1), colours[:, :, 0])]}, TaskType.SEMANTIC_SEGMENTATION
    )
    (new,) = creator.transform_masks([folder / "training_labels" / "000000.png"], {(0, 0, 0): 0, (255, 0, 0): 1})
    assert read_mask(new).tolist() == [[1] * 20] * 8 + [[0] * 20] * 8
    (new,) = creator.transform_masks(
        [folder / "testing_labels" / "000001.png"], {(0,): 0}, load="grayscale", train=False, ignore=[(255,)]
    )
    assert new.parts[-3:-1] == ("testing_labels", "transformed_masks") and set(np.unique(read_mask(new))) == {0, 255}


@pytest.mark.parametrize(
    ("datasets", "task_type", "message"),
    [
        ({"train": []}, TaskType.CLASSIFICATION, "training, testing, unlabeled, got train"),
        ({}, TaskType.CLASSIFICATION, "got none"),
        ({"training": [(picture(), 0.5)]}, TaskType.REGRESSION, "not for regression"),
        ({"training": [picture()]}, TaskType.CLASSIFICATION, r"must be \(image, target\), got ndarray"),
        ({"training": [(picture(), 0, 1)]}, TaskType.CLASSIFICATION, "got 3 parts"),
        ({"training": [(picture(), 5)]}, TaskType.CLASSIFICATION, "has the class 5; 1 names"),
        ({"training": [(picture() / 255.0, 0)]}, TaskType.CLASSIFICATION, r"must be a PIL image.*float64"),
        ({"training": [(picture()[:, :, :2], 0)]}, TaskType.CLASSIFICATION, r"\(16, 20, 2\)"),
    ],
)
def test_wrong_datasets_leave_nothing(root: DataRoot, datasets: dict[str, Any], task_type: TaskType, message: str) -> None:
    with pytest.raises((MMLMisconfigurationException, DataError), match=message):
        DSetCreator("toy", data_root=root).extract_from_pytorch_datasets(datasets, task_type, class_names=["a"])
    assert not root.dataset_path("toy").exists()


def test_active_transforms_are_refused_unless_allowed(root: DataRoot) -> None:
    data = Stored([(picture(), 0)])
    data.transform = lambda image: image
    creator = DSetCreator("toy", data_root=root)
    with pytest.raises(MMLMisconfigurationException, match="training dataset has an active transform"):
        creator.extract_from_pytorch_datasets({"training": data}, TaskType.CLASSIFICATION)
    creator.extract_from_pytorch_datasets({"training": data}, TaskType.CLASSIFICATION, allow_transforms=True)


def test_transforming_masks_comes_last(root: DataRoot, tmp_path: Path) -> None:
    with pytest.raises(MMLMisconfigurationException, match="after unpack_and_store"):
        DSetCreator("toy", data_root=root).transform_masks([write(tmp_path / "m.png", picture())], {})
