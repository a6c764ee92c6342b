"""Stored arrays: exact, zero-copy, incremental, shared; and the store that fills itself."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mml_ray.data import loaders
from mml_ray.data.cache import decoded as decoded_module
from mml_ray.data.cache import node as node_cache
from mml_ray.data.cache.arrow import STORE_FOLDER, ArrowReader, ArrowWriter, compact, mask_key
from mml_ray.data.cache.node_folder import Claim, default_cache_dir
from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.data.dataset import TaskDataset
from mml_ray.data.loaders.files import ImageLoader
from mml_ray.data.options import DataTask
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import DataSplit
from tests.data import made

DEFINITION = {"id": "size16", "pipeline": [{"name": "Resize", "height": 16, "width": 16}]}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    shapes = [(5, 7, 3), (1, 1), (16, 3, 1), (40, 31), (2, 3, 4)]
    found: dict[str, Any] = {f"a/{n}.png": random.integers(0, 256, shape, np.uint8) for n, shape in enumerate(shapes)}
    return found | {"wide.png": random.integers(0, 65536, (9, 5), np.uint16)}


def test_arrays_come_back_exactly_without_a_copy(tmp_path: Path) -> None:
    given = arrays()
    with ArrowWriter(tmp_path, definition=DEFINITION, batch_bytes=500) as writer:
        for key, array in given.items():
            writer.add(array, key=key, modality="mask" if array.ndim == 2 else "image", sample_id=key[2:3], source=f"v1 {key}")
    reader = ArrowReader(tmp_path, definition=DEFINITION)
    for key, array in given.items():
        modality, other = ("mask", "image") if array.ndim == 2 else ("image", "mask")
        row = int(reader.rows([key], modality)[0])
        stored = reader.array(row)
        assert stored.dtype == array.dtype and stored.shape == array.shape and np.array_equal(stored, array)
        assert not stored.flags.writeable and not stored.flags.owndata and stored.flags.aligned
        assert reader.rows([key], other).tolist() == [-1]
        assert reader.sources(modality)[key] == f"v1 {key}"
    assert reader.rows(["absent", "a/0.png"]).tolist()[0] == -1 and len(reader) == len(given)
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.array(0), reader.array(0))


def test_the_newest_row_of_a_key_counts(tmp_path: Path) -> None:
    old, new = np.zeros((2, 2), np.uint8), np.ones((3, 3), np.uint8)
    with ArrowWriter(tmp_path, definition=DEFINITION) as writer:
        writer.add(old, key="x", source="1")
        writer.add(old, key="y", source="1")
    reader = ArrowReader(tmp_path)
    with ArrowWriter(tmp_path, definition=DEFINITION) as writer:
        writer.add(new, key="x", source="2")
    assert np.array_equal(reader.array(int(reader.rows(["x"])[0])), old)
    assert reader.refresh() and not reader.refresh()
    assert np.array_equal(reader.array(int(reader.rows(["x"])[0])), new) and reader.sources() == {"x": "2", "y": "1"}
    view = reader.array(int(reader.rows(["y"])[0]))
    compact(tmp_path)
    assert np.array_equal(view, old), "an open reader survives compaction"
    fresh = ArrowReader(tmp_path)
    assert len(fresh) == 2 and fresh.sources() == {"x": "2", "y": "1"} and len(list(tmp_path.glob("part-*"))) == 1


def test_what_is_not_finished_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ArrowWriter(tmp_path, definition=DEFINITION, batch_bytes=1) as writer:
        writer.add(np.zeros((2, 2), np.uint8), key="x")
        raise ZeroDivisionError
    writer = ArrowWriter(tmp_path, definition=DEFINITION, batch_bytes=1)
    writer.add(np.zeros((2, 2), np.uint8), key="y")
    assert len(ArrowReader(tmp_path)) == 0
    writer.abort()
    assert os.listdir(tmp_path) == ["store.json"] and ArrowWriter(tmp_path, definition=DEFINITION).close() is None


def test_wrong_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MMLMisconfigurationException, match="mml-ray pp"):
        ArrowReader(tmp_path)
    with ArrowWriter(tmp_path, definition=DEFINITION) as writer:
        writer.add(np.zeros((2, 2), np.uint8), key="x")
        with pytest.raises(DataError, match="float64"):
            writer.add(np.zeros((2, 2)), key="z")
    for opened in (ArrowReader, ArrowWriter):
        with pytest.raises(MMLMisconfigurationException, match='asked for is "other"'):
            opened(tmp_path, definition={**DEFINITION, "id": "other"})  # type: ignore[operator]
    part = next(tmp_path.glob("part-*"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=str(part.name)):
        ArrowReader(tmp_path)
    part.write_bytes(whole)
    stored = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**stored, "version": 99}))
    with pytest.raises(DataError, match="another version"):
        ArrowReader(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        ArrowReader(tmp_path)


def stored_task(kind: str, tmp_path: Path) -> tuple[DataTask, DataTask]:
    """The task with raw files, and the same with stored arrays only."""
    raw = made.data_task(kind, tmp_path / "raw")
    description = made.description(kind, tmp_path / "raw")
    with ArrowWriter(tmp_path / "pp" / STORE_FOLDER, definition=DEFINITION) as writer:
        for split in (DataSplit.FULL_TRAIN, DataSplit.TEST, DataSplit.UNLABELLED):
            dataset = TaskDataset(description, raw.root, split=split, loaders={"mask": "raw_mask"})
            dataset.preprocessing = loaders_preprocessing()
            for index, (sample_id, sample) in enumerate(description.samples(split).items()):
                prepared = dataset[index]
                writer.add(prepared["image"], key=sample["image"], sample_id=sample_id)
                if "mask" in prepared:
                    writer.add(prepared["mask"], key=mask_key(sample["mask"], sample["image"]), modality="mask")
    return raw, DataTask(raw.name, description, tmp_path / "pp", preprocessed="size16")


def loaders_preprocessing() -> Any:
    from mml_ray.data.augment import build_preprocessing

    return build_preprocessing(DEFINITION["pipeline"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_stored_arrays_give_the_same_batches_as_preprocessing_on_the_fly(kind: str, tmp_path: Path) -> None:
    seen = []
    for task in stored_task(kind, tmp_path):
        module = MultiTaskDataModule([task], options=made.options(preprocessing=DEFINITION))
        seen.append([_comparable(batch) for batch in (*module.train_dataloader(), *module.val_dataloader())])
    assert seen[0] == seen[1] and not (tmp_path / "pp/images").exists()


def test_a_store_that_lacks_arrays_or_differs_is_refused(tmp_path: Path) -> None:
    _, stored = stored_task("classification", tmp_path)
    larger = made.description("classification", tmp_path / "more", count=14)
    with pytest.raises(DataError, match="'s013'.*mml-ray pp"):
        task = replace(stored, description=larger, fold=1)
        larger.train_samples["s013"]["image"] = "images/new.png"
        MultiTaskDataModule([task], options=made.options(preprocessing=DEFINITION)).setup("fit")
    with pytest.raises(MMLMisconfigurationException, match="made with pipeline"):
        other = {"id": "size16", "pipeline": [{"name": "Resize", "height": 8, "width": 8}]}
        MultiTaskDataModule([stored], options=made.options(preprocessing=other)).setup("fit")


def _comparable(batch: dict[str, dict[str, Any]]) -> list[Any]:
    return [(f["sample_id"], f["image"].numpy().tobytes(), f["targets"].numpy().tobytes()) for f in batch.values()]


# -- the store that fills itself -------------------------------------------------------------------------------------
def growing(root: Path, kind: str = "classification", *, workers: int = 0, fold: int = 0, **others: Any) -> MultiTaskDataModule:
    sampling = {"cache": "auto", **others}
    given = made.options(workers=workers, sampling=sampling, preprocessing=DEFINITION, cache_dir=root / "cache", batch_size=3)
    return MultiTaskDataModule([made.data_task(kind, root / "raw", fold=fold)], options=given)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded in this process."""
    seen: list[str] = []
    read = ImageLoader.read
    monkeypatch.setattr(ImageLoader, "read", lambda self, path: (seen.append(Path(path).name), read(self, path))[1])
    return seen


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_each_image_is_decoded_once(kind: str, tmp_path: Path, decoded: list[str]) -> None:
    module = growing(tmp_path, kind)
    train, val = module.train_dataloader(), module.val_dataloader()
    first = [_comparable(batch) for batch in (*train, *val)]
    assert sorted(decoded) == sorted(f"{n}.png" for n in range(12))
    train.resume(0, 0)
    assert [_comparable(batch) for batch in (*train, *val)] == first and len(decoded) == 12
    module.close()
    other = growing(tmp_path, kind, fold=1)
    list(other.train_dataloader())
    list(other.val_dataloader())
    assert len(decoded) == 12, "another fold reads the same files"
    off = MultiTaskDataModule(
        [made.data_task(kind, tmp_path / "raw")], options=made.options(preprocessing=DEFINITION, batch_size=3)
    )
    assert [_comparable(batch) for batch in (*off.train_dataloader(), *off.val_dataloader())] == first


def test_loader_processes_fill_the_store_together(tmp_path: Path, decoded: list[str]) -> None:
    module = growing(tmp_path, workers=2)
    loader = module.train_dataloader()
    first = [_comparable(batch) for batch in loader]
    parts = list((tmp_path / "cache").glob("*/part-*.arrow"))
    assert len(parts) == 2 and sum(len(ArrowReader(parts[0].parent)) for _ in [0]) == 8
    loader.resume(0, 0)
    assert [_comparable(batch) for batch in loader] == first
    module.close()
    assert not list((tmp_path / "cache").glob("*/.part-*")) and not decoded
    list(growing(tmp_path).train_dataloader())
    assert not decoded, "what the loader processes stored is found by others"


def test_a_changed_file_is_decoded_anew(tmp_path: Path, decoded: list[str]) -> None:
    list(growing(tmp_path).val_dataloader())
    decoded.clear()
    made.write(tmp_path / "raw/images/3.png", made.image(77))
    batch = next(iter(growing(tmp_path).val_dataloader()))
    assert decoded == ["3.png"]
    fresh = MultiTaskDataModule(
        [made.data_task("classification", tmp_path / "raw")], options=made.options(preprocessing=DEFINITION)
    )
    expected = next(iter(fresh.val_dataloader()))["made_classification"]
    assert batch["made_classification"]["sample_id"][1] == expected["sample_id"][1] == "s003"
    assert np.array_equal(batch["made_classification"]["image"][1], expected["image"][1])


def test_names_with_colons_have_versions_too(tmp_path: Path) -> None:
    for name in ("12:30.png", "30.png"):
        (tmp_path / name).write_bytes(b"x")
    keys = pa.array(["12:30.png", "EMPTY_MASK_TOKEN:12:30.png", "30.png"])
    before = decoded_module._with_versions(keys, str(tmp_path)).to_pylist()
    assert not any(key.endswith("missing") for key in before)
    (tmp_path / "12:30.png").write_bytes(b"changed")
    after = decoded_module._with_versions(keys, str(tmp_path)).to_pylist()
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False]


def test_only_one_process_writes_the_others_decode(tmp_path: Path, decoded: list[str]) -> None:
    module = growing(tmp_path)
    folder = node_cache.cache_folder(
        tmp_path / "cache",
        node_cache.cache_definition(str(tmp_path / "raw"), pipeline=DEFINITION["pipeline"], loaders={}),
    )
    code = f"from mml_ray.data.cache.node_folder import Claim; from pathlib import Path; import time; c = Claim(Path({str(folder)!r}));"
    code += "print(c.acquire(create=True), flush=True); time.sleep(60)"
    rival = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert rival.stdout is not None and rival.stdout.readline().strip() == "True"
    try:
        assert not Claim(folder).acquire()
        loader = module.train_dataloader()
        list(loader)
        assert len(decoded) == 8 and not list(folder.glob("part-*"))
    finally:
        rival.kill()
        rival.wait()
        rival.stdout.close()
    list(loader)
    assert len(decoded) == 16 and len(list(folder.glob("part-*"))) == 1, "the claim of a killed process is free"
    list(loader)
    assert len(decoded) == 16
    module.close()
    assert Claim(folder).acquire()


def test_large_tasks_and_full_disks_are_not_stored(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="12 samples are more than sampling.cache_max_size=11") as told:
        list(growing(tmp_path, cache_max_size=11).train_dataloader())
    assert len(told) == 1
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("mml_ray.data.cache.decoded._KEEP_FREE", 1 << 60)
    list(growing(tmp_path).train_dataloader())
    assert not list((tmp_path / "cache").glob("*/part-*")) and len(decoded) == 16


def test_a_failing_disk_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ArrowWriter, "_flush", broken)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(list(growing(tmp_path).train_dataloader())) == 3


def test_leftovers_and_unused_stores_are_deleted(tmp_path: Path) -> None:
    old, used, here = tmp_path / "old", tmp_path / "used", tmp_path / "here"
    for folder in (old, used, here):
        assert (claim := Claim(folder)).acquire(create=True)
        claim.release()
    (here / ".part-1.tmp.arrow").write_bytes(b"x")
    os.utime(old, (time.time() - 30 * 86400,) * 2)
    assert Claim(here).acquire(create=True)
    assert used.exists() and not old.exists() and not list(here.glob(".part*"))


def test_a_default_folder_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_cache_dir().parent == tmp_path
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="another user"):
        node_cache.cache_folder(None, {})


def test_every_default_loader_is_registered() -> None:
    from mml_ray.registry import registry

    chosen = {loaders.default_loader(modality) for modality in ("image", "mask", "class", "classes", "soft_classes", "value")}
    assert chosen <= set(registry.names("loader")) and loaders.default_loader("sample_id") is None
