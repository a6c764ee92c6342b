"""The tasks that ship: two that need nothing, and those made from the shared archives."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.imaging import read_image, read_mask
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.checks.facts import load_facts
from mml_ray.prepare.create import create_dataset, create_task, dataset_of_task, known_tasks
from mml_ray.prepare.ready import builtin
from mml_ray.prepare.variants import ensure_task
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.description import TaskDescription
from tests.prepare.makers import BCCD, MEDNIST, NUCLEI, context


def create(root: Path, name: str, archive: Path | None = None) -> TaskDescription:
    """The task ``name``; skips the test if its archive is not at hand."""
    if archive is not None and not archive.exists():
        pytest.skip(f"{archive} is not at hand (MML_RAY_TEST_DATA names the folder)")
    asked = context(root, source={"path": str(archive)} if archive is not None else {})
    create_dataset(dataset_of_task(name), asked)
    return TaskDescription.load(create_task(name, asked))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data root for all tests of this module: tasks of one dataset share it."""
    return tmp_path_factory.mktemp("root")


def test_what_is_known() -> None:
    assert {"digits", "mml_fake_task", "mednist6", "nuclei", "nuclei_count", "bccd_count", "bccd_tiles"} <= set(known_tasks())
    assert dataset_of_task("mml_fake_task") == "mml_fake_dataset" and not {"from_folder", "from_table"} & set(known_tasks())


def test_digits(made: Path) -> None:
    task = create(made, "digits")
    assert (len(task.train_samples), len(task.test_samples), task.n_folds) == (1438, 359, 5)
    assert list(task.class_occ) == [str(digit) for digit in range(10)] and max(task.class_occ.values()) <= 146
    assert task.sizes.to_list() == [64, 64, 64, 64] and 0.25 < task.means.r < 0.35
    folder = DataRoot(made).dataset_path("digits")
    image = read_image(folder / next(iter(task.train_samples.values()))["image"])
    assert image.shape == (64, 64, 3) and image.max() > 200 and (image[:, :, 0] == image[:, :, 2]).all()
    assert not load_facts(folder / "TASK_digits.json", task)["integrity"]["duplicated_images"]
    for fold in range(5):
        ensure_task(DataRoot(made), f"digits+nested?{fold}")


def test_the_fake_task(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {DataKind.TRAINING_DATA: 100, DataKind.TESTING_DATA: 50, DataKind.UNLABELED_DATA: 30}
    assert list(builtin.FAKE_COUNTS.values()) == [1000, 500, 300]
    monkeypatch.setattr(builtin, "FAKE_COUNTS", small)
    task = create(made, "mml_fake_task")
    assert (len(task.train_samples), len(task.test_samples), len(task.unlabeled_samples)) == (100, 50, 30)
    assert task.class_occ == dict.fromkeys("ABCDEFGHIJ", 10) and task.sizes.to_list() == [224] * 4 and task.stds.g == 0.29


def test_ready_creators_need_their_archive(tmp_path: Path) -> None:
    for name in ("mednist6", "nuclei", "bccd"):
        with pytest.raises(MMLMisconfigurationException, match="source.path is missing: the archive"):
            create_dataset(name, context(tmp_path))
        with pytest.raises(DataError, match="must be an existing file or folder"):
            create_dataset(name, context(tmp_path, source={"path": str(tmp_path / "none.zip")}))


def test_mednist6(made: Path) -> None:
    task = create(made, "mednist6", MEDNIST)
    assert task.class_occ == dict.fromkeys(("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"), 250)
    assert len(task.test_samples) == 300 and [len(fold) for fold in task.train_folds] == [300] * 5
    ensure_task(DataRoot(made), "mednist6+nested?0")


def test_nuclei(made: Path) -> None:
    task = create(made, "nuclei", NUCLEI)
    assert (len(task.train_samples), len(task.test_samples)) == (430, 108) and task.idx_to_class == {
        0: "background",
        1: "nucleus",
    }
    sample = next(iter(task.train_samples.values()))
    folder = DataRoot(made).dataset_path("nuclei")
    image, mask = read_image(folder / sample["image"]), read_mask(folder / sample["mask"])
    assert image.shape[:2] == mask.shape and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    count = create(made, "nuclei_count", NUCLEI)
    assert set(count.train_samples) == set(task.train_samples)
    assert max(sample["value"] for sample in {**count.train_samples, **count.test_samples}.values()) == 151
    ensure_task(DataRoot(made), "nuclei+nested?4")
    ensure_task(DataRoot(made), "nuclei_count+nested?4")


@pytest.fixture(scope="module")
def few_smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of blood smears, reduced to 40 images."""
    if not BCCD.exists():
        return BCCD
    path = tmp_path_factory.mktemp("bccd") / "bccd.zip"
    with zipfile.ZipFile(BCCD) as whole, zipfile.ZipFile(path, "w") as part:
        tables = {name: whole.read(name).decode().splitlines() for name in ("counts.csv", "tiles.csv")}
        images = [line.split(",")[0] for line in tables["counts.csv"][1:41]]
        for name, lines in tables.items():
            kept = [lines[0], *(line for line in lines[1:] if line.split(",")[0] in images)]
            part.writestr(name, "\n".join(kept))
        for image in images:
            part.writestr(image, whole.read(image))
            annotation = f"Annotations/{Path(image).stem}.xml"
            part.writestr(annotation, whole.read(annotation))
    return path


def groups_are_apart(task: TaskDescription) -> bool:
    groups = [{task.train_samples[i]["group"] for i in fold} for fold in task.train_folds]
    return all(not a & b for a, b in itertools.combinations(groups, 2))


def test_blood_smears(made: Path, few_smears: Path) -> None:
    count = create(made, "bccd_count", few_smears)
    tiles, soft = create(made, "bccd_tiles", few_smears), create(made, "bccd_tiles_soft", few_smears)
    assert len(count.train_samples) + len(count.test_samples) == 40 and count.sizes.to_list() == [480, 480, 640, 640]
    assert len(tiles.train_samples) == 12 * len(count.train_samples) and tiles.sizes.to_list() == [160] * 4
    folder = DataRoot(made).dataset_path("bccd")
    first = next(iter(tiles.train_samples))
    image, x, y = first.rsplit("_", 2)
    whole = read_image(folder / "mixed_data" / "JPEGImages" / f"{image}.jpg")
    assert (read_image(folder / "tiles" / f"{first}.png") == whole[int(y) : int(y) + 160, int(x) : int(x) + 160]).all()
    for sample_id, sample in tiles.train_samples.items():  # a label is a quarter of a box (or of the tile, if that is smaller)
        for kind, share in enumerate(soft.train_samples[sample_id]["soft_classes"]):
            assert 0 <= share <= 1 and (share >= 0.26) <= (kind in sample["classes"])
    nested = TaskDescription.load(ensure_task(DataRoot(made), "bccd_tiles+nested?1"))
    assert groups_are_apart(tiles) and groups_are_apart(nested)


@pytest.mark.slow
def test_all_blood_smears(tmp_path: Path) -> None:
    count, tiles = create(tmp_path, "bccd_count", BCCD), create(tmp_path, "bccd_tiles", BCCD)
    everything = [sample["value"] for sample in {**count.train_samples, **count.test_samples}.values()]
    assert (len(count.train_samples), len(count.test_samples), sum(everything)) == (292, 72, 4155)
    labels = [sample["classes"] for sample in {**tiles.train_samples, **tiles.test_samples}.values()]
    assert (len(labels), sum(not found for found in labels), sum(len(found) > 1 for found in labels)) == (4368, 529, 751)
