"""Prediction files without torch: what is written comes back, also from files of earlier versions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.metrics.definition import MetricSet
from mml_ray.metrics.rows import probabilities_of, rows_of_predictions
from mml_ray.store.predictions import (
    Predictions,
    codec_of,
    decode_png,
    encode_png,
    load_predictions,
    prediction_schema,
    store_predictions,
)
from mml_ray.tasks.kinds import TaskKind, kind_of

random = np.random.default_rng(0)
NAMES = ["ant", "bee", "fly"]


def made(task_type: str, scores: Any, targets: Any) -> Predictions:
    """Predictions of TEST rows, and one without a target."""
    kind, count = kind_of(task_type), len(scores)
    codec, schema = codec_of(kind), prediction_schema(
        kind, {"task": "t", "head": "t", "task_type": task_type, "num_classes": 3, "class_names": NAMES}
    )  # fmt: skip
    probabilities = probabilities_of(scores, kind.activation)
    columns = {
        "sample_id": [f"s{number}" for number in range(count)],
        "split": ["TEST"] * (count - 1) + ["UNLABELLED"],
        "fold": [1] * count,
        "target": [*codec.encode_targets(targets[:-1]), None],
        "logits": codec.encode_scores(scores),
        "probabilities": [None] * count if probabilities is None else codec.encode_probabilities(probabilities),
        "calibrated": [None] * count,
    }
    table = pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)
    return Predictions(table, json.loads(schema.metadata[b"mml_ray"]))


CASES = {
    "classification": (random.normal(size=(6, 3)).astype(np.float32), random.integers(0, 3, 6)),
    "multilabel_classification": (random.normal(size=(6, 3)).astype(np.float32), random.random((6, 3)).astype(np.float32)),
    "regression": (random.normal(size=(6, 1)).astype(np.float32), random.random((6, 1)).astype(np.float32)),
    "semantic_segmentation": (random.normal(size=(6, 3, 4, 5)).astype(np.float32), random.integers(0, 3, (6, 4, 5))),
}


@pytest.mark.parametrize("task_type", CASES)
def test_what_is_written_comes_back(task_type: str, tmp_path: Path) -> None:
    scores, targets = CASES[task_type]
    predictions = made(task_type, scores, targets)
    store_predictions(predictions.table, tmp_path / "p.parquet")
    again = load_predictions(tmp_path / "p.parquet")
    assert again.table.equals(predictions.table) and again.kind is kind_of(task_type) and again.class_names == NAMES
    known = again.labelled()
    assert known.table.num_rows == 5 and again.labelled("UNLABELLED").table.num_rows == 0
    np.testing.assert_array_equal(np.asarray(known.targets()), targets[:5])
    activation = again.kind.activation
    if activation is not None:
        step = 1 / 255 if task_type == "semantic_segmentation" else 1e-9
        np.testing.assert_allclose(np.asarray(again.probabilities()), probabilities_of(scores, activation), atol=step)
    if task_type != "semantic_segmentation":
        np.testing.assert_array_equal(again.scores(), scores)
    rows = rows_of_predictions(again)
    assert len(rows) == 5 and rows.sample_ids == ["s0", "s1", "s2", "s3", "s4"]
    values = MetricSet(str(again.kind.route), 3).compute(rows)
    assert list(values) == list(again.kind.metrics) and all(np.isfinite(value) for value in values.values())


def test_files_of_the_version_before_name_no_classes(tmp_path: Path) -> None:
    predictions = made("classification", *CASES["classification"])
    old = {key: value for key, value in predictions.metadata.items() if key != "class_names"}
    store_predictions(predictions.table.replace_schema_metadata({"mml_ray": json.dumps(old)}), tmp_path / "p.parquet")
    again = load_predictions(tmp_path / "p.parquet")
    assert again.class_names == ["0", "1", "2"] and len(rows_of_predictions(again)) == 5


def test_rows_of_chunks_and_of_nothing() -> None:
    predictions = made("classification", *CASES["classification"])
    several = Predictions(pa.concat_tables([predictions.table] * 3), predictions.metadata)
    assert rows_of_predictions(several).scores.shape == (15, 3)
    nothing = Predictions(predictions.table.slice(0, 0), predictions.metadata)
    assert len(rows_of_predictions(nothing)) == 0
    masks = made("semantic_segmentation", *CASES["semantic_segmentation"])
    assert len(rows_of_predictions(Predictions(masks.table.slice(0, 0), masks.metadata))) == 0


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y")
    for name in ("x", "y", "z"):
        with pytest.raises(DataError, match="is not a prediction file"):
            load_predictions(tmp_path / name)


def test_a_kind_that_cannot_be_trained_has_no_predictions() -> None:
    with pytest.raises(MMLMisconfigurationException, match="cannot be trained"):
        prediction_schema(TaskKind(task_type="unheard"), {})


def test_png_is_lossless() -> None:
    plane = random.integers(0, 256, (7, 5)).astype(np.uint8)
    assert np.array_equal(decode_png(encode_png(plane)), plane)


def test_predictions_are_read_without_torch(tmp_path: Path) -> None:
    store_predictions(made("classification", *CASES["classification"]).table, tmp_path / "p.parquet")
    program = (
        "import sys\n"
        "from mml_ray.store.predictions import load_predictions\n"
        "from mml_ray.metrics.rows import rows_of_predictions\n"
        f"print(len(rows_of_predictions(load_predictions({str(tmp_path / 'p.parquet')!r}))), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False"], done.stderr
