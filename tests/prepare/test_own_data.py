"""Tasks without Python: ``tasks=from_folder`` and ``tasks=from_table``."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mml_ray.errors import ArchiveError, BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.imaging import read_mask
from mml_ray.prepare.create import create_dataset, create_task, dataset_of_task, known_tasks
from mml_ray.prepare.own.table_files import as_list, as_number, read_table
from mml_ray.prepare.variants import ensure_task
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import License, Modality, TaskType
from mml_ray.tasks.description import TaskDescription
from tests.prepare.makers import class_folders, context, files_below, picture, write


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "root")


def create(root: DataRoot, creator: str, where: Path, *, options: dict[str, Any] | None = None, **source: Any) -> TaskDescription:
    """The task ``mine`` made by ``creator``; dataset and task see the same source, as in one run."""
    asked = context(root, source={"creator": creator, "name": "mine", "path": str(where), **source}, **(options or {}))
    create_dataset(dataset_of_task("mine", asked.source), asked)
    return TaskDescription.load(create_task("mine", asked))


def masks(folder: Path, *, count: int = 10, values: tuple[int, ...] = (0, 1)) -> None:
    """``images/<n>.jpg`` and ``masks/<n>.png`` with all of ``values`` in every mask."""
    for number in range(count):
        write(folder / "images" / f"{number}.jpg", picture(number + len(str(folder))))
        mask = np.full((16, 20), values[0], np.uint8)
        for row, value in enumerate(values):
            mask[row] = value
        write(folder / "masks" / f"{number}.png", mask)


def table(path: Path, rows: list[dict[str, Any]], *, delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(folder: Path, *, count: int = 20, **columns: Any) -> list[dict[str, Any]]:
    """A row and an image for each number; a column is a function of the number, or a constant."""
    found = []
    for number in range(count):
        write(folder / "img" / f"{number}.png", picture(number))
        entries = {name: value(number) if callable(value) else value for name, value in columns.items()}
        found.append({"image": f"img/{number}.png", **entries})
    return found


# -- from_folder -----------------------------------------------------------------------------------------------------------
def test_class_folders_become_classification(root: DataRoot, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "scans", classes={"ill": 10, "well": 20})
    before = files_below(source)
    task = create(root, "from_folder", source, test_fraction=0.2, license="mine", description="about", keywords=["medical"])
    assert task.idx_to_class == {0: "ill", 1: "well"} and task.class_occ == {"ill": 8, "well": 16} and task.n_folds == 5
    assert len(task.test_samples) == 6 and task.license == License.register("mine") and task.description == "about"
    assert files_below(source) == before and "mine" not in known_tasks()
    assert root.dataset_path("mine").is_dir()
    ensure_task(root, "mine+nested?2")


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_archives_of_folders(root: DataRoot, tmp_path: Path, kind: str) -> None:
    class_folders(tmp_path / "up" / "scans" / "deep", classes={"a": 6, "b": 6})
    archive = shutil.make_archive(str(tmp_path / "scans"), kind, tmp_path / "up")
    assert create(root, "from_folder", Path(archive)).class_occ == {"a": 6, "b": 6}


def test_images_that_are_left_out_are_told(root: DataRoot, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "scans", classes={"ill": 10, "well": 10, "other": 3})
    write(source / "beside.png", picture(99))
    with pytest.warns(UserWarning, match=r"^4 image\(s\) were left out.*: beside.png, other/"):
        assert create(root, "from_folder", source, classes=["well", "ill"]).num_samples == 20
    masks(tmp_path / "cells", count=10)
    write(tmp_path / "cells" / "masks" / "of_nothing.png", np.zeros((16, 20), np.uint8))
    with pytest.warns(UserWarning, match=r"^1 image\(s\) were left out.*: masks/of_nothing.png"):
        create(DataRoot(tmp_path / "other"), "from_folder", tmp_path / "cells")


def test_files_of_one_name_and_two_formats_are_two_samples(root: DataRoot, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "scans", classes={"ill": 10, "well": 10})
    first = next(iter(sorted((source / "ill").iterdir())))
    write(first.with_suffix(".bmp"), picture(99))
    task = create(root, "from_folder", source)
    assert task.num_samples == 21
    assert {f"ill/{first.name}", f"ill/{first.stem}.bmp"} <= set(
        task.train_samples
    ) and f"ill/{first.stem}" not in task.train_samples


def test_given_splits_are_kept(root: DataRoot, tmp_path: Path) -> None:
    number = 0
    for split, count in (("train", 9), ("Validation", 4), ("test", 3)):
        for name in ("a", "b"):
            for _ in range(count):
                write(tmp_path / "s" / split / name / f"{number:03d}.png", picture(number))
                number += 1
    write(tmp_path / "s" / "unlabelled" / "x.png", picture(999))
    task = create(root, "from_folder", tmp_path / "s", options={"n_folds": 4})
    assert [len(fold) for fold in task.train_folds] == [8, 6, 6, 6] and all(i.startswith("val/") for i in task.train_folds[0])
    assert len(task.test_samples) == 6 and list(task.unlabeled_samples) == ["x.png"]
    assert task.class_occ == {"a": 13, "b": 13}


def test_a_validation_folder_with_two_folds(root: DataRoot, tmp_path: Path) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / "s" / split, classes={"a": 3, "b": 3}, size=(16, 20 + len(split)))
    task = create(root, "from_folder", tmp_path / "s", options={"n_folds": 2})
    assert [len(fold) for fold in task.train_folds] == [6, 6]


def test_images_and_masks_become_segmentation(root: DataRoot, tmp_path: Path) -> None:
    masks(tmp_path / "s", values=(0, 3, 255))
    task = create(root, "from_folder", tmp_path / "s", classes={0: "tissue", 3: "vessel"})
    assert task.task_type == TaskType.SEMANTIC_SEGMENTATION and task.idx_to_class == {0: "tissue", 3: "vessel"}
    assert task.class_occ == {"tissue": 10, "vessel": 10}
    assert files_below(tmp_path / "s/masks") == files_below(root.dataset_path("mine") / "mixed_data/masks")


def test_black_and_white_masks_are_numbered(root: DataRoot, tmp_path: Path) -> None:
    masks(tmp_path / "s", values=(0, 255))
    task = create(root, "from_folder", tmp_path / "s")
    assert task.idx_to_class == {0: "background", 1: "foreground"} and task.class_occ["foreground"] == 10
    stored = root.dataset_path("mine") / next(iter(task.train_samples.values()))["mask"]
    assert set(np.unique(read_mask(stored))) == {0, 1} and set(np.unique(read_mask(tmp_path / "s/masks/0.png"))) == {0, 255}


def test_masks_that_number_objects_warn(root: DataRoot, tmp_path: Path) -> None:
    masks(tmp_path / "s", values=(0, 1, 2))
    for number in range(10):
        objects = np.arange(320, dtype=np.uint16).reshape(16, 20) // 4
        write(tmp_path / "s" / "masks" / f"{number}.png", objects)
    with pytest.warns(UserWarning, match="The masks hold 80 values, and each becomes a class"):
        create(root, "from_folder", tmp_path / "s")


def test_flat_folders_have_no_labels(root: DataRoot, tmp_path: Path) -> None:
    class_folders(tmp_path, classes={"s": 5})
    task = create(root, "from_folder", tmp_path / "s")
    assert task.task_type == TaskType.NO_TASK and len(task.unlabeled_samples) == 5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"task_type": "regression"}, "look like classification, not regression.*from_table"),
        ({"test_fraction": 1.5}, "between 0 and 1"),
        ({"test_fraction": 0.01}, "test_fraction=0.01 is not possible"),
        ({"classes": 5}, "list of names"),
        ({"path": ""}, "source.path is missing"),
        ({"path": "/nowhere"}, "must be an existing file or folder, got /nowhere"),
    ],
)
def test_wrong_options(root: DataRoot, tmp_path: Path, source: dict[str, Any], message: str) -> None:
    folder = class_folders(tmp_path / "s", classes={"a": 6, "b": 6})
    with pytest.raises((DataError, MMLMisconfigurationException), match=message):
        create(root, "from_folder", folder, **source)


def test_a_truncated_image_in_a_class_folder(root: DataRoot, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "s", classes={"a": 6, "b": 6})
    broken = folder / "a" / "003.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(BrokenSampleError, match="a/003.png is broken: it is truncated"):
        create(root, "from_folder", folder)
    with pytest.warns(UserWarning, match="003.png"):
        task = create(root, "from_folder", folder, options={"on_broken": "skip"})
    assert task.class_occ == {"a": 5, "b": 6}


def test_a_class_with_fewer_samples_than_folds(root: DataRoot, tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "s", classes={"a": 6, "rare": 3})
    with pytest.raises(DataError, match=r"Class 'rare' \(index 1\): 3"):
        create(root, "from_folder", folder)
    assert create(root, "from_folder", folder, options={"n_folds": 3}).n_folds == 3


def test_nothing_to_find(root: DataRoot, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(ArchiveError, match="contains no files"):
        create(root, "from_folder", tmp_path / "s")
    (tmp_path / "s" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="No images were found"):
        create(root, "from_folder", tmp_path / "s")
    assert not root.dataset_path("mine").exists()


# -- from_table ------------------------------------------------------------------------------------------------------------
def test_a_table_of_classes_with_splits_and_groups(root: DataRoot, tmp_path: Path) -> None:
    entries = rows(
        tmp_path / "s",
        count=40,
        label=lambda n: "ill" if n % 2 else "well",
        patient=lambda n: f"p{n // 4}",
        split=lambda n: {0: "test", 1: ""}.get(n // 4, "train"),
    )
    entries[39]["label"], entries[39]["split"] = "", ""
    path = table(tmp_path / "s" / "labels.csv", entries)
    (tmp_path / "s" / "large and not named.bin").write_bytes(b"x")
    task = create(root, "from_table", path, columns={"class": "label", "group": "patient"})
    assert (
        task.idx_to_class == {0: "ill", 1: "well"} and len(task.test_samples) == 4 and list(task.unlabeled_samples) == ["img/39"]
    )
    assert task.train_samples["img/5"] == {"image": "mixed_data/img/5.png", "group": "p1", "class": 0}
    for fold in task.train_folds:
        patients = {task.train_samples[i]["group"] for i in fold}
        assert all(
            task.train_samples[i]["group"] not in patients for other in task.train_folds if other is not fold for i in other
        )
    assert "mixed_data/large and not named.bin" not in files_below(root.dataset_path("mine"))


@pytest.mark.parametrize("suffix", ["tsv", "parquet", "semicolon.csv"])
def test_kinds_of_tables(root: DataRoot, tmp_path: Path, suffix: str) -> None:
    entries = rows(tmp_path / "s", value=lambda n: n / 2)
    path = tmp_path / "s" / f"table.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(entries), path)
    else:
        table(path, entries, delimiter="\t" if suffix == "tsv" else ";")
    task = create(root, "from_table", path)
    assert task.task_type == TaskType.REGRESSION and task.train_samples["img/3"]["value"] == 1.5


def test_several_labels_hard_and_soft(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "a" / "t.csv", rows(tmp_path / "a", classes=lambda n: "x;y" if n % 2 else "y"))
    task = create(root, "from_table", path)
    assert task.class_occ == {"x": 10, "y": 20} and task.train_samples["img/1"]["classes"] == [0, 1]
    path = table(tmp_path / "b" / "t.csv", rows(tmp_path / "b", soft_classes=lambda n: f"[{n / 20}, 0.5]"))
    soft = create(DataRoot(tmp_path / "second"), "from_table", path, classes=["left", "right"])
    assert soft.idx_to_class == {0: "left", 1: "right"} and soft.train_samples["img/10"]["soft_classes"] == [0.5, 0.5]


def test_a_column_for_each_class(root: DataRoot, tmp_path: Path) -> None:
    entries = rows(tmp_path / "a", rbc=lambda n: n % 2, wbc=1, value=3)
    path = table(tmp_path / "a" / "t.csv", entries)
    kind = "multilabel_classification"
    hard = create(root, "from_table", path, class_columns=["rbc", "wbc"], task_type=kind)
    assert hard.train_samples["img/0"]["classes"] == [1] and hard.class_occ == {"rbc": 10, "wbc": 20}
    entries[0]["wbc"] = 0.5
    table(path, entries)
    soft = create(DataRoot(tmp_path / "second"), "from_table", path, class_columns=["rbc", "wbc"], task_type=kind)
    assert soft.train_samples["img/0"]["soft_classes"] == [0, 0.5] and soft.train_samples["img/1"]["soft_classes"] == [1, 1]


def test_columns_for_classes_may_be_named(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", rows(tmp_path, a=lambda n: n % 2, b=lambda n: n // 2 % 2))
    task = create(root, "from_table", path, class_columns=["b", "a"], classes=["round", "red"])
    assert task.idx_to_class == {0: "round", 1: "red"} and task.train_samples["img/1"]["classes"] == [1]
    with pytest.raises(MMLMisconfigurationException, match="names 1 classes for the 2 columns b, a of source.class_columns"):
        create(DataRoot(tmp_path / "other"), "from_table", path, class_columns=["b", "a"], classes=["round"])


def test_whole_numbers_kept_as_floats_are_classes_by_number(root: DataRoot, tmp_path: Path) -> None:
    images = [row["image"] for row in rows(tmp_path, count=22)]
    labels = [None, *(float(n % 2) for n in range(20)), None]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "class": labels}), tmp_path / "t.parquet")
    task = create(root, "from_table", tmp_path / "t.parquet")
    assert task.idx_to_class == {0: "0", 1: "1"} and len(task.unlabeled_samples) == 2


def test_a_table_of_masks(root: DataRoot, tmp_path: Path) -> None:
    masks(tmp_path / "s", values=(0, 255))
    entries = [{"image": f"images/{n}.jpg", "mask": f"masks/{n}.png" if n else "EMPTY_MASK_TOKEN"} for n in range(10)]
    task = create(root, "from_table", table(tmp_path / "s" / "t.csv", entries), classes={0: "tissue", 255: "vessel"})
    assert task.idx_to_class == {0: "tissue", 1: "vessel"} and task.class_occ == {"tissue": 10, "vessel": 9}
    assert task.train_samples["images/0"]["mask"] == "EMPTY_MASK_TOKEN"


def test_black_and_white_masks_beside_images_of_the_same_name(root: DataRoot, tmp_path: Path) -> None:
    found = rows(tmp_path, count=6, mask=lambda n: f"img/{n}.bmp")
    for number in range(6):
        write(tmp_path / "img" / f"{number}.bmp", np.full((16, 20), 255 * (number % 2), np.uint8))
    task = create(root, "from_table", table(tmp_path / "t.csv", found))
    folder = root.dataset_path("mine")
    for sample_id, sample in task.train_samples.items():
        assert (folder / sample["image"]).read_bytes() == (tmp_path / f"{sample_id}.png").read_bytes()
        assert (read_mask(folder / sample["mask"]) == int(sample_id[-1]) % 2).all()


def test_tables_in_archives_and_images_elsewhere(root: DataRoot, tmp_path: Path) -> None:
    labels: dict[str, Any] = {"class": lambda n: n % 2}
    table(tmp_path / "s" / "deep" / "labels.csv", rows(tmp_path / "s" / "deep", **labels))
    table(tmp_path / "s" / "other.csv", [{"a": 1}])
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "s"))
    with pytest.raises(DataError, match="found: deep/labels.csv, other.csv. Choose one with source.table"):
        create(root, "from_table", archive)
    task = create(root, "from_table", archive, table="labels.csv")
    assert task.idx_to_class == {0: "0", 1: "1"} and len(task.train_samples) == 20
    lone = table(tmp_path / "lone.csv", [{"image": f"img/{n}.png", "class": n % 2} for n in range(20)])
    for place, images in (("a", tmp_path / "s" / "deep"), ("b", archive)):
        prefix = "deep/" if place == "b" else ""
        table(lone, [{"image": f"{prefix}img/{n}.png", "class": n % 2} for n in range(20)])
        found = create(DataRoot(tmp_path / place), "from_table", lone, images=str(images))
        assert len(found.train_samples) == 20
    assert create(DataRoot(tmp_path / "c"), "from_table", tmp_path / "s", table="labels.csv").n_folds == 5


@pytest.mark.parametrize(
    ("change", "source", "message"),
    [
        ({}, {"columns": {"class": "nothing"}}, "no column 'nothing'; it has: image, label"),
        ({}, {"columns": {"target": "label"}}, "must be among image, mask.*got target"),
        ({}, {"columns": {"class": "label", "value": "label"}}, "several targets"),
        ({}, {"columns": {"class": "label"}, "task_type": "regression"}, "no column for source.task_type=regression"),
        (
            {"label": ""},
            {"columns": {"class": "label", "split": "said"}},
            "Line 3 .*split is train, but there is no entry for class",
        ),
        ({"said": "holdout"}, {"columns": {"class": "label", "split": "said"}}, "Line 3 .*'holdout' is not a split"),
        ({"label": "c"}, {"columns": {"class": "label"}, "classes": ["a", "b"]}, "Line 3 .*'c' is not a class. Allowed are a, b"),
        ({"label": "x"}, {"columns": {"value": "label"}}, "Line 2 .*'a' is not a number"),
        ({"image": ""}, {"columns": {"class": "label"}}, "Line 3 .*the image is missing"),
        ({"image": "../outside.png"}, {"columns": {"class": "label"}}, "Line 3 .*must lie within"),
        ({"image": "img/none.png"}, {"columns": {"class": "label"}}, "Line 3 .*none.png, which does not exist"),
    ],
)
def test_wrong_tables_name_the_line(
    root: DataRoot, tmp_path: Path, change: dict[str, str], source: dict[str, Any], message: str
) -> None:
    entries = rows(tmp_path / "s", label=lambda n: "ab"[n % 2], said="train")
    write(tmp_path / "outside.png", picture())
    entries[1] |= change
    with pytest.raises((DataError, MMLMisconfigurationException), match=message):
        create(root, "from_table", table(tmp_path / "s" / "t.csv", entries), **source)


@pytest.mark.parametrize(
    ("written", "images"),
    [
        ("{top}/scans/img/{n}.png", None),
        ("{top}/scans/img/{n}.png", "scans/img"),
        ("../scans/img/{n}.png", "scans"),
        ("../scans/img/{n}.png", "."),
        ("./img/../img/{n}.png", "scans"),
        ("img\\{n}.png", "scans"),
    ],
)
def test_images_are_named_in_many_ways(root: DataRoot, tmp_path: Path, written: str, images: str | None) -> None:
    rows(tmp_path / "scans")
    where = tmp_path / "labels" if images else tmp_path
    path = table(where / "t.csv", [{"image": written.format(top=tmp_path, n=n), "value": n} for n in range(20)])
    task = create(root, "from_table", path, **({"images": str(tmp_path / images)} if images else {}))
    assert [sample["value"] for sample in task.train_samples.values()] == list(range(20))
    assert all(name.endswith(f"{n}") and ".." not in name for n, name in enumerate(task.train_samples))
    kept = root.dataset_path("mine") / task.train_samples[next(iter(task.train_samples))]["image"]
    assert kept.read_bytes() == (tmp_path / "scans/img/0.png").read_bytes()


def test_links_in_a_folder_of_images(root: DataRoot, tmp_path: Path) -> None:
    entries = rows(tmp_path / "s", value=1)
    (tmp_path / "s/img/3.png").rename(tmp_path / "s/third.png")
    (tmp_path / "s/img/3.png").symlink_to("../third.png")
    path = table(tmp_path / "s" / "t.csv", entries)
    assert create(root, "from_table", path).train_samples["img/3"]["image"] == "mixed_data/img/3.png"
    (tmp_path / "s/third.png").rename(tmp_path / "outside.png")
    (tmp_path / "s/img/3.png").unlink()
    (tmp_path / "s/img/3.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DataError, match="Line 5 .*img/3.png, a link that leads out of"):
        create(DataRoot(tmp_path / "second"), "from_table", path)


def test_a_table_within_an_archive_may_point_beside_its_folder(root: DataRoot, tmp_path: Path) -> None:
    rows(tmp_path / "s")
    table(tmp_path / "s" / "labels" / "t.csv", [{"image": f"../img/{n}.png", "value": n} for n in range(20)])
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "s"))
    assert create(root, "from_table", archive).train_samples["img/3"]["image"] == "mixed_data/img/3.png"
    table(tmp_path / "s" / "labels" / "t.csv", [{"image": f"../../../img/{n}.png", "value": n} for n in range(20)])
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "s"))
    with pytest.raises(DataError, match="Line 2 .*must lie within"):
        create(DataRoot(tmp_path / "second"), "from_table", archive)


def test_a_column_is_left_out(root: DataRoot, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"classes": lambda n: "a;b" if n % 2 else "[]", "soft_classes": "0.5;0.5", "split": "train"}
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", **columns))
    kind = "multilabel_classification"
    with pytest.raises(MMLMisconfigurationException, match="leave one out with source.columns.classes=null"):
        create(root, "from_table", path, task_type=kind)
    task = create(root, "from_table", path, task_type=kind, columns={"soft_classes": None})
    assert task.train_samples["img/0"]["classes"] == [] and task.train_samples["img/1"]["classes"] == [0, 1]


def test_a_source_that_was_mended_is_read_again(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", value=1))
    good = (tmp_path / "s/img/4.png").read_bytes()
    (tmp_path / "s/img/4.png").write_bytes(good[:-20])
    with pytest.raises(BrokenSampleError, match="img/4.png is broken"):
        create(root, "from_table", path)
    (tmp_path / "s/img/4.png").write_bytes(good)
    assert len(create(root, "from_table", path).train_samples) == 20
    (tmp_path / "s/img/5.png").write_bytes(good)
    before = files_below(root.dataset_path("mine"))
    create(root, "from_table", path)
    assert files_below(root.dataset_path("mine")) == before, "a task is never recreated"


def test_a_dataset_without_its_source_is_used_as_it_is(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", value=1))
    with pytest.raises(DataError, match="cannot fill 30 folds|too few"):
        create(root, "from_table", path, options={"n_folds": 30})
    shutil.rmtree(tmp_path / "s")
    assert len(create(root, "from_table", path).train_samples) == 20


def test_one_file_that_is_no_archive(root: DataRoot, tmp_path: Path) -> None:
    (tmp_path / "scans.7z").write_bytes(b"7z")
    with pytest.raises(DataError, match=r"must be a folder or an archive \(.*\.zip\), got .*scans.7z"):
        create(root, "from_folder", tmp_path / "scans.7z")


def test_missing_files_may_be_skipped(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", value=1))
    (tmp_path / "s" / "img" / "4.png").unlink()
    with pytest.warns(UserWarning, match="4.png does not exist"):
        task = create(root, "from_table", path, options={"on_broken": "skip"})
    assert len(task.train_samples) == 19


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"image,class\n", "has no rows"),
        ("t.csv", b"image,class\na,b,c\n", "Line 2 .*must have as many entries"),
        ("t.csv", b"image,class\na\n", "Line 2 .*must have as many entries"),
        ("t.csv", b"\xff\xfe\x00a", "cannot be read"),
        ("t.csv", b'image\n"a', "cannot be read"),
        ("t.parquet", b"PAR1 not really", "cannot be read"),
        ("t.xlsx", b"x", "is not a table.*.csv, .tsv"),
        ("none.csv", None, "does not exist"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_entries_of_tables() -> None:
    assert as_list("a; b|c") == ["a", "b", "c"] and as_list("[1, 2]") == [1, 2] and as_list(None) == [] and as_list((1,)) == [1]
    assert as_number("0.5") == 0.5 and as_number("True") == 1 and as_number(False) == 0
    for wrong in (lambda: as_list("[1"), lambda: as_number("x"), lambda: as_number(None)):
        with pytest.raises(DataError, match="is no"):
            wrong()


def test_a_compressed_table_is_unpacked(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", value=1))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(BrokenSampleError, match="img/0.png does not exist"):
        create(root, "from_table", tmp_path / "t.csv.gz")


def test_the_modality_of_groups_is_no_input(root: DataRoot, tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "t.csv", rows(tmp_path / "s", value=1, group=lambda n: n // 2))
    assert Modality.GROUP not in create(root, "from_table", path).modalities
