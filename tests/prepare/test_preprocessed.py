from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException, TaskNotFoundError
from mml_ray.prepare.context import activated
from mml_ray.prepare.own.records import Record, describe
from mml_ray.prepare.preprocessed import (
    check_definition,
    check_preprocessed,
    describe_preprocessed,
    is_described,
    write_definition,
)
from mml_ray.prepare.variants import ensure_task
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import Modality, TaskType
from tests.prepare.makers import context, picture, write

STEPS = [{"name": "Resize", "height": 8, "width": 9}]
OTHER = [{"name": "Resize", "height": 8, "width": 8}]


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """A root with the task ``toy``, and ``DSET_toy`` in PREPROCESSED/small without a description."""
    found = DataRoot(tmp_path)
    _describe(found)
    (tmp_path / "PREPROCESSED" / "small" / "DSET_toy").mkdir(parents=True)
    return found


def _describe(root: DataRoot, **options: Any) -> None:
    folder = root.path / "RAW" / "DSET_toy"
    records = []
    for number in range(12):
        path = folder / f"{number}.png"
        if not path.exists():
            write(path, picture(number))
        sample = {Modality.SAMPLE_ID: str(number), Modality.IMAGE: path, Modality.CLASS: number % 2}
        records.append(Record(sample, "train"))
    with activated(context(root, **options)):
        describe("toy", folder, TaskType.CLASSIFICATION, records=records, idx_to_class={0: "a", 1: "b"}, context=context(root))
    root.refresh()


def _grey(entry: str) -> Any:
    return np.full((8, 9, 3), 10 * int(entry.removesuffix(".png")), np.uint8)


def _stored(root: DataRoot) -> Path:
    write_definition(root, "small", STEPS)
    return describe_preprocessed(root, "toy", preprocessing="small", image_of=_grey, workers=2)


def test_an_id_stands_for_the_same_steps_once_something_is_stored(root: DataRoot) -> None:
    write_definition(root, "small", STEPS)
    write_definition(root, "small", [{"width": 9, "height": 8, "name": "Resize"}])
    with pytest.raises(
        MMLMisconfigurationException, match=r"Resize\(height=8, width=9\)\. The configuration says: Resize\(.*8\)"
    ):
        check_definition(root, "small", OTHER)
    with pytest.raises(MMLMisconfigurationException, match="no steps"):
        write_definition(root, "small", [])
    shutil.rmtree(root.path / "PREPROCESSED" / "small" / "DSET_toy")
    write_definition(root, "small", OTHER)
    check_definition(root, "small", OTHER)
    root.definition_path("small").write_text("pipeline: 7")
    with pytest.raises(DataError, match="_definition.yaml is damaged"):
        check_definition(root, "small", OTHER)


def test_the_description_differs_in_what_the_images_differ_in(root: DataRoot) -> None:
    assert not is_described(root, "toy", "small")
    path = _stored(root)
    raw, stored = root.description("toy"), root.description("toy", "small")
    assert path == root.path / "PREPROCESSED/small/DSET_toy/TASK_toy.json" and is_described(root, "toy", "small")
    assert (stored.sizes.max_height, stored.sizes.min_width, raw.sizes.max_height) == (8, 9, 16)
    assert stored.means.r == pytest.approx(np.mean([10 * n / 255 for n in range(12)]))
    assert stored.train_samples == raw.train_samples and stored.train_folds == raw.train_folds
    assert stored.creation_protocol.startswith(raw.creation_protocol) and "small" in stored.creation_protocol


def test_variants_are_made_from_the_preprocessed_base(root: DataRoot) -> None:
    _stored(root)
    path = ensure_task(root, "toy+nested?0", "small")
    assert path.parent.parent.name == "small"
    assert root.struct("toy+nested?0", "small").means == root.struct("toy", "small").means
    check_preprocessed(root, ["toy+nested?0", "elsewhere"], preprocessing="small", pipeline=STEPS)
    with pytest.raises(MMLMisconfigurationException, match="other steps"):
        check_preprocessed(root, ["toy+nested?0"], preprocessing="small", pipeline=OTHER)
    check_preprocessed(root, ["toy"], preprocessing="none", pipeline=[])
    check_preprocessed(root, ["toy"], preprocessing="unused", pipeline=OTHER)


def test_a_task_that_was_created_anew_is_noticed(root: DataRoot) -> None:
    _stored(root)
    raw = root.description_path("toy")
    os.utime(raw)
    check_preprocessed(root, ["toy"], preprocessing="small", pipeline=STEPS)
    raw.unlink()
    _describe(root, n_folds=3)
    later = root.description_path("toy", "small").stat().st_mtime_ns + 10**9
    os.utime(raw, ns=(later, later))
    root.refresh()
    assert not is_described(root, "toy", "small")
    with pytest.raises(DataError, match="'toy' was recreated .* mml-ray pp"):
        check_preprocessed(root, ["toy+nested?0"], preprocessing="small", pipeline=STEPS)
    raw.unlink()
    root.refresh()
    check_preprocessed(root, ["toy"], preprocessing="small", pipeline=STEPS)
    with pytest.raises(TaskNotFoundError, match="no raw data"):
        is_described(root, "toy", "small")
