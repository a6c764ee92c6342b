from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException, StorageError, TaskNotFoundError, UnknownNameError
from mml_ray.prepare.checks import masks
from mml_ray.prepare.variants import derived, ensure_task, planned_struct
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import DataSplit
from tests.tasks import builders

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_data_root"
TASKS = ["ref_blobs", "ref_cells", "ref_count", "ref_kinds", "ref_soft"]


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    shutil.copytree(REFERENCE, tmp_path / "root")
    return DataRoot(tmp_path / "root")


@pytest.mark.parametrize("name", TASKS)
def test_every_type_of_a_reference_root_can_be_nested(root: DataRoot, name: str) -> None:
    base = root.description(name)
    for fold in range(base.n_folds):
        path = ensure_task(root, f"{name}+nested?{fold}")
        inner = root.description(f"{name}+nested?{fold}")
        assert path.parent == root.description_path(name).parent and inner.n_folds == base.n_folds
        assert set(inner.test_samples) == set(base.train_folds[fold])
        assert {*inner.train_samples, *inner.test_samples} == set(base.train_samples)
        assert root.struct(f"{name}+nested?{fold}").num_samples == len(inner.train_samples)


def test_a_full_copy_made_by_others_is_used_as_it_is(root: DataRoot) -> None:
    before = root.description_path("ref_blobs+nested?0?2")
    content = before.read_bytes()
    assert ensure_task(root, "ref_blobs+nested?0?2") == before and before.read_bytes() == content
    ensure_task(root, "ref_blobs+nested?0?2+identity")
    assert root.header("ref_blobs+nested?0?2+identity").base == "ref_blobs+nested?0?2"


@pytest.mark.parametrize("name", TASKS)
def test_whether_tags_fit_is_told_without_writing_anything(root: DataRoot, name: str) -> None:
    root.index()  # the index of the root is kept in a file
    before = sorted(root.path.rglob("*"))
    chained = f"{name}+nested?0+duplicate?2+subset?0_9"
    planned = planned_struct(root, chained)
    for wrong in ("+nested?77", "+identity+subset?3", "+nested?0+nested?9"):
        with pytest.raises(MMLMisconfigurationException):
            derived(root, name + wrong)
    assert sorted(root.path.rglob("*")) == before
    ensure_task(root, chained)
    made = planned_struct(root, chained)
    assert (planned.name, planned.num_samples, planned.n_folds) == (made.name, made.num_samples, made.n_folds)
    assert planned.idx_to_class == made.idx_to_class


def test_chains_are_built_step_by_step_on_the_longest_prefix(root: DataRoot) -> None:
    ensure_task(root, "ref_blobs+nested?1")
    first = root.description_path("ref_blobs+nested?1")
    written = first.stat().st_mtime_ns
    ensure_task(root, "ref_blobs+nested?1+subset?0_5+identity?2")
    assert first.stat().st_mtime_ns == written
    assert root.header("ref_blobs+nested?1+subset?0_5+identity?2").base == "ref_blobs+nested?1+subset?0_5"
    found = root.description("ref_blobs+nested?1+subset?0_5+identity?2")
    assert set(found.train_samples) < set(root.description("ref_blobs+nested?1").train_samples)


def test_a_preprocessed_base_gives_a_preprocessed_variant(root: DataRoot) -> None:
    path = ensure_task(root, "ref_blobs+nested?1", "size16")
    assert path.parent == root.dataset_path("ref_blobs", "size16")
    stored, raw = root.header("ref_blobs+nested?1", "size16"), root.header("ref_blobs+nested?1")
    assert (stored.preprocessed, stored.sizes.max_height) == ("size16", 16) and raw.sizes.max_height == 24
    assert root.description("ref_blobs+nested?1", "size16").train_folds == root.description("ref_blobs+nested?1").train_folds
    path = ensure_task(root, "ref_cells+nested?1", "size16")
    assert path.parent == root.dataset_path("ref_cells")
    only_pp = root.path / root.index()["ref_blobs"]["none"]
    only_pp.unlink()
    root.refresh()
    for preprocessing in ("size16", "none"):
        with pytest.raises(TaskNotFoundError, match="only stored preprocessed"):
            ensure_task(root, "ref_blobs+nested?2", preprocessing)


def test_duplicates_and_plain_names_need_nothing(root: DataRoot) -> None:
    assert ensure_task(root, "ref_blobs+duplicate?1") == root.description_path("ref_blobs")
    assert ensure_task(root, "ref_blobs", "size16") == root.description_path("ref_blobs", "size16")
    assert ensure_task(root, "ref_blobs+identity+duplicate?2").name == "TASK_ref_blobs+identity.json"


def test_unknown_bases_and_tags(root: DataRoot) -> None:
    with pytest.raises(TaskNotFoundError, match="Unknown task 'ref_blub'"):
        ensure_task(root, "ref_blub+nested?0")
    with pytest.raises(UnknownNameError, match="nested"):
        ensure_task(root, "ref_blobs+nestd?0")


def test_a_variant_of_a_changed_base_is_made_anew(root: DataRoot) -> None:
    ensure_task(root, "ref_blobs+nested?0+identity")
    base = root.description("ref_blobs")
    base.train_folds = [fold[::-1] for fold in reversed(base.train_folds)]
    base.save(root.description_path("ref_blobs"))
    with pytest.raises(DataError, match="changed after its variant"):
        root.description("ref_blobs+nested?0+identity")
    ensure_task(root, "ref_blobs+nested?0+identity")
    assert set(root.description("ref_blobs+nested?0+identity").test_samples) == set(base.train_folds[0])


def test_a_touched_but_equal_base_keeps_its_variants(root: DataRoot) -> None:
    path = ensure_task(root, "ref_blobs+nested?0")
    before = path.stat().st_mtime_ns
    os.utime(root.description_path("ref_blobs"))
    ensure_task(root, "ref_blobs+nested?0")
    assert path.stat().st_mtime_ns == before


def test_a_damaged_variant_is_made_anew(root: DataRoot) -> None:
    path = ensure_task(root, "ref_blobs+nested?0")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    root.refresh()
    with pytest.warns(UserWarning, match="Left out of the task index"):
        ensure_task(root, "ref_blobs+nested?0")
    assert path.read_bytes() == whole


def test_p_mask_masks_are_read_once_for_all_variants(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_task(root, "ref_cells+nested?0")
    assert root.header("ref_cells+nested?0").class_occ["background"] == 8
    monkeypatch.setattr(masks, "read_mask", None)
    for fold in (1, 2):
        ensure_task(root, f"ref_cells+nested?{fold}+identity")
    occurrences = [root.header(f"ref_cells+nested?{fold}").class_occ for fold in range(3)]
    assert sum(found["small"] for found in occurrences) == 2 * 6 and sum(found["big"] for found in occurrences) == 2 * 3


def test_a_root_that_cannot_be_written_is_named(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied", str(args[0]))

    root.index()
    monkeypatch.setattr(os, "open", denied)
    assert ensure_task(root, "ref_blobs+nested?0?2")
    with pytest.raises(StorageError, match="No permission to write"):
        ensure_task(root, "ref_blobs+nested?3")


def _ensure(path: Path) -> None:
    for fold in range(5):
        ensure_task(DataRoot(path), f"ref_blobs+nested?{fold}")


def test_w_race_runs_that_need_the_same_variant_at_once(root: DataRoot) -> None:
    work = multiprocessing.get_context("fork")
    processes = [work.Process(target=_ensure, args=(root.path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    names = [path.name for path in root.dataset_path("ref_blobs").iterdir() if "nested" in path.name]
    assert sorted(names) == [*(f"TASK_ref_blobs+nested={fold}.json" for fold in range(5)), "TASK_ref_blobs+nested?0?2.json"]
    assert len(root.description("ref_blobs+nested?4").samples(DataSplit.TEST)) == 4


def test_large_tasks_are_nested_quickly_and_stored_small(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    task = builders.classification(100_000, n_classes=10)
    task.save(root.new_description_path("toy", "big"))
    path = ensure_task(root, "toy+nested?0")
    assert path.stat().st_size < 1_000_000
    assert "variant_of" in json.loads(path.read_text())


def test_variants_need_no_opencv(root: DataRoot) -> None:
    code = (
        "import sys; from mml_ray.prepare.variants import derived, ensure_task, planned_struct; from mml_ray.store.data_root import DataRoot;"
        "ensure_task(DataRoot(sys.argv[1]), 'ref_blobs+nested?0');"
        "print([name for name in ('numpy', 'torch', 'cv2', 'ray', 'pandas') if name in sys.modules])"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, root.path], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.strip() == "[]"
