"""Prediction files: Parquet with a row per sample, written and read without torch.

The columns are ``sample_id``, ``split``, ``fold``, ``target``, ``logits``, ``probabilities``, ``calibrated`` (null until
post-processing fills it in). How targets, scores and probabilities are encoded is the :class:`Codec` of the kind of task:

=================  ==============================  ========================  ======================================
codec              target                          logits                    probabilities, calibrated
=================  ==============================  ========================  ======================================
``class``          int64 (class index)             list<float32> [C]         list<float32> [C], softmax
``labels``         list<float32> [C]               list<float32> [C]         list<float32> [C], sigmoid
``value``          float32                         list<float32> [1]         null
``mask``           binary: PNG, 8 bit, class       null                      list<binary> [C]: PNG, 8 bit, round(255 p)
``values``         list<float32>, flattened        list<float32>, flattened  list<float32>, flattened
=================  ==============================  ========================  ======================================

``target`` is null for unlabelled data; 255 is the ignored label of a mask. The schema's metadata (key ``mml_ray``) is a JSON object
with ``task`` (evaluated), ``head`` (trained), ``task_type``, ``num_classes``, ``class_names``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mml_ray.atomic import replacing
from mml_ray.errors import DataError
from mml_ray.registry import registry
from mml_ray.store.files import LOCAL, Files
from mml_ray.tasks.kinds import TaskKind, kind_of

Array = NDArray[Any]
_FLOATS = pa.list_(pa.float32())


class Codec:
    """Arrays of a batch to cells of a column and back. This one flattens what it gets to lists of numbers."""

    target_type: pa.DataType = _FLOATS
    score_type: pa.DataType = _FLOATS
    probability_type: pa.DataType = _FLOATS

    def encode_targets(self, targets: Array) -> list[Any]:
        """A cell for each of ``targets`` [N, ...]."""
        return _flattened(targets)

    def encode_scores(self, scores: Array) -> list[Any]:
        """A cell for each of ``scores`` [N, ...]."""
        return _flattened(scores)

    def encode_probabilities(self, probabilities: Array) -> list[Any]:
        """A cell for each of ``probabilities`` [N, C, ...]."""
        return _flattened(probabilities)

    def decode_targets(self, column: pa.ChunkedArray) -> Sequence[Array] | Array:
        """The inverse of :meth:`encode_targets`, flat where that flattens; no cell may be null."""
        return _unflattened(column)

    def decode_probabilities(self, column: pa.ChunkedArray) -> Sequence[Array] | Array:
        """The inverse of :meth:`encode_probabilities`; no cell may be null."""
        return _unflattened(column)


class ClassCodec(Codec):
    """Classification: the target is a class index."""

    target_type = pa.int64()

    def encode_targets(self, targets: Array) -> list[Any]:
        """``targets`` int64 [N]."""
        return list(targets.tolist())

    def decode_targets(self, column: pa.ChunkedArray) -> Array:
        """int64 [N]."""
        return np.asarray(column)


class ValueCodec(Codec):
    """Regression: the target is one number."""

    target_type = pa.float32()

    def encode_targets(self, targets: Array) -> list[Any]:
        """``targets`` float32 [N, 1]."""
        return [float(value) for value in targets.ravel()]

    def decode_targets(self, column: pa.ChunkedArray) -> Array:
        """float32 [N, 1]."""
        return np.asarray(column)[:, None]


class MaskCodec(Codec):
    """Segmentation: PNGs, since scores in full would take hundreds of times the space."""

    target_type = pa.binary()
    probability_type = pa.list_(pa.binary())

    def encode_targets(self, targets: Array) -> list[Any]:
        """``targets`` [N, H, W], class indices below 256."""
        return [encode_png(mask.astype(np.uint8)) for mask in targets]

    def encode_scores(self, scores: Array) -> list[Any]:
        """Scores are not kept."""
        return [None] * len(scores)

    def encode_probabilities(self, probabilities: Array) -> list[Any]:
        """``probabilities`` [N, C, H, W], kept as multiples of 1/255."""
        planes = np.nan_to_num(probabilities * 255).round().astype(np.uint8)
        return [[encode_png(plane) for plane in image] for image in planes]

    def decode_targets(self, column: pa.ChunkedArray) -> list[Array]:
        """uint8 [H, W] for each sample."""
        return [decode_png(cell) for cell in column.to_pylist()]

    def decode_probabilities(self, column: pa.ChunkedArray) -> list[Array]:
        """float32 [C, H, W] for each sample."""
        return [np.stack([decode_png(plane) for plane in cell]).astype(np.float32) / 255 for cell in column.to_pylist()]


registry.add("codec", "values", Codec())
registry.add("codec", "labels", Codec())
registry.add("codec", "class", ClassCodec())
registry.add("codec", "value", ValueCodec())
registry.add("codec", "mask", MaskCodec())


@dataclass(frozen=True)
class Predictions:
    """A prediction table and what its file says of it."""

    table: pa.Table
    metadata: Mapping[str, Any]

    @property
    def kind(self) -> TaskKind:
        """The kind of task that was predicted."""
        return kind_of(str(self.metadata["task_type"]))

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their indices; their numbers in files that do not name them."""
        names = self.metadata.get("class_names")
        return list(names) if names else [str(number) for number in range(int(self.metadata["num_classes"]))]

    def labelled(self, split: str | None = None) -> Predictions:
        """The rows that have a target, of one split or of all."""
        chosen = pc.is_valid(self.table["target"])
        if split is not None:
            chosen = pc.and_(chosen, pc.equal(self.table["split"], split))
        return replace(self, table=self.table.filter(chosen))

    def targets(self) -> Sequence[Array] | Array:
        """The targets of all rows, which must be labelled."""
        return codec_of(self.kind).decode_targets(self.table["target"])

    def scores(self) -> Array:
        """The scores of all rows, flattened to float32 [N, ...]."""
        return _unflattened(self.table["logits"])

    def probabilities(self, column: str = "probabilities") -> Sequence[Array] | Array:
        """The probabilities (or ``calibrated`` ones) of all rows."""
        return codec_of(self.kind).decode_probabilities(self.table[column])


def codec_of(kind: TaskKind) -> Codec:
    """How the predictions of a kind of task are encoded."""
    codec: Codec = registry.lookup("codec", kind.codec)
    return codec


def prediction_schema(kind: TaskKind, metadata: Mapping[str, Any]) -> pa.Schema:
    """The columns of a prediction table; a kind that cannot be trained raises a user error."""
    kind.require_route()
    codec = codec_of(kind)
    columns = {
        "sample_id": pa.string(), "split": pa.string(), "fold": pa.int32(), "target": codec.target_type, "logits": codec.score_type,
        "probabilities": codec.probability_type, "calibrated": codec.probability_type,
    }  # fmt: skip
    return pa.schema(list(columns.items()), metadata={"mml_ray": json.dumps(dict(metadata))})


def store_predictions(table: pa.Table, path: Path | str) -> None:
    """Write a prediction table as Parquet, atomically."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def load_predictions(path: Path | str, files: Files = LOCAL) -> Predictions:
    """Read a prediction file, also of earlier versions.

    Raises:
        DataError: it is not a prediction file.
    """
    try:
        table = pq.read_table(files.get(Path(path)))
        return Predictions(table, json.loads((table.schema.metadata or {})[b"mml_ray"]))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"'{path}' is not a prediction file: {error!r}") from error


def encode_png(plane: NDArray[np.uint8]) -> bytes:
    """A lossless 8-bit grayscale PNG of ``plane`` [H, W]."""
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


def _flattened(values: Array) -> list[Any]:
    return list(values.reshape(len(values), -1).astype(np.float32, copy=False))


def _unflattened(column: pa.ChunkedArray) -> Array:
    """Lists of one length as an array [N, length]."""
    cells = column.combine_chunks()
    values = np.asarray(cells.flatten())
    return values.reshape(len(cells), len(values) // max(1, len(cells)))
