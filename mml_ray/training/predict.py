"""Predictions and test metrics of a trained model.

A prediction table has a row per sample: ``sample_id``, ``split``, ``fold``, ``target``, ``logits``, ``probabilities``,
``calibrated`` (null until post-processing fills it in). By kind of task:

=================  ==============================  ========================  ======================================
task               target                          logits                    probabilities
=================  ==============================  ========================  ======================================
classification     int64 (class index)             list<float32> [C]         list<float32> [C], softmax
multi-label        list<float32> [C]               list<float32> [C]         list<float32> [C], sigmoid
regression         float32                         list<float32> [1]         null
segmentation       binary: PNG, 8 bit, class       null                      list<binary> [C]: PNG, 8 bit, round(255 p)
of a plugin        list<float32>, flattened        list<float32>, flattened  null
=================  ==============================  ========================  ======================================

``target`` is null for unlabelled data; 255 is the ignored label of a mask. The schema's metadata (key ``mml_ray``) is a JSON
object with ``task`` (evaluated), ``head`` (trained), ``task_type``, ``num_classes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from mml_ray.atomic import replacing
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.models.multi_task import MultiTaskModel
from mml_ray.tasks.attributes import CONFIGS_ROUTES
from mml_ray.tasks.kinds import check_views_of
from mml_ray.training.fit import quiet

_FLOATS = pa.list_(pa.float32())
#: route -> type of target, logits, probabilities
_TYPES: dict[str, tuple[pa.DataType, pa.DataType, pa.DataType]] = {
    "cls": (pa.int64(), _FLOATS, _FLOATS),
    "mlcls": (_FLOATS, _FLOATS, _FLOATS),
    "reg": (pa.float32(), _FLOATS, _FLOATS),
    "seg": (pa.binary(), _FLOATS, pa.list_(pa.binary())),
}


def predict(
    model: LightningModule,
    datamodule: LightningDataModule,
    trainer: Trainer,
    *,
    task: str,
    splits: Sequence[str],
    evaluated: str | None = None,
    fold: int = 0,
    tta: Mapping[str, Any] | None = None,
) -> pa.Table:
    """The predictions of the head ``task`` for the samples of ``evaluated`` (default: its own), one split after the other.

    ``splits`` are names such as ``TEST``, ``VAL``, ``UNLABELLED``; an empty one gives no rows. ``fold`` is written into the
    table. ``tta`` is the configuration group of that name: the scores are means over its variations.
    """
    evaluated = evaluated or task
    model = _directed(model, task, evaluated, tta)
    spec = model.specs[evaluated]
    schema = prediction_schema(
        spec.route, {"task": evaluated, "head": task, "task_type": spec.task_type, "num_classes": spec.num_classes}
    )
    tables = [
        _predict_split(model, datamodule, trainer, schema=schema, task=evaluated, split=str(split), fold=fold) for split in splits
    ]
    return pa.concat_tables([schema.empty_table(), *tables])


def test(
    model: LightningModule,
    datamodule: LightningDataModule,
    trainer: Trainer,
    *,
    task: str,
    evaluated: str | None = None,
    tta: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """``test/<evaluated>/<metric>`` of the head ``task`` on the test data, with bootstrap if the model is configured so."""
    evaluated = evaluated or task
    with quiet():
        trainer.test(_directed(model, task, evaluated, tta), datamodule=datamodule, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    if not found:
        raise DataError(f"There is no test data of task '{evaluated}' to measure with: its test split is empty.")
    return found


def prediction_schema(route: str, metadata: dict[str, Any]) -> pa.Schema:
    """The columns of a prediction table."""
    if route not in CONFIGS_ROUTES.values():
        raise MMLMisconfigurationException(
            f"There is no prediction table for '{route}' tasks, only for {', '.join(CONFIGS_ROUTES.values())}."
        )
    target, logits, probabilities = _TYPES.get(route, (_FLOATS, _FLOATS, _FLOATS))
    columns = {
        "sample_id": pa.string(), "split": pa.string(), "fold": pa.int32(), "target": target, "logits": logits,
        "probabilities": probabilities, "calibrated": probabilities,
    }  # fmt: skip
    return pa.schema(list(columns.items()), metadata={"mml_ray": json.dumps(metadata)})


def store_predictions(table: pa.Table, path: Path | str) -> None:
    """Write a prediction table as Parquet, atomically."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def load_predictions(path: Path | str) -> tuple[pa.Table, dict[str, Any]]:
    """A prediction table and its metadata; a file that is none raises :class:`DataError`."""
    try:
        table = pq.read_table(path)
        return table, json.loads((table.schema.metadata or {})[b"mml_ray"])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} is no prediction file: {error!r}") from error


def _directed(model: LightningModule, task: str, evaluated: str, tta: Mapping[str, Any] | None) -> MultiTaskModel:
    if not isinstance(model, MultiTaskModel):
        raise MMLMisconfigurationException(f"Predictions need a MultiTaskModel, got {type(model).__name__}.")
    model.views = None
    if tta and tta.get("variations"):
        from mml_ray.data.augment.tta import TestTimeAugmentation

        seed = int(model.setting("seed") or 0)
        model.views = TestTimeAugmentation(tta["variations"], mode=str(tta.get("mode", "mean")), seed=seed)
    if evaluated not in model.head_of:
        model.redirect(task, evaluated)
    elif model.head_of[evaluated] != task:
        raise MMLMisconfigurationException(
            f"Task '{evaluated}' is predicted by the head '{model.head_of[evaluated]}', not by '{task}'."
        )
    if model.views is not None:
        check_views_of(model.specs[task].kind, task)
    return model


def _predict_split(
    model: MultiTaskModel,
    datamodule: LightningDataModule,
    trainer: Trainer,
    *,
    schema: pa.Schema,
    task: str,
    split: str,
    fold: int,
) -> pa.Table:
    datamodule.predict_on = split  # type: ignore[attr-defined]
    collector = _Collector(model.specs[task].route, task)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(collector)
    try:
        with quiet():
            trainer.predict(model, datamodule=datamodule, return_predictions=False)
    finally:
        callbacks.remove(collector)
    rows = len(collector.columns["sample_id"])
    columns = {**collector.columns, "split": [split] * rows, "fold": [fold] * rows, "calibrated": [None] * rows}
    return pa.table([pa.array(columns[f.name], type=f.type) for f in schema], schema=schema)


class _Collector(Callback):
    """Turns the outputs of a prediction into the columns of the table, batch by batch."""

    def __init__(self, route: str, task: str) -> None:
        self._route = route
        self._task = task
        self.columns: dict[str, list[Any]] = {name: [] for name in ("sample_id", "target", "logits", "probabilities")}

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the rows of one batch."""
        for task, found in outputs.items():
            if task == self._task:
                self._add(found["sample_ids"], found["logits"].float().cpu(), found["targets"])

    def _add(self, sample_ids: list[str], logits: Tensor, targets: Tensor | None) -> None:
        self.columns["sample_id"] += sample_ids
        self.columns["target"] += [None] * len(sample_ids) if targets is None else self._targets(targets.cpu())
        segmentation = self._route == "seg"
        self.columns["logits"] += [None] * len(sample_ids) if segmentation else list(logits.flatten(1).numpy())
        self.columns["probabilities"] += self._probabilities(logits)

    def _targets(self, targets: Tensor) -> list[Any]:
        if self._route == "seg":
            return [encode_png(mask.numpy().astype(np.uint8)) for mask in targets]
        if self._route == "reg":
            return [float(value) for value in targets.flatten()]
        return targets.tolist() if self._route == "cls" else list(targets.float().flatten(1).numpy())

    def _probabilities(self, logits: Tensor) -> list[Any]:
        if self._route not in ("cls", "mlcls", "seg"):
            return [None] * len(logits)
        if self._route == "mlcls":
            return list(torch.sigmoid(logits).numpy())
        probabilities = torch.softmax(logits, dim=1)
        if self._route == "cls":
            return list(probabilities.numpy())
        quantised = (probabilities * 255).round().to(torch.uint8).numpy()
        return [[encode_png(plane) for plane in image] for image in quantised]


def encode_png(plane: NDArray[np.uint8]) -> bytes:
    """A lossless 8-bit greyscale PNG of ``plane`` [H, W]."""
    import cv2

    done, encoded = cv2.imencode(".png", plane)
    if not done:
        raise DataError(f"A map of shape {plane.shape} cannot be encoded as PNG.")
    return bytes(encoded.tobytes())


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """The inverse of :func:`encode_png`."""
    import cv2

    plane: NDArray[np.uint8] = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)
    return plane
