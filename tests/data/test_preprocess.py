from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_ray.data import preprocess
from mml_ray.data.augment import build_preprocessing
from mml_ray.data.cache.arrow import STORE_FOLDER, ArrowReader, ArrowWriter, mask_key
from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.data.dataset import TaskDataset
from mml_ray.data.options import DataTask, PreprocessingOptions
from mml_ray.data.preprocess import StoreSummary, open_store, store_arrays
from mml_ray.errors import BrokenSampleError, MMLMisconfigurationException
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.description import TaskDescription
from tests.data import made

STEPS = PreprocessingOptions(
    id="small", pipeline=({"name": "SmallestMaxSize", "max_size": 16}, {"name": "Resize", "height": 16, "width": 20})
)


def store(description: TaskDescription, tmp_path: Path, **options: Any) -> StoreSummary:
    options = {"preprocessing": STEPS, "loaders": {}, "workers": 2, **options}
    return store_arrays(description, tmp_path / "raw", folder=tmp_path / "pp" / STORE_FOLDER, **options)


@pytest.mark.parametrize("kind", list(made.KINDS))
def test_every_batch_is_the_same_as_on_the_fly(kind: str, tmp_path: Path) -> None:
    raw = made.data_task(kind, tmp_path / "raw")
    description = raw.description
    assert isinstance(description, TaskDescription)
    store(description, tmp_path)
    stored = DataTask(raw.name, description, tmp_path / "pp", preprocessed="small")
    for split in DataSplit:
        seen = []
        for task in (raw, stored):
            module = MultiTaskDataModule([task], options=made.options(preprocessing=STEPS))
            dataset = module.dataset(task.name, split, augmented=split == DataSplit.TRAIN)
            seen.append([dataset[index] for index in range(len(dataset))])
            assert len(seen[-1]) > 0
        for one, other in zip(*seen, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                assert np.array_equal(one[key], other[key]), (split, key)
    assert not (tmp_path / "pp" / "images").exists(), "the stored arrays have been read"


def test_raw_mask_values_are_stored_and_no_new_ones(tmp_path: Path) -> None:
    description = made.description("segmentation", tmp_path / "raw")
    store(description, tmp_path)
    reader = ArrowReader(tmp_path / "pp" / STORE_FOLDER)
    found: set[int] = set()
    for sample in description.train_samples.values():
        row = int(reader.rows([mask_key(sample["mask"], sample["image"])], "mask")[0])
        found |= set(np.unique(reader.array(row)).tolist())
    assert found == {0, 3, 5, 7, 9, 255}
    assert reader.sample_ids("mask").keys() == reader.sources("mask").keys()


def test_only_what_is_new_or_changed_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    made_before = TaskDataset.made

    def noted(dataset: TaskDataset, index: int) -> Any:
        done.append(dataset.sample_ids[index])
        return made_before(dataset, index)

    monkeypatch.setattr(TaskDataset, "made", noted)
    description = made.description("segmentation", tmp_path / "raw")
    assert store(description, tmp_path).written == 12 + 3 + 12 + 3 + 2, "images and masks, of unlabelled samples images"
    done.clear()
    assert store(description, tmp_path) == StoreSummary(0, 32, store(description, tmp_path).size) and done == []
    larger = made.description("segmentation", tmp_path / "raw", count=14)
    assert store(larger, tmp_path).written == 2 + 2 + 2
    assert sorted(done) == ["s015", "s016", "s017", "s018"], "two images that now have masks, and two new ones"


def test_a_changed_image_is_done_again_with_its_mask(tmp_path: Path) -> None:
    description = made.description("segmentation", tmp_path / "raw")
    store(description, tmp_path)
    made.write(tmp_path / "raw/images/0.png", made.image(77, 30, 40))
    made.write(tmp_path / "raw/masks/0.png", made.mask(77, 30, 40))
    assert store(description, tmp_path).written == 2
    reader = ArrowReader(tmp_path / "pp" / STORE_FOLDER)
    fresh = TaskDataset(description, tmp_path / "raw", split=DataSplit.FULL_TRAIN, modalities=["image"])
    fresh.preprocessing = build_preprocessing(STEPS.pipeline)
    stored = reader.array(int(reader.rows(["images/0.png"])[0]))
    assert np.array_equal(stored, fresh[fresh.sample_ids.index("s000")]["image"])


def test_a_store_that_is_mostly_outdated_is_written_anew(tmp_path: Path) -> None:
    description = made.description("regression", tmp_path / "raw")
    folder = tmp_path / "pp" / STORE_FOLDER
    store(description, tmp_path)
    for round in (1, 2):
        for number in range(17):
            os.utime(tmp_path / f"raw/images/{number}.png", ns=(round, round))
        assert store(description, tmp_path).written == 17
    reader = ArrowReader(folder)
    assert len(list(folder.glob("part-*"))) == 1 and len(reader) == 17
    assert store(description, tmp_path).written == 0


def test_two_tasks_of_one_dataset_share_their_arrays(tmp_path: Path) -> None:
    one, other = (made.description(kind, tmp_path / "raw") for kind in ("classification", "segmentation"))
    assert store(one, tmp_path).written == 17
    assert store(other, tmp_path) == StoreSummary(30, 2, store(other, tmp_path).size), "an image comes with its mask"


# -- what goes wrong -------------------------------------------------------------------------------------------------------
def test_a_broken_file_is_named_and_what_is_finished_stays(tmp_path: Path) -> None:
    description = made.description("classification", tmp_path / "raw")
    broken = tmp_path / "raw/images/14.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    with pytest.raises(BrokenSampleError, match="'s014'.*14.png"):
        store(description, tmp_path, workers=1)
    assert len(ArrowReader(tmp_path / "pp" / STORE_FOLDER)) >= 12
    broken.write_bytes(whole)
    assert store(description, tmp_path).written <= 5


def test_a_request_to_stop_keeps_what_is_finished(tmp_path: Path) -> None:
    description = made.description("classification", tmp_path / "raw")
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(description, tmp_path, progress=stop)
    assert seen == [(done, 17) for done in range(1, 8)]
    assert store(description, tmp_path) == StoreSummary(10, 7, store(description, tmp_path).size)


def test_a_full_disk_leaves_no_half_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    description = made.description("classification", tmp_path / "raw")
    with monkeypatch.context() as broken:
        broken.setattr(ArrowWriter, "_flush", full)
        with pytest.raises(OSError, match="No space left"):
            store(description, tmp_path)
    assert [path.name for path in (tmp_path / "pp" / STORE_FOLDER).iterdir()] == ["store.json"]
    assert store(description, tmp_path).written == 17


def _slowly(description: TaskDescription, tmp_path: Path) -> None:
    preprocess.PART_BYTES = 4 * 16 * 20 * 3

    def wait(done: int, total: int) -> None:
        if done == 10:
            (tmp_path / "ten").touch()
            time.sleep(60)

    store(description, tmp_path, progress=wait)


def test_a_killed_call_is_continued(tmp_path: Path) -> None:
    description = made.description("classification", tmp_path / "raw")
    process = multiprocessing.get_context("fork").Process(target=_slowly, args=(description, tmp_path))
    process.start()
    while not (tmp_path / "ten").exists():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    folder = tmp_path / "pp" / STORE_FOLDER
    assert len(list(folder.glob("part-*"))) == 2 and len(list(folder.glob(".part-*"))) <= 1
    summary = store(description, tmp_path)
    assert (summary.written, summary.kept) == (9, 8) and not list(folder.glob(".part-*"))


def test_other_steps_or_loaders_are_refused(tmp_path: Path) -> None:
    description = made.description("classification", tmp_path / "raw")
    store(description, tmp_path)
    folder = tmp_path / "pp" / STORE_FOLDER
    with pytest.raises(MMLMisconfigurationException, match="made with pipeline=.*asked for is"):
        store(description, tmp_path, preprocessing=PreprocessingOptions(id="small", pipeline=STEPS.pipeline[:1]))
    with pytest.raises(MMLMisconfigurationException, match='made with loaders=.*"opencv".*asked for is .*"pillow"'):
        open_store(folder, preprocessing=STEPS, loaders={"image": "pillow"})
    assert open_store(folder, preprocessing=STEPS, loaders={"class": "class"}).definition["id"] == "small"


def test_targets_that_no_store_can_hold_are_refused(tmp_path: Path) -> None:
    description = made.description("classification", tmp_path / "raw")

    class WithKeypoints(TaskDataset):
        storable = property(lambda self: [])
        modalities = property(lambda self: ["image", "keypoints"])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preprocess, "TaskDataset", WithKeypoints)
        with pytest.raises(MMLMisconfigurationException, match="its keypoints would have to be transformed.*on-the-fly"):
            store(description, tmp_path)


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    description = made.description("segmentation", tmp_path / "raw")
    made.write(tmp_path / "raw/masks/0.png", np.full((24, 32), 40_000, np.uint16))
    store(description, tmp_path)
    reader = ArrowReader(tmp_path / "pp" / STORE_FOLDER)
    found = reader.array(int(reader.rows(["masks/0.png"], "mask")[0]))
    assert found.dtype == np.uint16 and set(np.unique(found)) == {40_000}
