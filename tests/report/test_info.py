"""``mml-ray info`` in a narrow terminal: no word is broken, and classes and models are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_ray import cli
from mml_ray.store.artifacts import ModelStorage


def test_tasks_and_models_fit_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    places = [f"data_dir={tmp_path / 'data'}", f"out_dir={tmp_path / 'results'}", "sys.executor=inline"]
    assert cli.main(["create", "tasks=fake", *places]) == 0
    folder = tmp_path / "results/default/MODELS/mml_fake_task"
    (tmp_path / "results/default/pipeline.yaml").write_text("arch: {}")
    folder.mkdir(parents=True)
    storage = ModelStorage(
        pipeline=tmp_path / "results/default/pipeline.yaml", performance=0.25, training_time=12.345, task="mml_fake_task", fold=3
    )
    storage.store(folder / "fold_3_0001.json", results_root=tmp_path / "results")
    capsys.readouterr()
    assert cli.main(["info", "tasks=fake", "mode.subroutines=[tasks,models]", *places]) == 0
    said = capsys.readouterr().out
    table = [line for line in said.splitlines() if line.startswith("  ")]
    assert max(map(len, table)) <= 80
    for word in ("mml_fake_task", "classification", "modalities", "preprocessed", "predictions", "weights", "12.3", "0.2500"):
        assert any(word in line.split() for line in table), f"{word} is broken or missing:\n{said}"
    assert "Classes of mml_fake_task: " in said
