"""The main job from end to end on real images: inline and on Ray, killed and continued."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import time
from pathlib import Path

import pytest

from tests.integration.harness import QUICK, Place, commits, family, files, journal, kill, survivors, wait_for
from tests.patience import GUARD, promised

SMALL = ("arch.params={block_inplanes:[8,8,16,16]}", "sampling.batch_size=64")
TRAIN = ("train", "tasks=digits", "tagging.all=false", *QUICK, *SMALL, "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A data root with the digits, and the undisturbed inline run in project ``inline``."""
    root = tmp_path_factory.mktemp("first_run")
    place = Place(root / "data", root / "results")
    code, output = place.call("create", "tasks=digits", "mode.n_folds=3")
    assert code == 0, output
    code, output = place.call(*TRAIN, "proj=inline", "sys.executor=inline")
    assert code == 0, output
    return place


def _same_as_inline(place: Place, project: str) -> None:
    expected, found = files(place.results / "inline"), files(place.results / project)
    assert sorted(found) == sorted(expected)
    different = [name for name in expected if expected[name] != found[name].replace(project, "inline")]
    pipelines = [name for name in different if name.startswith("PIPELINES")]  # they hold the project's name and the executor
    models = [name for name in different if name.startswith("MODELS")]  # they hold paths below the project
    assert set(different) <= {*pipelines, *models}, "weights and predictions must be equal bit for bit"
    for name in models:
        texts = [(place.results / proj / name).read_text().replace(f"{proj}/", "") for proj in ("inline", project)]
        one, other = (json.loads(text) for text in texts)
        for content in (one, other):
            content.pop("created"), content.pop("training_time")
            assert all(update.pop("run") for update in content.get("updates", []))
        assert one == other, name
    expected_commits = commits(place.run_dir("inline"))
    assert commits(place.run_dir(project)) == expected_commits
    assert set(expected_commits.values()) == {1}


def test_the_inline_run_leaves_one_commit_for_each_command_and_a_table(place: Place) -> None:
    names = [key.split("--")[0] for key in commits(place.run_dir("inline"))]
    assert {name: names.count(name) for name in set(names)} == {
        "prepare_exp": 1, "train_fold": 3, "predict_fold": 6, "test_task": 3, "finish_exp": 1,
    }  # fmt: skip
    assert not (place.run_dir("inline") / "CHECKPOINTS").exists()


def _training_of(run_dir: Path, number: int, epochs: int) -> bool:
    """Whether the training of this fold has written its checkpoint of at least ``epochs`` epochs and has not committed."""
    done = [key for key in (commits(run_dir) if (run_dir / "journal.jsonl").exists() else {}) if f"nested-{number}" in key]
    if done:
        raise AssertionError(f"fold {number} committed before it could be killed")
    folders = list((run_dir / "CHECKPOINTS").glob(f"train_fold--*nested-{number}*"))
    return any(_epochs(folder) >= epochs for folder in folders)


def _epochs(folder: Path) -> int:
    """Finished epochs of the newest checkpoint."""
    positions = [json.loads(path.read_text()) for path in sorted(folder.glob("checkpoint-*.json"))]
    return int(positions[-1]["epoch"]) if positions else 0


def test_kill_9_of_the_driver_while_a_fold_trains_then_continue(place: Place) -> None:
    process = place.start(*TRAIN, "proj=killed", "sys.executor=ray")
    wait_for(lambda: (place.results / "killed" / "runs").exists(), what="the run folder")
    run_dir = place.run_dir("killed")
    wait_for(lambda: _training_of(run_dir, 2, 1), what="fold 2 in its second epoch")
    everybody = family(process)
    kill(process)
    wait_for(lambda: not survivors(everybody), seconds=promised(10), what=f"all processes to end: {survivors(everybody)}")
    committed = commits(run_dir)
    assert 0 < len(committed) < 14
    code, output = place.call("train", "proj=killed", "continue=latest", "sys.executor=inline")
    assert code == 0, output
    again = [line for line in journal(run_dir) if line["op"] == "attempt_started" and line["attempt"] > 1]
    assert again and not {line["command"] for line in again} & (set(committed) - {"prepare_exp"})
    (log,) = (run_dir / "logs").glob("train_fold--*nested-2*.log")
    assert re.search(r"continues after epoch [1-3]", log.read_text())
    _same_as_inline(place, "killed")
    code, output = place.call("runs", "show", "killed", "--json")
    shown = json.loads(output)["commands"]
    assert {item["node"] for item in shown} == {platform.node()}
    code, output = place.call("runs", "show", "killed")
    assert "attempt 1 lost: its driver ended before it did" in output and "prepare_exp, attempt" not in output
    code, output = place.call("train", "proj=killed", "continue=latest")
    assert code == 0 and "nothing is left to do" in output


def test_kill_9_inside_an_epoch_then_continue_with_other_loader_workers(place: Place) -> None:
    one = [*TRAIN, "mode.cv=false", "mode.nested=false", "mode.subroutines=[train,predict]", "sampling.batch_size=32"]
    one += ["trainer.max_epochs=1", "augmentations=basic", "trainer.checkpoint_every_minutes=0.005", "sys.executor=inline"]
    code, output = place.call(*one, "proj=whole", "num_workers=0")
    assert code == 0, output
    process = place.start(*one, "proj=inside", "num_workers=1")
    wait_for(lambda: (place.results / "inside" / "runs").exists(), what="the run folder")
    run_dir = place.run_dir("inside")
    wait_for(lambda: _within(run_dir) > 3, what="a checkpoint inside an epoch")
    kill(process)
    assert _within(run_dir) > 3
    code, output = place.call("train", "proj=inside", "continue=latest", "num_workers=2")
    assert code == 0, output
    (log,) = (run_dir / "logs").glob("train_fold--*.log")
    assert re.search(r"continues after epoch \d, batch [1-9]", log.read_text())
    whole, inside = (files(place.results / project) for project in ("whole", "inside"))
    same = [name for name in whole if name.startswith(("PARAMETERS", "PREDICTIONS"))]
    assert len(same) > 1 and [name for name in same if inside.get(name) != whole[name]] == []
    metrics = [json.loads(_model(place, project).read_text())["metrics"] for project in ("whole", "inside")]
    assert metrics[0] and metrics[0] == metrics[1]


def _within(run_dir: Path) -> int:
    """Batches of the epoch that the newest checkpoint lies in."""
    return max([0, *(int(json.loads(path.read_text())["batch"]) for path in run_dir.glob("CHECKPOINTS/*/checkpoint-*.json"))])


def _model(place: Place, project: str) -> Path:
    (path,) = (place.results / project / "MODELS").rglob("*.json")
    return path


def test_on_ray_a_killed_worker_is_retried_from_its_checkpoint_and_the_files_are_the_same(place: Place) -> None:
    process = place.start(*TRAIN, "proj=ray", "sys.executor=ray")
    wait_for(lambda: (place.results / "ray" / "runs").exists(), what="the run folder")
    run_dir = place.run_dir("ray")
    wait_for(lambda: _training_of(run_dir, 2, 1), what="fold 2 in its second epoch")
    log = next((run_dir / "logs").glob("train_fold--*nested-2*.log"))
    pid = int(re.search(r"process (\d+)", log.read_text()).group(1))  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 0, output
    assert re.search(r"mean .*0\.\d+", output) and "deviation" in output
    failed = [line for line in journal(run_dir) if line["op"] == "attempt_failed"]
    assert [line["reason"] for line in failed] == ["lost"]
    _same_as_inline(place, "ray")


def test_a_second_driver_on_a_live_run_is_refused_and_told_who_holds_it(place: Place) -> None:
    process = place.start(*TRAIN, "proj=twice", "sys.executor=inline", "trainer.max_epochs=30")
    try:
        wait_for(lambda: (place.results / "twice" / "runs").exists(), what="the run folder")
        run_dir = place.run_dir("twice")
        wait_for(lambda: (run_dir / "journal.jsonl").exists() and len(journal(run_dir)) > 3, what="the first attempt")
        code, output = place.call("train", "proj=twice", "continue=latest")
        assert code == 2 and str(process.pid) in output and "Traceback" not in output, output
    finally:
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        output, _ = process.communicate(timeout=GUARD)
    assert process.returncode == 130, output
    assert time.monotonic() - began < promised(30)
    assert "continue" in output.lower()
