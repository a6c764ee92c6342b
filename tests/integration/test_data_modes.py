"""From raw archives to batches through the modes: create, pp, clean, info, and trainings on what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mml_ray import cli
from mml_ray.api import compose_run
from mml_ray.data.cache.node_folder import Claim
from mml_ray.data.dataset import TaskDataset
from mml_ray.launch import build_scheduler
from mml_ray.models.checkpoint import load_weights
from mml_ray.registry import registry
from mml_ray.schedulers import components
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.description import TaskDescription
from tests.integration.harness import Place, commits, kill, wait_for
from tests.patience import GUARD
from tests.prepare.makers import BCCD, MEDNIST, NUCLEI, encrypted_zip

REFERENCE = Path(__file__).parents[1] / "assets" / "reference_data_root"
CONFIGS = Path(__file__).parents[2] / "configs"
INLINE = "sys.executor=inline"
#: a training of seconds
TINY = (
    INLINE,
    "trainer.enable_progress_bar=false",
    "trainer.min_epochs=1",
    "trainer.max_epochs=2",
    "sampling.batch_size=8",
    "num_workers=0",
)


class Here(Place):
    """A place for calls in this process; ``preprocessing=size16`` and ``size32`` are there."""

    @classmethod
    def below(cls, folder: Path) -> Here:
        """Empty roots in ``folder``, which also becomes the temporary folder."""
        configs = folder / "configs" / "preprocessing"
        configs.mkdir(parents=True)
        for size in (16, 32):
            step = f"- name: Resize\n  height: {size}\n  width: {size}\n"
            (configs / f"size{size}.yaml").write_text(f"id: size{size}\npipeline:\n{step}")
        return cls(folder / "data", folder / "results")

    @property
    def folder(self) -> Path:
        return self.data.parent

    def environment(self, **extra: str) -> dict[str, str]:
        """That of a fresh user with these configurations."""
        return super().environment(MML_CONFIGS_PATH=str(self.folder / "configs"), TMPDIR=str(self.folder), **extra)

    def main(self, *arguments: str) -> int:
        """The exit code of a call in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            return cli.main(arguments)

    def run(self, *arguments: str) -> None:
        """To a good end."""
        assert self.main(*arguments) == 0, arguments

    def module(self, task: str, *arguments: str, fold: int = 0) -> Any:
        """The data module of a task, as a command gets it."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            patch.setattr(components, "command_seed", lambda: 7)
            scheduler = build_scheduler(compose_run(["info", f"task_list=[{task}]", INLINE, *arguments]).cfg)
            return scheduler.create_datamodule(scheduler.get_struct(task), fold)

    @property
    def root(self) -> DataRoot:
        return DataRoot(self.data)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    """Empty roots of this test's own."""
    return Here.below(tmp_path)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """All tasks of the three archives, made by ``create``. Tests add variants and stored images, and change nothing."""
    for archive in (MEDNIST, NUCLEI, BCCD):
        if not archive.exists():
            pytest.skip(f"the shared test data are not here: {archive}")
    place = Here.below(tmp_path_factory.mktemp("archives"))
    for option, archive in {"mednist6": MEDNIST, "nuclei": NUCLEI, "bccd": BCCD}.items():
        place.run("create", f"tasks={option}", f"source.path={archive}", INLINE)
    return place


def pictures(folder: Path, *, classes: str = "ab", number: int = 12, size: tuple[int, int] = (40, 50)) -> Path:
    """``folder/<class>/<n>.png``: noise, brighter in later classes."""
    for place, name in enumerate(classes):
        for index in range(number):
            path = folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(1000 * place + index).integers(0, 100, (*size, 3), dtype=np.uint8)
            assert cv2.imwrite(str(path), noise + np.uint8(100 * place))
    return folder


def own(folder: Path, *arguments: str) -> tuple[str, ...]:
    """The arguments that make the task ``own`` out of a folder."""
    return ("create", "tasks=from_folder", "source.name=own", f"source.path={folder}", "mode.n_folds=3", INLINE, *arguments)


# -- from the archives to batches ------------------------------------------------------------------------------------------
AS_IT_IS = ("preprocessing=none", "augmentations=none", "sampling.batch_size=64", "num_workers=0")
READY = {
    "mednist6": ((3, 64, 64), torch.int64, ()),
    "bccd_tiles": ((3, 160, 160), torch.float32, (3,)),
    "bccd_tiles_soft": ((3, 160, 160), torch.float32, (3,)),
    "bccd_count": ((3, 32, 32), torch.float32, (1,)),
}


@pytest.mark.parametrize("task", list(READY))
def test_a_nested_task_of_an_archive_gives_an_epoch_of_batches(archives: Here, task: str) -> None:
    image, dtype, target = READY[task]
    name = f"{task}+nested?1"
    module = archives.module(name, *AS_IT_IS, *(["preprocessing=size32"] if task == "bccd_count" else []), fold=2)
    description = archives.root.description(name)
    base = archives.root.description(task)
    seen: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for phase, loader in (
        ("train", module.train_dataloader()), ("val", module.val_dataloader()), ("test", module.test_dataloader())
    ):  # fmt: skip
        for batch in loader:
            fields, size = batch[name], len(batch[name]["sample_id"])
            assert fields["image"].shape == (size, *image) and fields["image"].dtype == torch.float32
            assert fields["targets"].shape == (size, *target) and fields["targets"].dtype == dtype
            assert fields["dataset_name"] == name and fields["dataset_type"] == phase
            assert bool(torch.isfinite(fields["image"]).all())
            seen[phase] += fields["sample_id"]
    assert sorted(seen["train"]) == sorted(description.sample_ids(DataSplit.TRAIN, 2))
    assert seen["val"] == description.sample_ids(DataSplit.VAL, 2)
    assert sorted(seen["test"]) == sorted(base.sample_ids(DataSplit.VAL, 1)), "tested on the fold that was set aside"
    assert not set(base.test_samples) & {*seen["train"], *seen["val"], *seen["test"]}
    groups = [sample.get("group") for sample in description.train_samples.values()]
    if task.startswith("bccd_tiles"):
        assert all(group is not None for group in groups)
        of = dict(zip(description.train_samples, groups, strict=True))
        assert not {of[name] for name in seen["train"]} & {of[name] for name in seen["val"]}


def test_targets_of_the_archives_mean_what_they_should(archives: Here) -> None:
    batches = {
        task: next(iter(archives.module(task, *AS_IT_IS, "sampling.batch_size=40").val_dataloader()))[task] for task in READY
    }
    assert 0 <= int(batches["mednist6"]["targets"].min()) and int(batches["mednist6"]["targets"].max()) <= 5
    assert set(batches["bccd_tiles"]["targets"].unique().tolist()) <= {0.0, 1.0}
    soft = batches["bccd_tiles_soft"]["targets"]
    assert float(soft.min()) >= 0 and float(soft.max()) <= 1 and not set(soft.unique().tolist()) <= {0.0, 1.0}
    assert float(batches["bccd_count"]["targets"].max()) > 10


def test_masks_of_an_archive_survive_pp_and_batches_stay_the_same(archives: Here, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ("preprocessing=size224", "augmentations=basic", "sampling.batch_size=20", "num_workers=0")

    def batches() -> list[dict[str, Any]]:
        module = archives.module("nuclei+nested?0", *wanted, fold=1)
        train = [batch["nuclei+nested?0"] for batch, _ in zip(module.train_dataloader(), range(2), strict=False)]
        return [*train, *(batch["nuclei+nested?0"] for batch in module.val_dataloader())]

    on_the_fly = batches()
    assert on_the_fly[0]["image"].shape == (20, 3, 224, 224) and on_the_fly[0]["targets"].shape == (20, 224, 224)
    assert on_the_fly[0]["targets"].dtype == torch.int64 and on_the_fly[0]["image"].dtype == torch.float32
    archives.run("pp", "task_list=[nuclei+nested?0]", "preprocessing=size224", INLINE)
    assert "nuclei" in capsys.readouterr().out
    made: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskDataset, "made", lambda dataset, index: made.append(index))
        stored = batches()
    assert made == [], "nothing is decoded any more"
    for before, after in zip(on_the_fly, stored, strict=True):
        assert before["sample_id"] == after["sample_id"]
        assert torch.equal(before["image"], after["image"]) and torch.equal(before["targets"], after["targets"])
        assert set(after["targets"].unique().tolist()) <= {0, 1, 255}


# -- masks and augmentations -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """Segmentation with the raw values 0, 100 and 200. Each mask lacks one of them, so that a mean of two others is a new label."""
    place = Here.below(tmp_path_factory.mktemp("shapes"))
    source = place.folder / "source"
    for number in range(9):
        rows, columns = np.mgrid[0:240, 0:260]
        values = [(0, 200), (0, 100), (100, 200)][number % 3]
        mask = np.where(((rows // 17 + columns // 23 + number) % 2).astype(bool), *values).astype(np.uint8)
        image = np.stack([mask, np.full_like(mask, 20 * number), mask[::-1]], axis=-1)
        for kind, pixels in (("images", image), ("masks", mask)):
            path = source / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
    classes = "source.classes={0:sky,100:sea,200:sand}"
    place.run("create", "tasks=from_folder", "source.name=shapes", f"source.path={source}", classes, "mode.n_folds=3", INLINE)
    for size in (256, 512):
        place.run("pp", "task_list=[shapes]", f"preprocessing=size{size}", INLINE)
    return place


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIGS / "augmentations").glob("*.yaml")))
def test_no_augmentation_invents_a_label(shapes: Here, option: str, request: pytest.FixtureRequest) -> None:
    if option == "v2":
        request.getfixturevalue("torchvision")
    size = 512 if "512" in option else 256
    arguments = (f"augmentations={option}", f"preprocessing=size{size}", "sampling.batch_size=3", "num_workers=0")
    loader = shapes.module("shapes", *arguments).train_dataloader()
    allowed = {f"{number}.png": {0: {0, 2}, 1: {0, 1}, 2: {1, 2}}[number % 3] for number in range(9)}
    seen: set[int] = set()
    for _ in range(6):
        for batch in loader:
            fields = batch["shapes"]
            assert fields["image"].shape[2:] == fields["targets"].shape[1:] and fields["targets"].dtype == torch.int64
            for sample_id, target in zip(fields["sample_id"], fields["targets"], strict=True):
                found = set(target.unique().tolist())
                assert found <= allowed[sample_id] | {255}, sample_id
                seen |= found
    assert {0, 1, 2} <= seen


# -- trainings on stored and on cached images --------------------------------------------------------------------------------
def tensors(project: Path) -> dict[str, Any]:
    """What a training computed: its weights and predictions, by file."""
    weights = {
        path.name: {key: value.tolist() for key, value in load_weights(path)[1].items()}
        for path in project.glob("PARAMETERS/*/*.safetensors")
    }
    predictions = {
        f"{path.parent.name}/{path.name}": pq.read_table(path).to_pylist() for path in project.glob("PREDICTIONS/*/*.parquet")
    }
    assert weights and predictions
    return {**weights, **predictions}


TRAIN = ("train", "task_list=[own]", "pivot.name=own", "preprocessing=size32", "augmentations=basic", *TINY)
WHOLE = ("mode.subroutines=[train,predict]", "mode.nested=false")


def test_stored_and_cached_images_change_no_result(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    before = TaskDataset.made

    def counted(dataset: TaskDataset, index: int) -> Any:
        decoded.append(dataset.sample_ids[index])
        return before(dataset, index)

    monkeypatch.setattr(TaskDataset, "made", counted)
    here.run(*own(pictures(here.folder / "pets")))
    here.run(*TRAIN, *WHOLE, "mode.cv=false", "proj=plain")
    on_the_fly, expected = len(decoded), tensors(here.results / "plain")
    decoded.clear()
    here.run(*TRAIN, *WHOLE, "mode.cv=false", "proj=cached", "sampling.cache=auto")
    assert sorted(decoded) == sorted(set(decoded)) and len(decoded) == 24 < on_the_fly, "each image is decoded once"
    assert tensors(here.results / "cached") == expected
    (store,) = here.folder.glob("mml_ray_cache_*/*")
    assert list(store.glob("part-*.arrow"))
    decoded.clear()
    here.run("pp", "task_list=[own]", "preprocessing=size32", INLINE)
    assert len(decoded) == 24
    decoded.clear()
    here.run(*TRAIN, *WHOLE, "mode.cv=false", "proj=stored", "sampling.cache=auto")
    assert decoded == [] and tensors(here.results / "stored") == expected


@pytest.mark.ray
def test_folds_side_by_side_share_the_cache_of_their_node(here: Here) -> None:
    here.run(*own(pictures(here.folder / "pets"), "mode.n_folds=2"))
    here.run(*TRAIN, *WHOLE, "proj=plain")
    arguments = (*TRAIN, *WHOLE, "proj=side_by_side", "sampling.cache=auto", "sys.executor=ray", "sys.num_cpus=2")
    code, output = here.call(*arguments)
    assert code == 0 and "cache" not in output, output
    assert tensors(here.results / "side_by_side") == tensors(here.results / "plain")
    (store,) = here.folder.glob("mml_ray_cache_*/*")
    assert list(store.glob("part-*.arrow"))


# -- pp ----------------------------------------------------------------------------------------------------------------------
PP = ("pp", "task_list=[own]", "preprocessing=size32", INLINE)


def _refused(here: Here, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], *said: str) -> None:
    capsys.readouterr()
    assert here.main(*arguments) == 2, arguments
    message = capsys.readouterr().err
    assert all(text in message for text in said) and "Traceback" not in message, message


def test_what_an_id_stands_for_is_minded_before_anything_starts(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.run(*own(pictures(here.folder / "pets")))
    _refused(here, ("pp", "task_list=[own]", "preprocessing=none", INLINE), capsys, "preprocessing=size224")
    _refused(here, (*TRAIN, "preprocessing=size33"), capsys, "'size33'", "size32")
    here.run(*PP)
    changed = "preprocessing.pipeline.0.height=30"
    for arguments in ((*PP, changed), (*TRAIN, changed, "proj=never")):
        _refused(here, arguments, capsys, "Resize(height=32, width=32)", "Resize(height=30, width=32)", "_definition.yaml")
    assert not (here.results / "never" / "runs").exists()
    _refused(here, (*TRAIN, "loaders=pillow", "proj=other"), capsys)  # refused by the command that opens the arrays
    assert "made with loaders" in next(here.results.glob("other/runs/*/*/logs/train_fold*.log")).read_text()
    here.run("info", "task_list=[own]", "preprocessing=size32", changed, "mode.subroutines=[tasks]")
    shutil.rmtree(here.data / "PREPROCESSED" / "size32" / "DSET_own")
    here.run(*PP, changed)
    assert "height: 30" in (here.data / "PREPROCESSED" / "size32" / "_definition.yaml").read_text()


def test_pp_repeated_killed_or_after_a_new_creation(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(here.folder / "pets")
    here.run(*own(source))
    here.run(*PP)
    described = here.root.description_path("own", "size32")
    stored, raw = here.root.header("own", "size32"), here.root.header("own")
    assert (stored.sizes.max_height, raw.sizes.max_height, raw.sizes.max_width) == (32, 40, 50)
    assert stored.means != raw.means and abs(stored.means.r - raw.means.r) < 0.01
    first = described.stat().st_mtime_ns
    here.run(*PP)
    assert re.search(r"own +0 +24 ", capsys.readouterr().out) and described.stat().st_mtime_ns == first
    described.unlink()  # as a kill between the arrays and their description leaves it
    assert "size32" not in here.root.index()["own"]
    here.run(*PP)
    assert re.search(r"own +0 +24 ", capsys.readouterr().out) and described.exists()
    raw_path = here.root.description_path("own")
    raw_path.unlink()
    here.run(*own(source, "mode.n_folds=4"))
    os.utime(raw_path)
    _refused(here, (*TRAIN, "proj=old"), capsys, "recreated after it was preprocessed", "mml-ray pp task_list=[own]")
    here.run(*PP)
    assert here.root.description("own", "size32").n_folds == 4
    shutil.rmtree(here.data / "RAW")
    here.run(*TRAIN, "mode.cv=false", "mode.nested=false", "trainer.max_epochs=1")
    here.run("--plan", *TRAIN, "mode.cv=true", "mode.nested=false")
    for mode in ("info", "clean"):
        here.run(mode, "task_list=[own]", "preprocessing=size32", INLINE)
    assert re.search(r"own +classification +2 +24 +4 +32x32 .* not checked", capsys.readouterr().out)
    _refused(here, PP, capsys, "only stored preprocessed (size32)")


def test_no_task_is_no_work_that_has_been_done(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    _refused(here, ("pp", "preprocessing=size32", INLINE), capsys, "There is no task to preprocess")


def test_pp_takes_the_pivot_alone_and_the_bases_of_tags(archives: Here, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ("--plan", "pp", "tasks=bccd", "preprocessing=size32", "sys.executor=auto")
    assert archives.main(*plan) == 0
    text = capsys.readouterr().out
    assert "Only the pivot bccd_tiles" in text and "preprocess" in text and "1 command(s)" in text
    assert archives.main(*plan, "pivot.name=false", "tagging.all=+nested?0") == 0
    text = capsys.readouterr().out
    assert "Tagged tasks use" in text and "3 command(s) to run, up to 1 side by side" in text, "one dataset, one after the other"


# -- create --------------------------------------------------------------------------------------------------------------------
def test_datasets_are_made_side_by_side_and_tasks_wait_for_their_own(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "task_list=[digits,mml_fake_task,digits+nested?0]"
    assert here.main("--plan=json", "create", tasks, "tasks=none") == 0
    commands = {item["key"]: item for item in json.loads(capsys.readouterr().out)["commands"]}
    needs = {(item["name"], *item["params"]): [commands[key]["params"] for key in item["needs"]] for item in commands.values()}
    digits, fake = ("create_dataset", "digits"), ("create_dataset", "mml_fake_dataset")
    assert needs[digits] == needs[fake] == [] and len(commands) == 4
    assert needs["create_task", "digits"] == [["digits"]] and needs["create_task", "mml_fake_task"] == [["mml_fake_dataset"]]


def test_copies_across_splits_are_told_shown_and_refused(here: Here) -> None:
    source = here.folder / "pets"
    pictures(source / "train", number=6), pictures(source / "test", number=2, size=(40, 44))
    shutil.copy(source / "train" / "a" / "0.png", source / "test" / "b" / "9.png")
    code, output = here.call(*own(source, "mode.forbid_leakage=true"))
    assert code == 2 and "Traceback" not in output, output
    assert re.search(r"Task 'own' leaks: 1 image\(s\) occur in several splits.*a/0 = test/b/9", output)
    code, output = here.call(*own(source))
    told = [line for line in output.splitlines() if "occur in several" in line]
    assert code == 0 and len(told) == 1 and told[0].startswith("warning: Task 'own': 1 image(s)"), output
    code, output = here.call("info", "mode.subroutines=[tasks]")
    assert re.search(r"own +classification .* 1 images\n", output) and "a/0 = test/b/9" in output, output


def _many(folder: Path, number: int = 1500) -> Path:
    """An archive of small images in two classes, which takes a while to unpack."""
    path = folder / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(number):
            noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            archive.writestr(f"{'ab'[index % 2]}/{index}.png", cv2.imencode(".png", noise)[1].tobytes())
    return path


def test_a_creation_killed_while_it_unpacks_is_done_again(here: Here) -> None:
    source = _many(here.folder)
    process = here.start(*own(source))
    folder = here.data / "RAW" / "DSET_own"
    wait_for(lambda: (folder / "wip.txt").exists() and any(folder.glob("*/a/*")), what="the first image")
    kill(process)
    assert process.stdout is not None
    process.stdout.close()
    assert (folder / "wip.txt").exists() and here.root.index() == {}
    code, output = here.call("create", "continue=latest")
    assert code == 0 and "left unfinished by an earlier run" in output, output
    assert here.root.counts("own") == (1500, 3) and not (folder / "wip.txt").exists()
    assert set(commits(here.run_dir("default")).values()) == {1}


@pytest.mark.parametrize("place", ["worker.after_command=kill@2", "worker.before_command=kill@3", "worker.after_command=kill@3"])
def test_a_creation_killed_between_its_steps_is_continued_and_repeated(here: Here, place: str) -> None:
    arguments = own(pictures(here.folder / "pets"))
    code, output = here.call(*arguments, MML_RAY_FAILPOINTS=place)
    assert code == -signal.SIGKILL, output
    done = len(commits(here.run_dir("default")))
    code, output = here.call("create", "continue=latest")
    assert code == 0, output
    assert len(commits(here.run_dir("default"))) == 4 > done
    code, output = here.call(*arguments)
    assert code == 0 and "own" in output and "already exists" in output, output
    assert here.root.counts("own") == (24, 3)


def test_a_password_is_written_nowhere(here: Here) -> None:
    entries = {
        str(path.relative_to(here.folder / "pets")): path.read_bytes()
        for path in pictures(here.folder / "pets", number=4).rglob("*.png")
    }
    secret = "xK9-very-secret"
    archive = encrypted_zip(here.folder / "pets.zip", entries, secret.encode())
    arguments = own(archive, "mode.ensure_balancing=false")
    code, output = here.call(*arguments, "source.password=wrong-one")
    assert code == 2 and "password is wrong" in output and "wrong-one" not in output, output
    code, output = here.call(*arguments, f"source.password={secret}", MML_RAY_FAILPOINTS="worker.before_command=kill@2")
    assert code == -signal.SIGKILL, output
    code, output = here.call("create", "continue=latest")
    assert code == 2 and "encrypted, and no password was given" in output, output
    code, output = here.call("create", "continue=latest", MML_SOURCE_PASSWORD=secret)
    assert code == 0 and here.root.counts("own") == (8, 3), output
    shutil.rmtree(here.data)
    code, output = here.call(*arguments, f"source.password={secret}", MML_RAY_FAILPOINTS="worker.before_command=kill@2")
    code, output = here.call("create", "continue=latest", f"+source.password={secret}")
    assert code == 0 and here.root.counts("own") == (8, 3), output
    written = [path for path in here.results.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert written == [] and "MML_SOURCE_PASSWORD" in (here.run_dir("default") / "config.yaml").read_text()


def test_progress_of_a_creation_reaches_the_run(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_ray.schedulers import reporting
    from mml_ray.store.run.store import RunStore

    told: list[dict[str, Any]] = []
    before = RunStore.report

    def noted(store: RunStore, attempt: Any, progress: Any) -> Any:
        told.append(dict(progress))
        return before(store, attempt, progress)

    monkeypatch.setattr(RunStore, "report", noted)
    monkeypatch.setattr(reporting, "_SECONDS", 0.0)
    here.run(*own(pictures(here.folder / "pets")))
    here.run(*PP)
    assert {"step": 24, "steps": 24, "text": "samples"} in told and {"step": 24, "steps": 24, "text": "images"} in told


# -- clean ---------------------------------------------------------------------------------------------------------------------
def _litter(place: Place) -> list[Path]:
    """A download, an unfinished dataset, stored images without an end, and temporary descriptions."""
    raw, stored = place.data / "RAW", place.data / "PREPROCESSED" / "size32" / "DSET_other"
    made = {
        place.data / "DOWNLOADS" / "own" / "a.zip": b"x" * 3_000_000,
        raw / "DSET_half" / "wip.txt": b"x",
        stored / "arrays" / "store.json": b"{}",
        raw / "DSET_own" / "temp1.json": b"no description",
        raw / "DSET_own" / "temp2.json": (raw / "DSET_own" / "TASK_own.json").read_bytes(),
    }
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(made)


def _clean(place: Place, *arguments: str, answers: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mml_ray", "clean", *arguments],
        input=answers,
        env=place.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GUARD,
    )
    return done.returncode, done.stdout


def test_clean_shows_sizes_asks_and_deletes_what_it_was_told(here: Here) -> None:
    here.run(*own(pictures(here.folder / "pets")))
    download, half, stored, unreadable, temporary = _litter(here)
    code, output = _clean(here, "task_list=[own]", "mode.subroutines=[download]")  # nobody is there to answer
    assert code == 2 and download.exists() and "mode.force=true" in output, output
    code, output = _clean(here, "task_list=[own]", answers="nonsense\n")
    assert code == 2 and "'nonsense' is neither yes nor no" in output and output.count("Delete?") == 1, output
    assert download.exists() and temporary.exists() and unreadable.exists()
    code, output = _clean(here, "task_list=[own+nested?0]", answers="n\n\ny\n")
    assert code == 0 and re.search(r"downloads of dataset own +1 +2\.9", output) and "Freed 2.9 MiB" in output, output
    assert output.index("Can be deleted") < output.index("Delete?")
    assert temporary.exists() and not unreadable.exists() and not download.exists() and half.exists() and stored.exists()
    code, output = _clean(here, "mode.all=true", "mode.force=true")
    assert code == 0 and "Delete?" not in output, output
    assert not temporary.exists() and not half.parent.exists() and not stored.parents[1].exists()
    assert here.root.counts("own") == (24, 3)


def test_clean_leaves_alone_what_is_being_made(here: Here) -> None:
    here.run(*own(pictures(here.folder / "pets")))
    download, half, *_ = _litter(here)
    with here.root.locked("DSET_half"), here.root.locked("DSET_own"):
        code, output = _clean(here, "mode.all=true", "mode.force=true")
    assert code == 0 and "Dataset half is being created right now" in output, output
    assert half.exists() and download.exists()


def test_clean_deletes_what_the_node_has_cached(here: Here) -> None:
    raw, base = here.data / "RAW" / "DSET_own", here.folder / f"mml_ray_cache_{os.getuid()}"
    for name, files in (("mine", raw), ("gone", raw.with_name("DSET_gone")), ("elsewhere", here.folder / "RAW" / "DSET_own")):
        (base / name).mkdir(parents=True)
        (base / name / "store.json").write_text(json.dumps({"definition": {"root": str(files)}}))
        (base / name / "writer.lock").touch()
        (base / name / "part-1.arrow").write_bytes(b"x" * 3_000_000)
    ask = ("clean", INLINE, "mode.all=true", "mode.force=true")
    here.run(*ask)  # caches have to be asked for
    assert len(list(base.iterdir())) == 3
    claim = Claim(base / "mine")
    assert claim.acquire()
    here.run(*ask, "mode.subroutines=[cache]")
    assert {path.name for path in base.iterdir()} == {"mine", "elsewhere"}  # the one is being filled, the other of another root
    claim.release()
    here.run(*ask, "mode.subroutines=[cache]")
    assert [path.name for path in base.iterdir()] == ["elsewhere"]


# -- a data root of the reference ------------------------------------------------------------------------------------------------
def _content(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_data_root_of_the_reference_is_trained_on_unchanged(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(REFERENCE, here.data)
    before = _content(here.data)
    small = (*TINY, "trainer.max_epochs=1", "mode.cv=false", "augmentations=none", "mode.subroutines=[train,predict]")
    for task, preprocessing, nested in (
        ("ref_blobs", "none", True),
        ("ref_blobs", "size16", False),
        ("ref_kinds", "size32", False),
        ("ref_soft", "size32", False),
        ("ref_count", "size32", False),
    ):
        here.run(
            "train", f"task_list=[{task}]", f"pivot.name={task}", f"preprocessing={preprocessing}", f"mode.nested={nested}", *small
        )  # fmt: skip
    here.run("train", "task_list=[ref_cells]", "pivot.name=ref_cells", "preprocessing=size32", "arch.name=basic_unet", *small)
    after = _content(here.data)
    assert {name: after.get(name) for name in before} == before
    capsys.readouterr()
    here.run("pp", "task_list=[ref_blobs]", "preprocessing=size16", INLINE)
    assert "as image files" in capsys.readouterr().out
    description = TaskDescription.load(here.data / "PREPROCESSED/size16/DSET_ref_blobs/TASK_ref_blobs.json")
    module = here.module("ref_blobs", "preprocessing=size16", *AS_IT_IS[1:])
    batch = next(iter(module.val_dataloader()))["ref_blobs"]
    assert batch["image"].shape[1:] == (3, 16, 16) and batch["sample_id"] == description.sample_ids(DataSplit.VAL, 0)
    changed = ("preprocessing=size16", "preprocessing.pipeline.0.height=17")
    _refused(
        here, ("train", "task_list=[ref_blobs]", "pivot.name=ref_blobs", *changed, *small), capsys, "Resize(height=17, width=16)"
    )


# -- the documentation -----------------------------------------------------------------------------------------------------------
def test_the_page_on_data_can_be_followed(
    here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (CONFIGS.parent / "docs" / "data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(here.folder)
    pictures(Path("scans"))
    rows = [f"scans/{name}/{index}.png,{name},{index}" for name in "ab" for index in range(12)]
    Path("cells.csv").write_text("\n".join(["image,class,nuclei", *rows]))
    commands = [
        shlex.split(line) for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S) for line in block.splitlines()
    ]  # fmt: skip
    assert len(commands) == 9 and all(command[0] == "mml-ray" for command in commands)
    short = (*TINY, "trainer.max_epochs=1", "mode.cv=false")
    try:
        exec(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0], {})
        for command in commands:
            here.run(*command[1:], *(short if command[1] == "train" else (INLINE,)))
    finally:
        registry.remove("dset_creator", "my_scans")
        registry.remove("task_creator", "my_task")
    tasks = {name: here.root.header(name).task_type.value for name in here.root.index() if "+" not in name}
    assert tasks == {"scans": "classification", "cells": "classification", "counts": "regression", "my_task": "classification"}
    assert here.root.index()["scans"].keys() == {"none", "size224"}
