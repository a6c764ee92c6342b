"""Tab completion: what the last word may become, and the bash script that asks for it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mml_ray import cli
from mml_ray.console.completion import candidates
from tests.patience import GUARD


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("mml-ray ", {"train", "create", "runs", "continue="}, {"tasks=", "--help"}),
        ("mml-ray tr", {"train"}, {"create"}),
        ("mml-ray --", {"--help", "--version", "--plan", "--plan=json", "--debug"}, {"--complete"}),
        ("mml-ray train --pl", {"--plan", "--plan=json"}, {"--help"}),
        ("mml-ray --cfg ", {"job"}, {"train"}),
        ("mml-ray --install-completion ", {"bash", "zsh", "fish"}, set()),
        ("mml-ray -sc ", {"install=bash"}, set()),
        ("mml-ray train ", {"tasks=", "optimizer=", "optimizer.", "seed=", "mode.", "loss/cls="}, {"mode="}),
        ("mml-ray train opt", {"optimizer=", "optimizer."}, {"tasks="}),
        ("mml-ray train trainer.", {"trainer.max_epochs=", "trainer.precision="}, {"trainer="}),
        ("mml-ray train trainer.max_", {"trainer.max_epochs=", "trainer.max_time="}, {"trainer.min_epochs="}),
        ("mml-ray train resources.", {"resources.default."}, set()),
        ("mml-ray train optimizer=sgd optimizer.m", {"optimizer.momentum="}, {"optimizer.lr="}),
        ("mml-ray train +op", {"+optimizer=", "+optimizer."}, set()),
        ("mml-ray train optimizer=", {"optimizer=adam", "optimizer=sgd"}, set()),
        ("mml-ray train tasks=d", {"tasks=digits"}, {"tasks=fake"}),
        ("mml-ray train loss/seg=", {"loss/seg=dice", "loss/seg=ce"}, set()),
        ("mml-ray train callbacks=[ea", {"callbacks=[early"}, {"callbacks=[swa"}),
        ("mml-ray train callbacks=[early,s", {"callbacks=[early,swa", "callbacks=[early,stats"}, set()),
        ("mml-ray train sys.executor=", {"sys.executor=inline", "sys.executor=ray", "sys.executor=auto"}, set()),
        ("mml-ray train mode.cv=", {"mode.cv=true", "mode.cv=false"}, set()),
        ("mml-ray train mode.store_best=f", {"mode.store_best=false"}, {"mode.store_best=true"}),
        ("mml-ray train logging.cm=", {"logging.cm=true"}, set()),
        ("mml-ray train continue=", {"continue=latest"}, set()),
        ("mml-ray train arch.name=resnet", {"arch.name=resnet18", "arch.name=resnet_small"}, {"arch.name=basic_unet"}),
        ("mml-ray train mode.subroutines=", {"mode.subroutines=train", "mode.subroutines=test"}, set()),
        ("mml-ray create mode.subroutines=[dataset,t", {"mode.subroutines=[dataset,task"}, {"mode.subroutines=[dataset,dataset"}),
        ("mml-ray train seed='3 tr", {"trainer=", "trainer."}, set()),
        ("mml-ray runs ", {"list", "show", "verify"}, {"train"}),
        ("mml-ray train optimzer=sgd trainer.max_e", {"trainer.max_epochs="}, set()),
    ],
)
def test_candidates(line: str, wanted: set[str], unwanted: set[str]) -> None:
    got = set(candidates(line))
    assert wanted - got == set()
    assert got & unwanted == set()


@pytest.mark.parametrize(
    "line", ["mml-ray train source.path=", "mml-ray runs show ", "mml-ray train proj=", "mml-ray train nope.", ""]
)
def test_nothing_to_offer(line: str) -> None:
    assert candidates(line) == []


def test_projects_and_tasks_that_are_there_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tasks.builders import classification

    monkeypatch.setenv("MML_RESULTS_PATH", str(tmp_path / "results"))
    monkeypatch.setenv("MML_DATA_PATH", str(tmp_path / "data"))
    for name in ("first", "second"):
        (tmp_path / "results" / name).mkdir(parents=True)
    dataset = tmp_path / "data/RAW/DSET_dots"
    dataset.mkdir(parents=True)
    dataclasses.replace(classification(), name="dots").save(dataset / "TASK_dots.json")
    assert candidates("mml-ray predict reuse.models=") == ["reuse.models=first", "reuse.models=second"]
    assert candidates("mml-ray train proj=f") == ["proj=first"]
    assert candidates("mml-ray train pivot.name=d") == ["pivot.name=dots"]
    assert candidates("mml-ray train task_list=[dots,d") == ["task_list=[dots,dots"]


def test_bash_gets_what_is_behind_the_equals_sign() -> None:
    assert candidates("mml-ray train optimizer=", "bash") == ["adam", "sgd"]
    assert candidates("mml-ray train callbacks=[early,sw", "bash") == ["[early,swa"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_call_the_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--install-completion", shell]) == 0
    assert f"mml-ray --complete {shell}" in capsys.readouterr().out


def test_complete_prints_one_candidate_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--complete", "zsh", "mml-ray train tta="]) == 0
    assert capsys.readouterr().out.splitlines() == ["tta=crop", "tta=none", "tta=rotate"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "word", "replies"),
    [
        ("mml-ray tr", "tr", "train"),
        ("mml-ray train optimizer=s", "s", "sgd"),
        ("mml-ray train trainer.max_e", "x", "trainer.max_epochs="),
    ],
)
def test_in_bash(typed: str, word: str, replies: str, tmp_path: Path) -> None:
    """The function that bash calls fills COMPREPLY, through the real command."""
    command = tmp_path / "mml-ray"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mml_ray "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(mml-ray --install-completion bash)"; compopt() { :; }; '
        f"COMP_LINE='{typed}'; COMP_POINT=${{#COMP_LINE}}; _mml_ray; printf '%s\\n' \"${{COMPREPLY[@]}}\"; complete -p mml-ray"
    )
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=GUARD)
    *got, registered = done.stdout.splitlines()
    assert got == [replies], done.stderr
    assert "_mml_ray mml-ray" in registered
