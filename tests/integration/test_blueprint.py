"""A blueprint (``mode.use_blueprint``) of the pivot counts for the tasks that are nested out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mml_ray import cli


def test_a_nested_training_takes_the_blueprint_of_its_pivot(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results/plan/BLUEPRINTS/digits"
    folder.mkdir(parents=True)
    (folder / "blueprint_0001.yaml").write_text("optimizer: {name: sgd, lr: 0.05, momentum: 0.9}\n")
    places = [f"data_dir={digits}", f"out_dir={tmp_path / 'results'}", "sys.executor=inline", "num_workers=0"]
    short = ["trainer.max_epochs=1", "mode.cv=false", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1"]
    train = ["train", "tasks=digits", "mode.use_blueprint=true", "mode.pipeline_keys=[optimizer]", *short, *places]
    assert cli.main([*train, "reuse.blueprint=plan", "proj=built"]) == 0
    (stored,) = (tmp_path / "results/built/PIPELINES").glob("*/*.yaml")
    assert stored.parent.name == "digits+nested?0"
    content = yaml.safe_load(stored.read_text())
    assert list(content) == ["optimizer"], "mode.pipeline_keys says what is kept"
    assert content["optimizer"]["name"] == "sgd"

    capsys.readouterr()
    assert cli.main([*train, "proj=none"]) == 2
    assert "task 'digits' has no blueprint. Load one with reuse.blueprint=<project>" in capsys.readouterr().err
    assert not list((tmp_path / "results/none").rglob("journal.jsonl")), "found before anything started"


def test_a_blueprint_that_was_made_with_another_preprocessing_is_told(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results/plan/BLUEPRINTS/digits"
    folder.mkdir(parents=True)
    (folder / "blueprint_0001.yaml").write_text("preprocessing: {id: size224, pipeline: []}\noptimizer: {name: sgd}\n")
    plan = ["--plan", "train", "tasks=digits", "mode.use_blueprint=true", "reuse.blueprint=plan", "sys.executor=inline"]
    places = [f"data_dir={digits}", f"out_dir={tmp_path / 'results'}"]
    said = "was made with preprocessing=size224, but does not set it: this run uses none"
    assert cli.main([*plan, *places]) == 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert cli.main([*plan, *places, "preprocessing=size224"]) == 0
    assert "preprocessing=" not in capsys.readouterr().err
