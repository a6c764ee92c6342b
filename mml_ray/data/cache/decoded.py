"""Where a dataset takes preprocessed arrays from: a store that ``pp`` has written, or one that fills itself.

The self-filling store (``sampling.cache=auto``) belongs to a node (:mod:`mml_ray.data.cache.node`). Its arrays are found by
file name, size and time of change.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mml_ray.data.cache.arrow import ArrowReader, ArrowWriter, is_store, mask_key
from mml_ray.data.dataset import DecodedStore, TaskDataset
from mml_ray.errors import DataError, MMLError
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN

#: below this much free space a store stops growing: the larger of 1 GiB and a tenth of the disk
_KEEP_FREE, _KEEP_PART = 1 << 30, 0.1


class StoredArrays(DecodedStore):
    """A complete store, as ``pp`` writes it; ``key`` of an array is the entry in the task description."""

    def __init__(self, reader: ArrowReader, dataset: TaskDataset) -> None:
        """Raises :class:`DataError` if arrays are missing."""
        self._reader = reader
        self._rows = {modality: reader.rows(keys, modality) for modality, keys in array_keys(dataset).items()}
        for modality, rows in self._rows.items():
            lacking = np.flatnonzero(rows < 0)
            if len(lacking):
                raise DataError(
                    f"Task '{dataset.name}': {len(lacking)} of {len(rows)} arrays ({modality}) are not in {reader.folder}, "
                    f"the first is that of sample '{dataset.ids[int(lacking[0])]}'. Run mml-ray pp again."
                )

    def get(self, modality: str, index: int) -> NDArray[Any] | None:
        """The array."""
        return self._reader.array(int(self._rows[modality][index]))


class GrowingArrays(DecodedStore):
    """The view that one dataset has of a self-filling store. Never fails for the store's sake: it then warns and decodes."""

    def __init__(self, folder: Path, dataset: TaskDataset, definition: Mapping[str, Any]) -> None:
        self.folder = folder
        self._definition = dict(definition)
        self._keys = {modality: _with_versions(keys, dataset.root) for modality, keys in array_keys(dataset).items()}
        self._ids = dataset.ids
        self._reader: ArrowReader | None = None
        self._rows = {modality: np.full(len(keys), -1, np.int64) for modality, keys in self._keys.items()}
        self._writer: ArrowWriter | None = None
        self._epoch: int | None = None
        self._write = False
        self.refresh()

    @property
    def complete(self) -> bool:
        """Whether every array is stored."""
        return all(bool((rows >= 0).all()) for rows in self._rows.values())

    def refresh(self) -> None:
        """Take up what others have stored since."""
        if self.complete or not is_store(self.folder):
            return
        try:
            if self._reader is None:
                self._reader = ArrowReader(self.folder, definition=self._definition)
            elif not self._reader.refresh():
                return
        except MMLError as error:
            warnings.warn(f"The cache {self.folder} is not used: {error}", UserWarning, stacklevel=2)
            self._reader = None
            return
        self._rows = {modality: self._reader.rows(keys, modality) for modality, keys in self._keys.items()}

    def get(self, modality: str, index: int) -> NDArray[Any] | None:
        """The array, or ``None``."""
        row = int(self._rows[modality][index])
        return self._reader.array(row) if row >= 0 and self._reader is not None else None

    def put(self, modality: str, index: int, array: NDArray[Any]) -> None:
        """Store the array, if this process may write and there is space."""
        if not self._write or not _has_space(self.folder):
            return
        try:
            if self._writer is None:
                self._writer = ArrowWriter(self.folder, definition=self._definition)
            key = self._keys[modality][index].as_py()
            self._writer.add(array, key=key, modality=modality, sample_id=self._ids[index])
        except (OSError, pa.ArrowException) as error:
            self._give_up(error)

    def begin(self, epoch: int, *, write: bool) -> None:
        """Called before each batch: at the first of an epoch the store is refreshed."""
        self._write = write
        if epoch != self._epoch:
            self._epoch = epoch
            self.flush()
            self.refresh()

    def flush(self) -> None:
        """Make visible what has been written."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except (OSError, pa.ArrowException) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        warnings.warn(f"Nothing more is written to the cache {self.folder}: {error}", UserWarning, stacklevel=3)
        self._write = False
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


def array_keys(dataset: TaskDataset) -> dict[str, pa.Array]:
    """The keys of the arrays of a dataset, by modality."""
    found: dict[str, pa.Array] = {}
    for modality in dataset.storable:
        entries = dataset.entries(modality)
        keys = entries.tolist()
        if modality == "mask":
            keys = [mask_key(mask, image) for mask, image in zip(keys, dataset.entries("image").tolist(), strict=True)]
        found[modality] = pa.array(keys, pa.string())
    return found


def _with_versions(keys: pa.Array, root: str) -> pa.Array:
    """Keys with size and time of change of their files; an empty mask follows its image."""
    empty = mask_key(EMPTY_MASK_TOKEN, "")
    versions = (file_version(os.path.join(root, key.removeprefix(empty)), "missing") for key in keys.to_pylist())
    return pa.array([f"{key}|{version}" for key, version in zip(keys.to_pylist(), versions, strict=True)], pa.string())


def file_version(path: str, missing: str) -> str:
    """Size and time of change of a file; ``missing`` if there is none (loading it raises)."""
    try:
        found = os.stat(path)
    except OSError:
        return missing
    return f"{found.st_size}-{found.st_mtime_ns}"


def _has_space(folder: Path) -> bool:
    usage = shutil.disk_usage(folder.parent if not folder.exists() else folder)
    return usage.free > max(_KEEP_FREE, int(_KEEP_PART * usage.total))
