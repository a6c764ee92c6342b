from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException, StorageError, UnknownNameError
from mml_ray.prepare.checks.integrity import IntegrityReport, stored_report
from mml_ray.prepare.context import CreationContext, current
from mml_ray.prepare.create import create_dataset, create_task, dataset_of_task, known_tasks
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import get_iterator_and_mapping_from_image_dataset
from mml_ray.prepare.registration import call_creator, create_creator_func, register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.registry import registry
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import TaskType
from tests.prepare.makers import class_folders, context, files_below, zip_of

MADE: list[str] = []


def make_dataset(context: CreationContext) -> Path:
    MADE.append("dataset")
    creator = DSetCreator("toy_dset")
    creator.use_source(context.required("path", "where the toy lies"))
    return creator.unpack_and_store()


def describe_toy(dset_path: Path, name: str = "toy") -> Path:
    MADE.append("task")
    train, mapping = get_iterator_and_mapping_from_image_dataset(dset_path / "mixed_data" / "source")
    creator = TaskCreator(dset_path, name, task_type=TaskType.CLASSIFICATION)
    creator.find_data(train_iterator=train, idx_to_class=mapping)
    return creator.auto_complete()


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    """A registered dataset and task."""
    MADE.clear()
    register_dsetcreator("toy_dset")(make_dataset)
    register_taskcreator("toy", dset_name="toy_dset")(describe_toy)
    yield
    for kind, names in (("dset_creator", ("toy_dset", "other_dset")), ("task_creator", ("toy", "other"))):
        for name in names:
            registry.remove(kind, name)


@pytest.fixture
def asked(tmp_path: Path) -> CreationContext:
    source = class_folders(tmp_path / "source", classes={"a": 6, "b": 6})
    return context(tmp_path / "root", source={"path": str(source)})


# -- what happens once -----------------------------------------------------------------------------------------------------
def test_dataset_and_task_are_made_once(asked: CreationContext) -> None:
    assert "toy" in known_tasks() and dataset_of_task("toy") == dataset_of_task("toy+nested?0") == "toy_dset"
    for _ in range(2):
        folder = create_dataset("toy_dset", asked)
        path = create_task("toy", asked)
    assert MADE == ["dataset", "task"] and path == folder / "TASK_toy.json"
    assert asked.data_root.description("toy").num_samples == 12
    assert stored_report(asked.data_root, "toy") == IntegrityReport()
    assert not any("wip" in name for name in files_below(folder))


def test_a_tagged_task_is_made_from_its_base(asked: CreationContext) -> None:
    create_dataset("toy_dset", asked)
    create_task("toy", asked)
    assert create_task("toy+nested?0", asked).name == "TASK_toy+nested=0.json"


def test_d_tc_1_settings_reach_creators_of_one_argument(asked: CreationContext) -> None:
    fewer = context(asked.data_root, source=asked.source, n_folds=3)
    create_dataset("toy_dset", fewer)
    create_task("toy", fewer)
    assert fewer.data_root.description("toy").n_folds == 3


def test_all_forms_of_creators(asked: CreationContext, tmp_path: Path) -> None:
    @register_dsetcreator("other_dset")
    def no_argument() -> Path:
        assert current() is asked
        creator = DSetCreator("other_dset")
        creator.use_source(tmp_path / "source")
        return creator.unpack_and_store()

    register_taskcreator("other", dset_name="other_dset")(create_creator_func(describe_toy, name="other"))
    create_dataset("other_dset", asked)
    create_task("other", asked)
    assert asked.data_root.counts("other") == (12, 5) and current() is None


@pytest.mark.parametrize(
    "creator",
    [
        lambda dset_path, context: (dset_path, context),
        lambda dset_path, *, context: (dset_path, context),
        lambda dset_path, name="x", context=None: (dset_path, context),
        lambda *args: args,
    ],
)
def test_the_context_goes_where_it_is_asked_for(asked: CreationContext, creator: Callable[..., Any]) -> None:
    assert call_creator(creator, Path("x"), asked) == (Path("x"), asked)


def with_dset_creator(function: Callable[..., Any]) -> None:
    registry.add("dset_creator", "toy_dset", function, force=True)


# -- what goes wrong -------------------------------------------------------------------------------------------------------
def test_unknown_names(asked: CreationContext) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: digits.*from_folder"):
        dataset_of_task("digit")
    with pytest.raises(UnknownNameError, match="register_dsetcreator"):
        create_dataset("nothing", asked)
    with pytest.raises(DataError, match="needs the dataset 'toy_dset', which is missing or unfinished in"):
        create_task("toy", asked)
    with pytest.raises(MMLMisconfigurationException, match="source.path is missing: where the toy lies"):
        create_dataset("toy_dset", context(asked.data_root))


@pytest.mark.parametrize(
    ("made", "message"), [(None, "returned None"), (Path("/elsewhere"), "elsewhere"), ("DSET", "returned 'DSET'")]
)
def test_a_dataset_creator_returns_its_folder(asked: CreationContext, made: Any, message: str) -> None:
    with_dset_creator(lambda: made)
    with pytest.raises(DataError, match=message):
        create_dataset("toy_dset", asked)
    assert not asked.data_root.dataset_path("toy_dset").exists()


def test_an_empty_dataset_is_none(asked: CreationContext) -> None:
    with_dset_creator(lambda context: context.data_root.dataset_path("toy_dset"))
    with pytest.raises(DataError, match="put nothing into"):
        create_dataset("toy_dset", asked)


def test_a_task_creator_describes_its_task(asked: CreationContext) -> None:
    create_dataset("toy_dset", asked)
    for function, message in (
        (lambda dset_path: None, "described no task of this name"),
        (lambda dset_path: "x", "returned 'x'"),
        (lambda dset_path, context, more: None, r"asks for \(dset_path, context, more\)"),
    ):
        registry.remove("task_creator", "toy")
        register_taskcreator("toy", dset_name="toy_dset")(function)
        with pytest.raises((DataError, MMLMisconfigurationException), match=message):
            create_task("toy", asked)


FULL_DISK = OSError(28, "No space left on device", "/x")


@pytest.mark.parametrize(
    ("error", "raised"),
    [(RuntimeError("boom"), RuntimeError), (KeyboardInterrupt(), KeyboardInterrupt), (FULL_DISK, StorageError)],
)
def test_a_failed_creation_leaves_nothing(asked: CreationContext, error: BaseException, raised: type[BaseException]) -> None:
    def fail(context: CreationContext) -> Path:
        (context.data_root.dataset_path("toy_dset") / "half").write_text("x")
        raise error

    with_dset_creator(fail)
    with pytest.raises(raised, match="The disk of /x is full" if raised is StorageError else None):
        create_dataset("toy_dset", asked)
    assert not asked.data_root.dataset_path("toy_dset").exists()


def test_a_broken_file_is_named_and_nothing_is_described(asked: CreationContext) -> None:
    folder = create_dataset("toy_dset", asked)
    broken = folder / "mixed_data" / "source" / "a" / "002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(BrokenSampleError, match="002.png is broken"):
        create_task("toy", asked)
    assert list(folder.glob("TASK*")) == []
    skipping = context(asked.data_root, source=asked.source, on_broken="skip")
    with pytest.warns(UserWarning, match="left out"):
        create_task("toy", skipping)
    assert asked.data_root.description("toy").num_samples == 11


def test_a_root_without_permission_is_named(asked: CreationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> int:
        raise PermissionError(13, "Permission denied", str(args[0]))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError, match="No permission to write .*root.*MML_DATA_PATH"):
        create_dataset("toy_dset", asked)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_folds": 1}, "greater than 1"),
        ({"ensure_balancing": "yes"}, "true or false"),
        ({"on_broken": "hide"}, "raise, refuse, skip"),
    ],
)
def test_wrong_settings(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        context(tmp_path, **option)


# -- killed, and two at once -------------------------------------------------------------------------------------------------
def _slowly(root: Path, source: Path, log: Path, wait: float) -> None:
    def slow(context: CreationContext) -> Path:
        with log.open("a") as stream:
            stream.write("x")
        folder = make_dataset(context)
        time.sleep(wait)
        return folder

    with_dset_creator(slow)
    create_dataset("toy_dset", context(root, source={"path": str(source)}))


def test_a_killed_creation_is_never_believed_and_done_again(asked: CreationContext, tmp_path: Path) -> None:
    root = asked.data_root
    process = multiprocessing.get_context("fork").Process(
        target=_slowly, args=(root.path, tmp_path / "source", tmp_path / "log", 60)
    )
    process.start()
    folder = root.dataset_path("toy_dset")
    while not (folder / "mixed_data" / "source" / "b" / "011.png").exists():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert (folder / "wip.txt").exists() and not root.is_complete("toy_dset")
    with pytest.raises(DataError, match="is missing or unfinished"):
        create_task("toy", asked)
    (folder / "rest of the killed one").write_text("x")
    create_dataset("toy_dset", asked)
    create_task("toy", asked)
    assert "rest of the killed one" not in files_below(folder) and root.is_complete("toy_dset")


def test_two_creations_at_once_make_one_dataset(asked: CreationContext, tmp_path: Path) -> None:
    work = multiprocessing.get_context("fork")
    processes = [
        work.Process(target=_slowly, args=(asked.data_root.path, tmp_path / "source", tmp_path / "log", 0.3)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "x" and asked.data_root.is_complete("toy_dset")


def test_a_refused_archive_leaves_no_dataset(asked: CreationContext, tmp_path: Path) -> None:
    evil = zip_of(tmp_path / "evil.zip", {"a/1.png": b"1", "../../evil": b"2"})
    with pytest.raises(DataError, match="leads out"):
        create_dataset("toy_dset", context(asked.data_root, source={"path": str(evil)}))
    assert list((asked.data_root.path / "RAW").iterdir()) == [] and not (asked.data_root.path / "evil").exists()


def test_registering_again_warns_unless_it_is_the_same() -> None:
    register_taskcreator("toy", dset_name="toy_dset")(describe_toy)
    with pytest.warns(UserWarning, match="task_creator 'toy' was registered as"):
        register_taskcreator("toy", dset_name="elsewhere")(describe_toy)


def test_progress_is_reported(asked: CreationContext) -> None:
    seen: list[tuple[int, int, str]] = []
    watched = context(asked.data_root, source=asked.source, progress=lambda *step: seen.append(step))
    create_dataset("toy_dset", watched)
    create_task("toy", watched)
    assert (0, 1, "unpacking source") in seen and (12, 12, "samples") in seen


def test_roots_are_equal_for_all() -> None:
    assert DataRoot("x").path == DataRoot(Path("x")).path
