"""Prediction tables and test metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_ray.errors import DataError
from mml_ray.metrics.definition import MetricSet
from mml_ray.metrics.rows import rows_of_predictions
from mml_ray.models import build_model
from mml_ray.store.predictions import decode_png, load_predictions, store_predictions
from mml_ray.training.fit import fit
from mml_ray.training.predict import predict
from mml_ray.training.predict import test as evaluate
from mml_ray.training.trainer import create_trainer
from tests.training.tiny import TinyData, tiny_config, tiny_model, tiny_options

COLUMNS = ["sample_id", "split", "fold", "target", "logits", "probabilities", "calibrated"]


class OtherTask(TinyData):
    """The tiny images with targets of another kind."""

    def __init__(self, targets: torch.Tensor) -> None:
        super().__init__()
        self.targets = targets


def test_classification_rows_are_what_the_model_says(tmp_path: Path) -> None:
    model, data = tiny_model().eval(), TinyData(batch_size=4)
    names = ["red", "green", "blue"]
    table = predict(
        model, data, create_trainer(*tiny_options()), task="tiny", splits=["TEST", "VAL", "UNLABELLED"], fold=2, class_names=names
    )
    assert table.column_names == COLUMNS and table.num_rows == 30
    rows = table.to_pylist()
    assert [row["split"] for row in rows] == ["TEST"] * 15 + ["VAL"] * 15 and {row["fold"] for row in rows} == {2}
    assert [row["sample_id"] for row in rows[:15]] == [f"s{i}" for i in range(15)]  # nothing dropped, order kept
    with torch.no_grad():
        logits = model.infer(data.images[45:60])["tiny"]  # type: ignore[operator]
    np.testing.assert_allclose([row["logits"] for row in rows[:15]], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([row["probabilities"] for row in rows[:15]], logits.softmax(1), rtol=1e-4, atol=1e-5)
    assert [row["target"] for row in rows[:15]] == data.targets[45:60].tolist()
    assert {row["calibrated"] for row in rows} == {None}
    store_predictions(table, tmp_path / "p.parquet")
    again = load_predictions(tmp_path / "p.parquet")
    assert again.table.equals(table) and again.class_names == names
    assert again.metadata == {
        "task": "tiny", "head": "tiny", "task_type": "classification", "num_classes": 3, "class_names": names
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task_type", "classes", "targets"),
    [
        ("multilabel_classification", 3, torch.randint(0, 2, (60, 3)).float()),
        ("regression", 0, torch.rand(60, 1)),
        ("semantic_segmentation", 3, torch.randint(0, 3, (60, 8, 8))),
    ],
)
def test_the_other_task_types(task_type: str, classes: int, targets: torch.Tensor, tmp_path: Path) -> None:
    arch = {"backend": "monai", "name": "basic_unet", "params": {"features": [4, 4, 4, 4, 4, 4]}}
    model = build_model(
        tiny_config(arch=arch, tasks={"tiny": {"task_type": task_type, "num_classes": classes}}, losses=None)
    ).eval()
    table = predict(model, OtherTask(targets), create_trainer(*tiny_options()), task="tiny", splits=["TEST"])
    rows, trainer = table.to_pylist(), create_trainer(*tiny_options())
    assert table.num_rows == 15
    if task_type == "regression":
        np.testing.assert_allclose([row["target"] for row in rows], targets[45:].flatten(), rtol=1e-6)
        assert len(rows[0]["logits"]) == 1 and rows[0]["probabilities"] is None
    elif task_type == "semantic_segmentation":
        np.testing.assert_array_equal([decode_png(row["target"]) for row in rows], targets[45:])
        planes = np.asarray([[decode_png(plane) for plane in row["probabilities"]] for row in rows])
        assert planes.shape == (15, 3, 8, 8) and rows[0]["logits"] is None
        np.testing.assert_allclose(planes.sum(1) / 255, 1, atol=2 / 255)
        with torch.no_grad():
            expected = model.infer(OtherTask(targets).images[45:])["tiny"].softmax(1)  # type: ignore[operator]
        np.testing.assert_allclose(planes / 255, expected, atol=1 / 255)
    else:
        np.testing.assert_array_equal([row["target"] for row in rows], targets[45:])
        np.testing.assert_allclose(
            [row["probabilities"] for row in rows], 1 / (1 + np.exp(-np.asarray([r["logits"] for r in rows]))), rtol=1e-5
        )
    found = evaluate(model, OtherTask(targets), trainer, task="tiny")
    assert found["test/tiny/loss"] == found["test/loss"] and len(found) >= 3
    store_predictions(table, tmp_path / "p.parquet")
    stored = load_predictions(tmp_path / "p.parquet")
    again = MetricSet(str(stored.kind.route), classes).compute(rows_of_predictions(stored))
    tolerance = 0.02 if task_type == "semantic_segmentation" else 1e-6  # probabilities of pixels are stored in 255 steps
    assert {f"test/tiny/{name}": pytest.approx(value, abs=tolerance) for name, value in again.items()} == {
        name: value for name, value in found.items() if not name.endswith("loss")
    }


def test_unlabelled_samples_have_no_target() -> None:
    class Unlabelled(TinyData):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"tiny": {key: value for key, value in batch["tiny"].items() if key != "targets"}}

    table = predict(tiny_model().eval(), Unlabelled(), create_trainer(*tiny_options()), task="tiny", splits=["VAL"])
    assert table.column("target").null_count == 15 and table.column("logits").null_count == 0


def test_a_test_is_bootstrapped_where_the_configuration_says_so() -> None:
    model = tiny_model(metrics={"cls": ["accuracy"], "bootstrap": 4}).eval()
    found = evaluate(model, TinyData(), create_trainer(*tiny_options()), task="tiny")
    assert set(found) == {
        f"test/{name}" for name in ("loss", "tiny/loss", "tiny/accuracy", "tiny/accuracy_mean", "tiny/accuracy_std")
    }
    assert found == evaluate(model, TinyData(), create_trainer(*tiny_options()), task="tiny")


def test_another_tasks_data_go_through_the_trained_head() -> None:
    model = tiny_model().eval()
    own = predict(model, TinyData(), create_trainer(*tiny_options()), task="tiny", splits=["TEST"])
    other = predict(
        model, TinyData(task="other"), create_trainer(*tiny_options()), task="tiny", evaluated="other", splits=["TEST"]
    )
    assert other.column("logits").equals(own.column("logits"))
    assert b'"task": "other"' in other.schema.metadata[b"mml_ray"] and b'"head": "tiny"' in other.schema.metadata[b"mml_ray"]
    found = evaluate(model, TinyData(task="other"), create_trainer(*tiny_options()), task="tiny", evaluated="other")
    assert found["test/other/loss"] == found["test/loss"]


def test_no_test_data_is_an_error() -> None:
    class Empty(TinyData):
        def test_dataloader(self) -> Any:
            return self._loader(slice(0, 0), "test")

    with pytest.raises(DataError, match="its test split is empty"):
        evaluate(tiny_model(), Empty(), create_trainer(*tiny_options()), task="tiny")


def test_predictions_and_tests_may_average_over_views() -> None:
    model, data = tiny_model(), TinyData()
    fit(model, data, create_trainer(*tiny_options(max_epochs=2)))
    model.eval()
    tta = {"mode": "mean", "variations": {"identity": [], "hflip": [{"name": "RandomHorizontalFlip", "p": 1.0}]}}
    table = predict(model, data, create_trainer(*tiny_options()), task="tiny", splits=["TEST"], tta=tta)
    images = data.images[45:60]
    with torch.no_grad():
        expected = (model.infer(images)["tiny"] + model.infer(images.flip(3))["tiny"]) / 2  # type: ignore[operator]
    np.testing.assert_allclose(table.column("logits").to_pylist(), expected, rtol=1e-4, atol=1e-5)
    averaged = evaluate(model, data, create_trainer(*tiny_options()), task="tiny", tta=tta)
    loss = torch.nn.functional.cross_entropy(expected, data.targets[45:60])
    assert averaged["test/tiny/loss"] == pytest.approx(float(loss), rel=1e-4)
    plain = evaluate(model, data, create_trainer(*tiny_options()), task="tiny")
    assert plain["test/tiny/loss"] != averaged["test/tiny/loss"]
