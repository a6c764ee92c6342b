from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, StorageError, TaskNotFoundError
from mml_ray.store import data_root
from mml_ray.store.data_root import DataRoot, writing
from mml_ray.tasks import description as descriptions
from mml_ray.tasks.header import TaskHeader, read_header
from tests.patience import promised
from tests.tasks import builders

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_data_root"
TASKS = ["ref_blobs", "ref_blobs+nested?0?2", "ref_cells", "ref_count", "ref_kinds", "ref_soft", "ref_unlabelled"]


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    shutil.copytree(REFERENCE, tmp_path / "root")
    return DataRoot(tmp_path / "root")


def test_a_root_written_by_the_reference_is_indexed_unchanged(root: DataRoot) -> None:
    before = {path: path.read_bytes() for path in root.path.rglob("*") if path.is_file()}
    index = root.index()
    assert sorted(index) == TASKS
    assert index["ref_blobs"] == {
        "none": "RAW/DSET_ref_blobs/TASK_ref_blobs.json",
        "size16": "PREPROCESSED/size16/DSET_ref_blobs/TASK_ref_blobs.json",
    }
    for name in index:
        task = root.description(name)
        for samples in (task.train_samples, task.test_samples, task.unlabeled_samples):
            for sample in samples.values():
                for key in ("image", "mask"):
                    if sample.get(key, "EMPTY_MASK_TOKEN") != "EMPTY_MASK_TOKEN":
                        assert (root.path / root.header(name).relative_root / sample[key]).is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_an_unfinished_dataset_is_not_believed(root: DataRoot) -> None:
    assert "ref_unfinished" not in root and not root.is_complete("ref_unfinished")
    (root.dataset_path("ref_unfinished") / data_root.WIP_MARKER).unlink()
    root.refresh()
    assert "ref_unfinished" in root and root.is_complete("ref_unfinished")


def test_a_missing_preprocessing_falls_back_to_raw(root: DataRoot) -> None:
    stored, raw = root.header("ref_blobs", "size16"), root.header("ref_cells", "size16")
    assert (stored.preprocessed, stored.relative_root) == ("size16", "PREPROCESSED/size16/DSET_ref_blobs")
    assert stored.sizes.max_height == 16
    assert (raw.preprocessed, raw.relative_root) == ("none", "RAW/DSET_ref_cells")
    assert root.description_path("ref_cells", "size16") == root.path / "RAW/DSET_ref_cells/TASK_ref_cells.json"


def test_structs_know_their_numbers_and_keep_their_name(root: DataRoot) -> None:
    struct = root.struct("ref_blobs+duplicate?1", "size16")
    assert (struct.name, struct.num_samples, struct.n_folds, struct.preprocessed) == ("ref_blobs+duplicate?1", 20, 5, "size16")
    assert root.struct("ref_unlabelled").num_samples == 12
    assert root.struct("ref_blobs").paths is not root.struct("ref_blobs").paths


def test_counts_are_remembered_across_processes(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root.counts("ref_blobs") == (20, 5)
    monkeypatch.setattr(descriptions.TaskDescription, "load", None)
    assert DataRoot(root.path).counts("ref_blobs") == (20, 5)


def test_an_unknown_task_is_named_with_its_neighbours(root: DataRoot) -> None:
    with pytest.raises(TaskNotFoundError, match=r"Did you mean: ref_blobs.*mml-ray create tasks=ref_blob$"):
        root.header("ref_blob")
    with pytest.raises(KeyError, match="'ref_blobs' exists; its variants are created"):
        root.description("ref_blobs+nested?4")


def test_an_unreadable_description_is_left_out_and_named(root: DataRoot) -> None:
    path = root.dataset_path("ref_cells") / "TASK_ref_count.json"
    path.write_text(path.read_text()[:200])
    with pytest.warns(UserWarning, match="Left out of the task index: .*TASK_ref_count.json is damaged"):
        assert sorted(root.index()) == [name for name in TASKS if name != "ref_count"]
    with pytest.warns(UserWarning), pytest.raises(TaskNotFoundError, match="Unreadable: .*TASK_ref_count.json"):
        root.header("ref_count")


def test_half_written_and_temporary_files_are_no_tasks(root: DataRoot) -> None:
    folder = root.dataset_path("ref_cells")
    for name in ("temp_TASK_x.json", ".TASK_ref_cells.0123.tmp.json", "presence.json"):
        shutil.copy(folder / "TASK_ref_cells.json", folder / name)
    assert sorted(root.index()) == TASKS


def test_a_task_described_twice_warns(root: DataRoot) -> None:
    folder = root.dataset_path("ref_cells")
    shutil.copy(folder / "TASK_ref_cells.json", folder / "TASK_zz.json")
    with pytest.warns(UserWarning, match="'ref_cells' is described twice, in .*TASK_ref_cells.json and .*TASK_zz.json"):
        assert root.index()["ref_cells"]["none"].endswith("TASK_zz.json")


def test_new_changed_and_deleted_tasks_are_noticed(root: DataRoot) -> None:
    root.index()
    task = builders.classification(20)
    task.save(root.new_description_path("toy", "ref_cells"))
    assert root.header("toy").description == ""  # found although the index was made before
    task.description = "changed"
    task.save(root.new_description_path("toy", "ref_cells"))
    root.refresh()
    assert root.header("toy").description == "changed"
    root.new_description_path("toy", "ref_cells").unlink()
    with pytest.raises(TaskNotFoundError):
        root.header("toy")


def test_headers_are_read_once_and_only_again_if_a_file_changes(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: str) -> TaskHeader:
        read.append(os.path.basename(path))
        return read_header(path)

    monkeypatch.setattr(data_root, "read_header", counted)
    root.index()
    assert len(read) == 8
    read.clear()
    again = DataRoot(root.path)
    assert again.index() == root.index() and again.header("ref_cells") == root.header("ref_cells") and read == []
    path = root.dataset_path("ref_cells") / "TASK_ref_soft.json"
    os.utime(path, ns=(1, 1))
    DataRoot(root.path).index()
    assert read == ["TASK_ref_soft.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99}', b'{"version": 1, "entries": [[1]]}', b"[]", b"\xff"])
def test_a_damaged_memory_is_made_anew(root: DataRoot, content: bytes) -> None:
    (root.path / data_root.INDEX_FILE).write_bytes(content)
    assert sorted(root.index()) == TASKS
    assert json.loads((root.path / data_root.INDEX_FILE).read_text())["version"] == 1


def test_a_root_for_reading_only_is_indexed(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly(atomic.FileSystem):
        def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
            raise PermissionError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(atomic, "fs", ReadOnly())
    assert sorted(root.index()) == TASKS and root.counts("ref_cells") == (12, 3)
    assert not (root.path / data_root.INDEX_FILE).exists()


def test_a_root_that_is_not_there_has_no_tasks(tmp_path: Path) -> None:
    assert DataRoot(tmp_path / "none").index() == {}
    assert not (tmp_path / "none").exists()


def test_refused_writes_and_full_disks_name_the_path(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="No permission to write /x/y: .*MML_DATA_PATH"), writing("/x/y"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(StorageError, match="The disk of /x/y is full"), writing("/x"):
        raise OSError(errno.ENOSPC, "No space left on device", "/x/y")
    with pytest.raises(OSError, match="odd"), writing("/x"):
        raise OSError(errno.EIO, "odd")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(root.path / ".locks"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match=".locks"), root.locked("x"):
        pass


def _hold(path: Path, log: Path) -> None:
    with DataRoot(path).locked("DSET_x"), log.open("a") as stream:
        stream.write("in ")
        stream.flush()
        time.sleep(0.1)
        stream.write("out ")


def test_a_lock_is_held_by_one_process_and_dies_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_hold, args=(tmp_path, tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "log").read_text() == "in out " * 3


def test_paths(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    assert root.dataset_path("x", "size16") == tmp_path / "PREPROCESSED/size16/DSET_x"
    assert root.download_path("x") == tmp_path / "DOWNLOADS/x"
    assert root.new_description_path("a+nested?0", "x") == tmp_path / "RAW/DSET_x/TASK_a+nested=0.json"
    assert root.definition_path("size16") == tmp_path / "PREPROCESSED/size16/_definition.yaml"
    with pytest.raises(MMLMisconfigurationException, match="raw data"):
        root.definition_path("none")
    for wrong in ("", "../x", "a/b"):
        with pytest.raises(MMLMisconfigurationException, match="plain name"):
            root.dataset_path("x", wrong)
    assert pickle.loads(pickle.dumps(root)).path == tmp_path


def test_p_idx_indexing_large_descriptions_is_fast(tmp_path: Path) -> None:
    task = builders.classification(100_000)
    for number in range(3):
        task.name = f"big{number}"
        task.save(DataRoot(tmp_path).new_description_path(task.name, "big"))
    started = time.perf_counter()
    assert len(DataRoot(tmp_path).index()) == 3
    assert time.perf_counter() - started < promised(0.3)


def test_the_index_needs_no_heavy_import() -> None:
    code = (
        "import sys; from mml_ray.store.data_root import DataRoot; DataRoot(sys.argv[1]).index();"
        "print([name for name in ('numpy', 'torch', 'cv2', 'ray', 'pandas', 'hydra', 'pyarrow') if name in sys.modules])"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, "nowhere"], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.strip() == "[]"


def test_a_variant_of_a_changed_base_is_told_from_a_missing_one(root: DataRoot) -> None:
    task = builders.classification(20)
    task.save(root.new_description_path("toy", "ref_cells"))
    path = root.new_description_path("toy+nested?0", "ref_cells")
    variant = descriptions.TaskDescription.load(root.new_description_path("toy", "ref_cells"))
    from mml_ray.tasks import tags
    from mml_ray.tasks.variant import to_bytes

    tag = tags.Tag("nested", ("0", "2"))
    path.write_bytes(to_bytes(tags.modify(variant, tag), variant, name="toy+nested?0", base_file="TASK_toy.json"))
    root.refresh()
    assert root.header("toy+nested?0").base == "toy" and root.counts("toy+nested?0") == (16, 2)
    task.train_samples["s0000"]["class"] = 1
    task.save(root.new_description_path("toy", "ref_cells"))
    with pytest.raises(DataError, match="changed after its variant"):
        root.description("toy+nested?0")
