"""Batches of several tasks: assembled in a loader process, finished where they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from mml_ray.data.augment.base import BatchAugmentation
from mml_ray.data.buffers import BufferPool
from mml_ray.data.dataset import TaskDataset
from mml_ray.data.normalization import Normalization
from mml_ray.data.sampling import Draw, Request
from mml_ray.errors import DataError, MMLError
from mml_ray.seeding import keyed_seed

#: task -> fields, see "Batches" in docs/architecture.md
Batch = dict[str, dict[str, Any]]
#: the field of an unfinished batch that keys its augmentation
_SEED = "augmentation_seed"
_UNIT = Normalization()


@dataclass(frozen=True)
class Failure:
    """An error on its way out of a loader process, without the traceback that torch would add to the message."""

    kind: type[MMLError]
    message: str


class BatchSource(Dataset[Any]):
    """Makes batches out of draws; images and masks stay ``uint8``, images are taken apart into planes ``[N, C, H, W]``."""

    def __init__(self, datasets: Sequence[TaskDataset], phase: str, *, seeded: bool = False) -> None:
        """``phase``: train, val, test or predict; ``seeded``: add the key for an augmentation of whole batches."""
        self.datasets = list(datasets)
        self.phase = phase
        self.seeded = seeded
        self._buffers = BufferPool()

    def __getitems__(self, request: Request) -> Batch | Failure | None:
        """The batch that is asked for, or ``None`` where none is."""
        try:
            if not request.draws:
                self._flush()
                return None
            return {self.datasets[draw.stream].name: self._drawn(draw, request.writers) for draw in request.draws}
        except MMLError as error:
            return Failure(type(error), str(error))

    def _flush(self) -> None:
        for dataset in self.datasets:
            if dataset.store is not None:
                dataset.store.flush()

    def _drawn(self, draw: Draw, writers: frozenset[int]) -> dict[str, Any]:
        dataset = self.datasets[draw.stream]
        if dataset.store is not None:
            dataset.store.begin(draw.epoch, write=draw.stream in writers)
        return self._fields(dataset, draw)

    def _fields(self, dataset: TaskDataset, draw: Draw) -> dict[str, Any]:
        keys = zip(draw.indices.tolist(), draw.repeats.tolist(), strict=True)
        images, targets, ids = _Stack(dataset.name, self._buffers), _Stack(dataset.name, self._buffers), []
        size = len(draw.indices)
        for index, repeat in keys:
            sample = dataset[(draw.epoch, index, repeat)]
            ids.append(sample["sample_id"])
            images.add_planes(sample["image"], ids[-1], size)
            if dataset.target is not None:
                targets.add(sample[dataset.target], ids[-1], size)
        fields: dict[str, Any] = {"image": images.tensor()}
        if dataset.target is not None:
            fields["targets"] = targets.tensor()
        fields |= {"sample_id": ids, "dataset_name": dataset.name, "dataset_type": self.phase}
        if self.seeded:
            drawn = (draw.indices.tolist(), draw.repeats.tolist())
            fields[_SEED] = keyed_seed(dataset.seed, "augment", dataset.name, draw.epoch, *drawn)
        return fields


class _Stack:
    """Equal arrays, written into one buffer as they come (in a loader process: into shared memory)."""

    def __init__(self, task: str, buffers: BufferPool) -> None:
        self._task = task
        self._buffers = buffers
        self._buffer: Tensor | None = None
        self._view: NDArray[Any]
        self._filled = 0
        self._first = ""

    def add(self, value: Any, sample_id: str, size: int) -> None:
        array = np.asarray(value)
        self._slot(array.shape, array.dtype, sample_id, size)[...] = array

    def add_planes(self, image: NDArray[np.uint8], sample_id: str, size: int) -> None:
        """``[H, W, C]`` as ``[C, H, W]``: taken apart here it costs no more than a copy, later three passes."""
        height, width, channels = image.shape
        planes = self._slot((channels, height, width), image.dtype, sample_id, size)
        cv2.split(np.ascontiguousarray(image), list(planes))

    def _slot(self, shape: tuple[int, ...], dtype: np.dtype[Any], sample_id: str, size: int) -> NDArray[Any]:
        if self._buffer is None:
            self._buffer = self._made((size, *shape), torch.from_numpy(np.empty(0, dtype)).dtype)
            self._view = self._buffer.numpy()
            self._first = sample_id
        if shape != self._view.shape[1:]:
            raise DataError(
                f"Task '{self._task}': samples of one batch must have the same shape, but '{self._first}' has "
                f"{tuple(self._view.shape[1:])} and '{sample_id}' {shape}. Choose a preprocessing (preprocessing=size256), "
                "an augmentation that crops, or sampling.batch_size=1."
            )
        self._filled += 1
        slot: NDArray[Any] = self._view[self._filled - 1 : self._filled].reshape(shape)
        return slot

    def _made(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._buffers.tensor(shape, dtype) if get_worker_info() is None else _shared(shape, dtype)

    def tensor(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    storage: Any = torch.UntypedStorage._new_shared(int(np.prod(shape)) * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


class Finisher:
    """Turns assembled batches into what models take, on the device where they are. A finished batch passes unchanged."""

    def __init__(self, normalizations: Mapping[str, Normalization], augmentation: BatchAugmentation | None = None) -> None:
        """``normalizations`` by task; ``augmentation`` acts on training batches, before the normalization."""
        self._normalizations = dict(normalizations)
        self._augmentation = augmentation
        self._buffers = BufferPool()

    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``image`` float32 ``[N, C, H, W]`` and class masks int64."""
        return {task: self._finish(task, fields) for task, fields in batch.items()}

    def _finish(self, task: str, fields: dict[str, Any]) -> dict[str, Any]:
        images, done = fields.get("image"), dict(fields)
        seed, targets = done.pop(_SEED, None), done.get("targets")
        if isinstance(targets, Tensor) and targets.dtype == torch.uint8:
            done["targets"] = targets = targets.long()
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            return done
        if self._augmentation is None or seed is None:
            out = self._buffers.tensor(tuple(images.shape), torch.float32) if images.device.type == "cpu" else None
            done["image"] = self._normalizations[task].from_bytes(images, out)
            return done
        masks = targets if isinstance(targets, Tensor) and targets.dim() == 3 and not targets.is_floating_point() else None
        augmented, masks = self._augmentation(_UNIT.from_bytes(images), masks, seed)
        done["image"] = self._normalizations[task].from_floats(augmented)
        if masks is not None:
            done["targets"] = masks
        return done
