"""Storages of models and ensembles, and pipelines: round trips, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.store.artifacts import EnsembleStorage, ModelStorage, PipelineCfg


def full(root: Path) -> ModelStorage:
    return ModelStorage(
        pipeline=root / "p/PIPELINES/t/pipeline_0001.yaml",
        parameters=root / "p/PARAMETERS/t/model_0001.safetensors",
        performance=0.25,
        training_time=12.5,
        task="t",
        fold=0,
        metrics=[{"train/loss": 1.0, "val/loss": math.inf}, {"val/loss": math.nan}],
        predictions={"t": root / "p/PREDICTIONS/t/x.parquet"},
        seen_samples={"t": ["a", "b"]},
        origin=root / "q/MODELS/s/fold_1_0002.json",
    )


def test_a_model_storage_round_trip(tmp_path: Path) -> None:
    storage = full(tmp_path)
    path = storage.store(tmp_path / "m.json", results_root=tmp_path)
    assert storage.path == path and storage.created is not None
    loaded = ModelStorage.load(path, tmp_path)
    assert repr(loaded.metrics) == repr(storage.metrics)
    loaded.metrics = storage.metrics
    assert loaded == storage
    content = json.loads(path.read_text())
    assert content["parameters"] == "p/PARAMETERS/t/model_0001.safetensors" and content["fold"] == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "m.json").write_bytes(path.read_bytes())
    assert ModelStorage.load(moved / "m.json", moved).pipeline == moved / "p/PIPELINES/t/pipeline_0001.yaml"


def test_fold_0_is_fold_0() -> None:
    assert ModelStorage(fold=0).file_name == "fold_0.json" and ModelStorage().file_name == "model.json"


def test_storing_takes_exactly_one_target(tmp_path: Path) -> None:
    storage = ModelStorage(task="t")
    with pytest.raises(ValueError, match="needs a target"):
        storage.store(results_root=tmp_path)
    storage.store(tmp_path / "m.json", results_root=tmp_path)
    with pytest.raises(ValueError, match="takes no target"):
        storage.store(tmp_path / "n.json", results_root=tmp_path)
    storage.performance = 0.5
    storage.store(results_root=tmp_path)
    assert ModelStorage.load(tmp_path / "m.json", tmp_path).performance == 0.5


def test_paths_outside_the_results_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MMLMisconfigurationException, match="does not lie below the results root"):
        ModelStorage(parameters=Path("/etc/hosts")).store(tmp_path / "m.json", results_root=tmp_path)
    assert not (tmp_path / "m.json").exists()


def test_changes_by_hand_are_added_once_and_leave_the_rest_alone(tmp_path: Path) -> None:
    path = full(tmp_path).store(tmp_path / "m.json", results_root=tmp_path)
    storage = ModelStorage.load(path, tmp_path)
    storage.store(results_root=tmp_path)
    assert "updates" not in json.loads(path.read_text())
    for number in range(2):
        storage.metrics.append({"acc": number})
        storage.predictions[f"u{number}"] = tmp_path / "u.parquet"
        storage.store(results_root=tmp_path)
    loaded = ModelStorage.load(path, tmp_path)
    assert loaded.metrics[2:] == [{"acc": 0}, {"acc": 1}] and set(loaded.predictions) == {"t", "u0", "u1"}
    loaded.metrics.pop()
    with pytest.raises(MMLMisconfigurationException, match="can only be added"):
        loaded.store(results_root=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pipeline": 1', '{"members": []}'])
def test_what_is_no_model_storage(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(DataError, match="not a model storage"):
        ModelStorage.load(tmp_path / "m.json", tmp_path)
    with pytest.raises(FileNotFoundError):
        ModelStorage.load(tmp_path / "none.json", tmp_path)


def test_an_ensemble_round_trip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [ModelStorage(task=f"t{n}", fold=n).store(tmp_path / f"m{n}.json", results_root=tmp_path) for n in range(2)]
    ensemble = EnsembleStorage(members=members, performance=0.1, metrics={"ece": 0.2}, search_params={"size": 2})
    assert ensemble.weights == [0.5, 0.5]
    path = ensemble.store(tmp_path / "e.json", results_root=tmp_path)
    loaded = EnsembleStorage.load(path, tmp_path)
    assert loaded == ensemble
    assert [(model.task, model.fold) for model in loaded.get_members(tmp_path)] == [("t0", 0), ("t1", 1)]
    assert "different tasks" in caplog.text
    with pytest.raises(MMLMisconfigurationException, match="at least one member"):
        EnsembleStorage()
    with pytest.raises(MMLMisconfigurationException, match="2 members was given 1 weights"):
        EnsembleStorage(members=members, weights=[1.0])
    with pytest.raises(MMLMisconfigurationException, match="must be called <name>.json"):
        ensemble.store(tmp_path / "e.yaml", results_root=tmp_path)
    with pytest.raises(DataError, match="not an ensemble storage"):
        EnsembleStorage.load(members[0], tmp_path)


# -- pipelines -------------------------------------------------------------------------------------------------------------------------
CONTENT: dict[str, Any] = {
    "arch": {"name": "net", "lr": 1e-05, "on": "yes", "e": "1e-5"},
    "tta": None,
    "loss": {"w": "${arch.lr}"},
    "cbs": [],
}


def test_a_pipeline_round_trip_keeps_interpolations_and_types(tmp_path: Path) -> None:
    for cfg in (CONTENT, OmegaConf.create(CONTENT)):
        pipeline = PipelineCfg.from_cfg(cfg, ["arch", "loss", "cbs"])
        assert pipeline.content["loss"] == {"w": "${arch.lr}"}
        assert PipelineCfg.load(pipeline.store(tmp_path / "p.yaml")) == pipeline
    copy = pipeline.clone()
    copy.content["arch"]["name"] = "other"
    assert pipeline.content["arch"]["name"] == "net"


def test_groups_that_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="has no nothing"):
        PipelineCfg.from_cfg(CONTENT, ["arch", "nothing"])
    path = PipelineCfg.from_cfg(CONTENT, ["arch"]).store(tmp_path / "p.yaml")
    assert PipelineCfg.load(path, ["arch", "loss"]).keys == ["arch"] and "has no loss" in caplog.text
    with pytest.raises(ValueError, match="has none of loss"):
        PipelineCfg.load(path, ["loss"])
    for text in ("- 1", "a: [", ""):
        path.write_text(text)
        with pytest.raises(DataError, match="is not a pipeline"):
            PipelineCfg.load(path)


@pytest.mark.parametrize("omega", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_activating_replaces_groups_and_puts_them_back(omega: bool, fails: bool) -> None:
    plain = {"arch": {"name": "a", "ref": "${loss.w}"}, "loss": {"w": 3}}
    cfg: Any = OmegaConf.create(plain) if omega else dict(plain)
    pipeline = PipelineCfg({"arch": {"name": "b"}, "fresh": {"x": 1}})
    try:
        with pipeline.activate(cfg):
            assert cfg["arch"]["name"] == "b" and cfg["fresh"]["x"] == 1
            cfg["arch"]["name"] = "changed inside"
            if fails:
                raise RuntimeError("in the block")
    except RuntimeError:
        assert fails
    assert (OmegaConf.to_container(cfg, resolve=False) if omega else cfg) == plain
    assert pipeline.content["arch"]["name"] == "b"
