"""What a user may get wrong: exit code 2, one clear message, no traceback, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_ray import cli
from mml_ray.driver.executor import RunSummary
from mml_ray.runs.session import Session
from tests.integration.harness import Place, commits, journal
from tests.patience import GUARD

LOOK = ("info", "sys.executor=inline", "mode.subroutines=[tasks]")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two empty roots."""
    return Place(tmp_path / "data", tmp_path / "results")


@pytest.fixture
def trained_on(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A data root with digits, and empty results; also for calls in this process."""
    place = Place(digits, tmp_path / "results")
    for name in ("DATA", "RESULTS"):
        monkeypatch.setenv(f"MML_{name}_PATH", str(getattr(place, name.lower())))
    monkeypatch.chdir(tmp_path)
    return place


def _pictures(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    for index in range(number):
        image = np.random.default_rng(index).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)


def _refused(code: int, output: str, *said: str) -> None:
    assert code == 2, output
    assert "Traceback" not in output, output
    for text in said:
        assert re.search(text, output), f"{text} not in: {output}"


# -- raw data ------------------------------------------------------------------------------------------------------------
def test_a_truncated_image_is_named_and_refused_or_skipped(place: Place, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        _pictures(tmp_path / "pets" / name, 10)
    broken = tmp_path / "pets" / "cat" / "7.png"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = ("create", "tasks=from_folder", f"source.path={tmp_path / 'pets'}", "source.name=pets")
    code, output = place.call(*arguments)
    _refused(code, output, r"cat/7\.png", "mode.on_broken=skip", "Its log: ")
    code, output = place.call(*arguments, "mode.on_broken=skip")
    assert code == 0 and re.search(r"cat/7\.png", output) and "is ready" in output, output
    code, output = place.call(*LOOK)
    assert re.search(r"pets +classification +2 +19 .*24x24", output), output


def test_a_class_with_fewer_samples_than_folds_is_named(place: Place, tmp_path: Path) -> None:
    _pictures(tmp_path / "pets" / "cat", 10)
    _pictures(tmp_path / "pets" / "axolotl", 3)
    arguments = ("create", "tasks=from_folder", f"source.path={tmp_path / 'pets'}", "source.name=pets")
    code, output = place.call(*arguments)
    _refused(code, output, r"axolotl.*: 3", "mode.n_folds", "mode.ensure_balancing=false")
    code, output = place.call(*arguments, "mode.n_folds=3")
    assert code == 0, output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "source.path is missing"),
        (("source.path=nowhere",), r"source\.path must be an existing file or folder, got .*nowhere"),
    ],
)
def test_raw_data_that_is_not_there_is_found_before_the_start(place: Place, given: tuple[str, ...], said: str) -> None:
    code, output = place.call("create", "tasks=from_folder", "source.name=pets", *given)
    _refused(code, output, said)
    assert not place.results.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("tasks=from_folder", "source.name=pets", "source.path=.", "data_dir=./mml_data"),
            "source.path must not contain .*/mml_data",
        ),
        (("tasks=from_folder", "source.name=pets+dogs", "source.path=."), r"source.name must not contain .*tags.*pets\+dogs"),
        ((), "There is no task to create. Choose some with tasks="),
    ],
)
def test_a_creation_that_makes_no_sense_is_refused(place: Place, arguments: tuple[str, ...], said: str) -> None:
    code, output = place.call("create", *arguments)
    _refused(code, output, said)
    assert not place.results.exists()


# -- places that cannot be written ---------------------------------------------------------------------------------------
@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root can write to."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    commands = (["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)], ["chattr", "+i", str(folder)])
    undo = (["umount", str(folder)], ["chattr", "-i", str(folder)])
    for command, back in zip(commands, undo, strict=True):
        if shutil.which(command[0]) and subprocess.run(command, capture_output=True).returncode == 0:
            yield folder
            subprocess.run(back, check=True)
            return
    pytest.skip("root here may neither mount nor make a folder immutable, so nothing is read-only for it")


def test_a_data_root_without_write_permission_is_named(place: Place, read_only: Path) -> None:
    code, output = place.call("create", "tasks=digits", f"data_dir={read_only}")
    _refused(code, output, re.escape(str(read_only)), "Read-only|not permitted|Permission denied", "MML_DATA_PATH")
    code, output = place.call(*LOOK, f"data_dir={read_only}")
    assert code == 0 and "No tasks" in output, "looking needs no permission to write"


def test_a_results_root_without_write_permission_is_named(place: Place, read_only: Path) -> None:
    code, output = place.call(*LOOK, f"out_dir={read_only}")
    _refused(code, output, re.escape(str(read_only)), "Read-only|not permitted|Permission denied")


def test_a_results_root_on_a_full_disk_is_named(place: Place, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(b"x" * 2**20)
        code, output = place.call(*LOOK, f"out_dir={disk}")
        _refused(code, output, re.escape(str(disk)), "No space left on device", "Free some space")
        (disk / "filler").unlink()
        code, output = place.call(*LOOK, f"out_dir={disk}", "sys.min_free_disk_gb=0")
        assert code == 0, output
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_further_is_an_error_that_names_it(place: Place) -> None:
    """As with a quota: the limit on the size of files is hit while the run writes."""
    process = subprocess.run(
        [sys.executable, "-m", "mml_ray", *LOOK],
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=GUARD,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    _refused(process.returncode, process.stdout + process.stderr, re.escape(str(place.results)), "File too large")


# -- settings that contradict one another, before anything starts -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train tasks=digits preprocessing=size225", r"'size225'.*size224"),
        ("train tasks=digits preprocessing.id=mine", r"id 'mine'.*name of the file"),
        ("train task_list=[digts] pivot.name=digts", r"Unknown task 'digts'.*digits"),
        ("train tasks=digits tagging.all=+nested pivot.tags=+nested?0", r"'nested' .*takes \(fold, new_folds=''\)"),
        ("train tasks=digits task_list=[digits,digits+nested?77]", r"'digits' cannot be nested on fold 77"),
        ("train tasks=digits tagging.variants=[+subset?3]", r"tag .subset.3.*share must be between 0 and 1"),
        ("train task_list=[digits]", r"There is no task to train.*pivot\.name"),
        ("train tasks=digits mode.subroutines=[]", r"mode\.subroutines is empty.*predict"),
        ("train tasks=digits mode.subroutines=[trian]", r"'trian'.*train"),
        ("train tasks=digits mode.store_parameters=false mode.subroutines=[train,predict]", r"store_parameters=false.*predict"),
        ("train tasks=digits mode.nested=false callbacks=early", r"'early'.*mode\.nested=true"),
        ("train tasks=digits mode.nested=false lr_scheduler=plateau", r"plateau.*mode\.nested=true"),
        ("train tasks=digits mode.multitask=3", r"mode\.multitask=3 needs 2 other"),
        ("train tasks=digits mode.multitask=2 mode.co_tasks=[dogits]", r"'dogits'.*digits"),
        ("train tasks=digits mode.task_weights=[1,2]", r"one weight for each task .*got \[1, 2\]"),
        ("train tasks=digits mode.eval_on=dogits", r"'dogits'.*digits"),
        ("train tasks=digits mode.task_weights=[-1]", r"must be non-negative and not all zero, got \[-1\]"),
        ("train tasks=digits mode.co_tasks=[digits]", r"trains the pivot alone. Set mode\.multitask"),
        ("train tasks=digits mode.pipeline_keys=[optmizer]", r"'optmizer'.*optimizer"),
        ("train tasks=digits task_list=[digits,digits+subclass?0?1] mode.eval_on=digits+subclass?0?1", r"10 classes.*2 classes"),
        (
            "train tasks=digits task_list=[digits,digits+subclass?0?1] mode.multitask=3 mode.co_tasks=[digits+subclass?0?1]",
            r"multitask=3 .*co_tasks names 1",
        ),
        ("train tasks=digits loss.class_weights=[1,2] loss.auto_activate_weighing=false", r"2 values.*'digits' has 10 classes"),
        ("train tasks=digits loss.cls=[]", r"loss\.cls is empty, but task 'digits' needs a loss"),
        ("train tasks=digits callbacks=early cbs.early.monitor=val/los", r"cbs\.early\.monitor 'val/los'.*val/loss"),
        ("train tasks=digits callbacks=early cbs.early.monitor=val/digits/accuracy", r"'val/digits/accuracy'.*val/loss"),
        ("train tasks=digits resources.train_fold.num_gpus=99", r"train_fold.*99 GPU.*no node can hold"),
        ("train tasks=digits resources.trainfold.num_cpus=1", r"'trainfold'.*train_fold"),
        ("train tasks=digits trainer.max_epochs=-3", r"trainer\.max_epochs must be an integer greater than 0, got -3"),
        ("train tasks=digits arch.name=resnet1888", r"'resnet1888'.*resnet18"),
        ("train tasks=digits optimizer.lrr=1", r"'optimizer\.lrr'.*optimizer\.lr"),
        ("predict tasks=digits", r"has no trained model.*reuse\.models"),
        ("predict tasks=digits reuse.models=nothing", r"Unknown project 'nothing'"),
        ("train tasks=digits continue=latest", r"has no run"),
        ("continue=2020-01-01/00-00-00-000000", r"has no run"),
        ("runs show nothing --results .", r"Unknown run 'nothing'"),
        ("runs list --results nowhere", r"does not exist"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_the_start(
    trained_on: Place, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    code = cli.main(arguments.split())
    captured = capsys.readouterr()
    _refused(code, captured.err, said)
    assert captured.err.count("mml-ray: error:") == 1
    assert not list(trained_on.results.rglob("journal.jsonl"))


def test_a_network_that_cannot_segment_is_found_before_the_start(place: Place, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        _pictures(tmp_path / "cells" / kind, 12)
    for mask in (tmp_path / "cells" / "masks").iterdir():
        cv2.imwrite(str(mask), np.eye(24, dtype=np.uint8) * 255)
    source = ("tasks=from_folder", f"source.path={tmp_path / 'cells'}", "source.name=cells")
    code, output = place.call("create", *source)
    assert code == 0, output
    code, output = place.call("train", *source, "--plan")
    _refused(code, output, "'cells' is of type semantic_segmentation", r"arch\.name=basic_unet")
    code, output = place.call("train", *source, "arch.name=basic_unet", "--plan")
    assert code == 0, output
    code, output = place.call("train", *source, "arch.name=basic_unet", "callbacks=mixup", "--plan")
    _refused(code, output, "cbs.mixup works for classification, .*'cells' is of type semantic_segmentation")


# -- a run that is continued ------------------------------------------------------------------------------------------------
@pytest.fixture
def looked(place: Place) -> Place:
    """A project ``look`` with one finished run."""
    code, output = place.call(*LOOK, "proj=look")
    assert code == 0, output
    return place


def _unfinish(run_dir: Path, *, torn: bytes = b"") -> None:
    """Cut the journal off after the first command's commit, as a kill would; ``torn``: what stands of the next line."""
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if json.loads(line).get("op") == "committed" and b"show_tasks" in line)
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[: last + 1]) + torn)


def test_a_torn_last_line_of_the_journal_is_forgiven(looked: Place) -> None:
    run_dir = looked.run_dir("look")
    _unfinish(run_dir, torn=b'{"crc":"0123abcd","seq":7,"op":"attempt_sta')
    code, output = looked.call("continue=latest", "proj=look")
    assert code == 0 and "committed already" in output, output
    assert set(commits(run_dir).values()) == {1}
    assert journal(run_dir)[-1]["op"] == "run_finished"


def test_a_torn_middle_line_is_a_clear_error_and_nothing_is_overwritten(looked: Place) -> None:
    path = looked.run_dir("look") / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:]]))
    before = path.read_bytes()
    code, output = looked.call("continue=latest", "proj=look")
    _refused(code, output, re.escape(f"{path}, line 3"), "Nothing was changed", "backup")
    assert path.read_bytes() == before
    code, output = looked.call("runs", "show", "look")
    _refused(code, output, "line 3", "broken")


def test_what_is_computed_cannot_be_changed_by_continuing(looked: Place) -> None:
    _unfinish(looked.run_dir("look"))
    code, output = looked.call("info", "proj=look", "continue=latest", "seed=7")
    _refused(code, output, r"seed=7 cannot be changed.*42", "resources")
    code, output = looked.call("info", "proj=look", "continue=2020-01-01/00-00-00-000000")
    _refused(code, output, "Unknown run", looked.run_dir("look").name, "continue=latest")


def test_latest_is_the_newest_run_of_the_mode_and_looking_does_not_count(looked: Place, tmp_path: Path) -> None:
    _pictures(tmp_path / "pets" / "cat", 4)
    _pictures(tmp_path / "pets" / "axolotl", 1)
    source = ("tasks=from_folder", f"source.path={tmp_path / 'pets'}", "source.name=pets")
    code, output = looked.call("create", *source, "proj=look", "mode.n_folds=2")
    assert code == 2, output
    created = looked.run_dir("look")
    code, output = looked.call(*LOOK, "proj=look")
    assert code == 0 and looked.run_dir("look") != created
    code, output = looked.call("continue=latest", "proj=look")
    assert code == 2 and str(created) in output and "axolotl" in output
    code, output = looked.call("info", "continue=latest", "proj=look")
    assert code == 0 and str(looked.run_dir("look")) in output and "nothing is left to do" in output
    code, output = looked.call("train", "continue=latest", "proj=look")
    _refused(code, output, "no run of mode train, only of: create, info")


@pytest.fixture
def stopped(trained_on: Place, capsys: pytest.CaptureFixture[str]) -> Place:
    """A project ``p`` with one run of mode ``train`` that was killed before its first command."""
    given = ["tasks=digits", "loss/reg=huber", "trainer.max_epochs=2", "tagging.all=+nested?0", "pivot.tags=+nested?0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_drive", lambda *_: RunSummary())
        assert cli.main(["train", *given, "proj=p", "sys.executor=inline"]) == 0
    capsys.readouterr()
    return trained_on


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train continue=latest tasks=fake", r"tasks=fake cannot be changed.*task_list"),
        ("continue=latest tasks=fake", r"tasks=fake cannot be changed.*task_list"),
        ("train continue=latest loss/reg=mse", r"loss/reg=mse cannot be changed.*loss\.reg=.*huber"),
        ("train continue=latest callbacks=early", r"callbacks=early cannot be changed.*cbs"),
        ("train continue=latest ~loss/reg", r"~loss/reg cannot be changed.*huber"),
        ("train continue=latest trainer.max_epochs=3", r"max_epochs=3 cannot be changed.*2"),
        ("test continue={run}", r"mode=test cannot be changed.*mode train"),
    ],
)
def test_a_group_or_a_mode_cannot_be_changed_by_continuing(
    stopped: Place, capsys: pytest.CaptureFixture[str], arguments: str, said: str
) -> None:
    run = stopped.run_dir("p")
    before = (run / "journal.jsonl").read_bytes()
    code = cli.main([*arguments.format(run="/".join(run.parts[-2:])).split(), "proj=p", "--plan"])
    _refused(code, capsys.readouterr().err, said)
    assert (run / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        "train continue={run}",
        "train continue=latest tasks=digits",  # although max_epochs, which it sets, was set to something else
        "train continue=latest tasks=digits loss/reg=huber trainer.max_epochs=2 tagging.all=+nested?0 pivot.tags=+nested?0",
        "continue=latest tasks=digits loss/reg=huber trainer.max_epochs=2",
        "train continue=latest sampling=full arch=monai callbacks=default",  # what it had without saying so
        "train continue=latest sys=debug logging/render=no_col resources.train_fold.num_cpus=1 num_workers=0",
    ],
)
def test_what_the_run_was_started_with_may_be_said_again(
    stopped: Place, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    run = "/".join(stopped.run_dir("p").parts[-2:])
    code = cli.main([*arguments.format(run=run).split(), "proj=p", "--plan"])
    captured = capsys.readouterr()
    assert code == 0 and "digits+nested?0" in captured.out, captured.err


@pytest.mark.parametrize("tags", ["all=+nested?0", "variants=[+identity,+nested?0]"])
def test_tags_are_appended_once_however_often_a_run_is_continued(
    trained_on: Place, capsys: pytest.CaptureFixture[str], tags: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_drive", lambda *_: RunSummary())
        assert cli.main([*LOOK, "task_list=[digits]", f"tagging.{tags}", "proj=p"]) == 0
    assert cli.main(["info", "continue=latest", f"tagging.{tags}", "proj=p"]) == 0
    output = capsys.readouterr().out
    assert "digits+nested?0 " in output and "nested?0+" not in output and "duplicate" not in output, output


# -- the plan of what is to run elsewhere ----------------------------------------------------------------------------------
def test_a_plan_for_a_cluster_is_not_judged_by_this_machine(trained_on: Place, capsys: pytest.CaptureFixture[str]) -> None:
    large = ["train", "tasks=digits", "resources.train_fold.num_gpus=99", "resources.train_fold.memory=90TiB", "--plan=json"]
    for elsewhere in (["sys.address=10.0.0.1:6379", "sys.executor=ray"], ["sys.address=10.0.0.1:6379"]):
        assert cli.main([*large, *elsewhere]) == 0
        plan = json.loads(capsys.readouterr().out)
        first = plan["commands"][0]
        assert first["asks"] == "auto CPU, 99 GPU, 92160.0 GiB"
        assert first["resources"]["num_cpus"] == "auto" and first["resources"]["num_gpus"] == 99
        assert "The cluster (10.0.0.1:6379) was not asked" in plan["estimate"] and "up to" not in plan["estimate"]
    assert cli.main(["train", "tasks=digits", "--plan", "sys.address=auto", "resources.train_fold.num_cpus=3"]) == 0
    assert "3 CPU, auto GPU" in capsys.readouterr().out
    assert cli.main([*large, "sys.address=10.0.0.1:6379", "sys.executor=inline"]) == 2
    assert "no node can hold" in capsys.readouterr().err
