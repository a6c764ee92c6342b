"""Predictions and test metrics of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.metrics.rows import probabilities_of
from mml_ray.models.multi_task import MultiTaskModel
from mml_ray.store.predictions import codec_of, prediction_schema
from mml_ray.tasks.kinds import TaskKind, check_views_of
from mml_ray.training.fit import quiet


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
    class_names: Sequence[str] = (),
) -> pa.Table:
    """The predictions of the head ``task`` for the samples of ``evaluated`` (default: its own), one split after the other.

    ``splits`` are names such as ``TEST``, ``VAL``, ``UNLABELLED``; an empty one gives no rows. ``fold`` and ``class_names`` are
    written into the table (:mod:`mml_ray.store.predictions`). ``tta`` is the configuration group of that name: the scores are means
    over its variations.
    """
    evaluated = evaluated or task
    model = _redirected(model, task, evaluated, tta)
    spec = model.specs[evaluated]
    metadata = {"task": evaluated, "head": task, "task_type": spec.task_type, "num_classes": spec.num_classes}
    schema = prediction_schema(spec.kind, {**metadata, "class_names": list(class_names)})
    tables = [schema.empty_table()]
    for split in splits:
        datamodule.predict_on = split  # type: ignore[attr-defined]
        columns = _predicted_columns(model, datamodule, trainer, evaluated, spec.kind)
        count = len(columns["sample_id"])
        columns.update(split=[split] * count, fold=[fold] * count, calibrated=[None] * count)
        tables.append(pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema))
    return pa.concat_tables(tables)


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
        trainer.test(_redirected(model, task, evaluated, tta), datamodule=datamodule, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    if not found:
        raise DataError(f"Task '{evaluated}' cannot be tested: its test split is empty.")
    return found


def _redirected(model: LightningModule, task: str, evaluated: str, tta: Mapping[str, Any] | None) -> MultiTaskModel:
    """The model, sending the data of ``evaluated`` through the head ``task``, with test-time augmentation as configured."""
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


def _predicted_columns(
    model: MultiTaskModel, datamodule: LightningDataModule, trainer: Trainer, task: str, kind: TaskKind
) -> dict[str, list[Any]]:
    """What the model predicts for the split that the data module is set to, as columns of the table."""
    collector = _Collector(task, kind)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(collector)
    try:
        with quiet():
            trainer.predict(model, datamodule=datamodule, return_predictions=False)
    finally:
        callbacks.remove(collector)
    return collector.columns


class _Collector(Callback):
    """Encodes the outputs of a prediction batch by batch, so that masks are never held in full."""

    def __init__(self, task: str, kind: TaskKind) -> None:
        self._task = task
        self._activation = kind.activation
        self._codec = codec_of(kind)
        self.columns: dict[str, list[Any]] = {name: [] for name in ("sample_id", "target", "logits", "probabilities")}

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the rows of one batch."""
        if self._task not in outputs:
            return
        found = outputs[self._task]
        scores, targets = found["logits"].float().cpu().numpy(), found["targets"]
        probabilities = probabilities_of(scores, self._activation)
        nothing = [None] * len(scores)
        self.columns["sample_id"] += found["sample_ids"]
        self.columns["target"] += nothing if targets is None else self._codec.encode_targets(targets.cpu().numpy())
        self.columns["logits"] += self._codec.encode_scores(scores)
        self.columns["probabilities"] += nothing if probabilities is None else self._codec.encode_probabilities(probabilities)
