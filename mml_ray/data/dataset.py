"""One split of one task as a map-style torch dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mml_ray.data.columns import Column
from mml_ray.data.loaders import FileLoader, build_loader
from mml_ray.errors import DataError, MMLError, MMLMisconfigurationException
from mml_ray.seeding import keyed_seed
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN, KORNIA_VALID_MODALITIES, DataSplit, Modality, TaskType
from mml_ray.tasks.description import TaskDescription

#: a sample: modality -> array or number, and ``sample_id``; images ``uint8 [H, W, 3]``, masks ``uint8 [H, W]``
Sample = dict[str, Any]
#: deterministic, the same for every epoch
Preprocessing = Callable[[Sample], Sample]
#: random, but a function of the sample and the seed
Augmentation = Callable[[Sample, int], Sample]
#: dataset[i] is epoch 0; (epoch, i) and (epoch, i, repeat) choose the augmentation
Key = int | tuple[int, int] | tuple[int, int, int]


class DecodedStore:
    """Where preprocessed arrays are kept (:mod:`mml_ray.data.cache.decoded`). This one is empty and stores nothing."""

    def get(self, modality: str, index: int) -> NDArray[Any] | None:
        """The read-only array of the sample, or ``None`` if it must be made."""
        return None

    def put(self, modality: str, index: int, array: NDArray[Any]) -> None:
        """Keep an array that has been made; may ignore it."""

    def begin(self, epoch: int, *, write: bool) -> None:
        """Called before each batch; ``write`` lets :meth:`put` store."""

    def flush(self) -> None:
        """Make visible to other processes what has been put."""


class TaskDataset(Dataset[Sample]):
    """The samples of ``split`` (and ``fold``), loaded, preprocessed and augmented.

    Entries are kept in flat buffers, so building one for 100,000 samples takes well under a second and loader processes
    share the memory. An augmentation is keyed by ``(seed, "augment", epoch, sample id)`` plus the repeat, if the sample
    comes more than once in an epoch; nothing depends on which process loads a sample, or on what it loaded before.
    """

    def __init__(
        self,
        description: TaskDescription,
        root: Path | str,
        *,
        split: DataSplit = DataSplit.TRAIN,
        fold: int = 0,
        loaders: Mapping[str, str] | None = None,
        preprocessing: Preprocessing | None = None,
        augmentation: Augmentation | None = None,
        modalities: Sequence[str] | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        """``root`` is the folder that entries are relative to; ``loaders`` maps modalities to registered names.

        ``modalities`` limits what is loaded (default: the image and the target); ``name`` is what the
        task is called here, if not as its description says (duplicates). Raises :class:`DataError` for samples
        that lack one of them.
        """
        self.name = name or description.name
        self.task_type = TaskType(description.task_type)
        self.split = DataSplit(split)
        self.root = os.fspath(root)
        self.seed = seed
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.store: DecodedStore | None = None
        samples = description.samples(self.split, fold)
        self.target = self._target_of(description)
        wanted = modalities if modalities is not None else ["image", *([self.target] if self.target else [])]
        self._ids = Column(list(samples))
        self._columns = {str(modality): self._column(samples, str(modality)) for modality in wanted}
        names = {str(modality): name for modality, name in (loaders or {}).items()}
        self._loaders = {modality: build_loader(modality, names.get(modality), description) for modality in self._columns}

    def _target_of(self, description: TaskDescription) -> str | None:
        if self.split == DataSplit.UNLABELLED:
            return None
        present = {str(modality) for modality in description.modalities}
        return next((str(m) for m in self.task_type.target_modalities if str(m) in present), None)

    def _column(self, samples: Mapping[str, Mapping[Any, Any]], modality: str) -> Column:
        key = Modality(modality)
        try:
            return Column([sample[key] for sample in samples.values()])
        except KeyError:
            lacking = [name for name, sample in samples.items() if key not in sample]
            raise DataError(
                f"Task '{self.name}', split {self.split}: {len(lacking)} of {len(samples)} samples have no '{modality}', "
                f"the first is '{lacking[0]}'."
            ) from None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def sample_ids(self) -> list[str]:
        """All sample ids, in the order of the dataset."""
        return self._ids.tolist()

    @property
    def modalities(self) -> list[str]:
        """What a sample holds, beside its id."""
        return list(self._columns)

    @property
    def ids(self) -> Column:
        """All sample ids, without making a list of them."""
        return self._ids

    def entries(self, modality: str) -> Column:
        """The raw entries of a loaded modality."""
        return self._columns[modality]

    def labels(self) -> NDArray[Any]:
        """The targets of all samples as one array: ``int64 [N]`` for classes, ``float32 [N, C]`` else. Not for files.

        Raises :class:`MMLMisconfigurationException` for segmentation and unlabelled data.
        """
        if self.target is None or isinstance(self._loaders[self.target], FileLoader):
            raise MMLMisconfigurationException(f"The targets of task '{self.name}' ({self.task_type}) are files, not labels.")
        return np.asarray([self._load(self.target, index, final=True) for index in range(len(self))])

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, repeat = _parts(key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"Index {index} is out of range: task '{self.name}', split {self.split} has {len(self)} samples.")
        index %= len(self)
        sample = self._prepared(index)
        if self.augmentation is not None:
            augmented = self.augmentation(sample, self.augmentation_seed(epoch, sample["sample_id"], repeat))
            augmented["sample_id"] = sample["sample_id"]
            sample = augmented
        return sample

    def augmentation_seed(self, epoch: int, sample_id: str, repeat: int = 0) -> int:
        """What keys the augmentation of a sample."""
        parts = (self.seed, "augment", epoch, sample_id)
        return keyed_seed(*parts, repeat) if repeat else keyed_seed(*parts)

    def _prepared(self, index: int) -> Sample:
        """Loaded and preprocessed, from the store where that has it."""
        raw = self._stored(index) or self.made(index)
        sample: Sample = {"sample_id": self._ids[index]}
        for modality, loader in self._loaders.items():
            sample[modality] = loader.final(raw[modality]) if modality in raw else self._load(modality, index, final=True)
        return sample

    def _stored(self, index: int) -> Sample:
        """Image and mask of the store, all or none: they have to come from the same preprocessing."""
        if self.store is None or not self.storable:
            return {}
        found = {modality: self.store.get(modality, index) for modality in self.storable}
        return {} if any(array is None for array in found.values()) else found

    def made(self, index: int) -> Sample:
        """All modalities, loaded and preprocessed but unmapped, as a store keeps them."""
        raw: Sample = {modality: self._load(modality, index, final=False) for modality in self._loaders}
        if "mask" in raw and raw["mask"] is None:
            raw["mask"] = np.zeros(raw["image"].shape[:2], np.uint8)
        if self.preprocessing is not None:
            raw = self.preprocessing(raw)
        if self.store is not None:
            for modality in self.storable:
                self.store.put(modality, index, raw[modality])
        return raw

    @property
    def storable(self) -> list[str]:
        """The loaded modalities whose arrays a store keeps; none if others would have to be transformed alike."""
        geometric = [modality for modality in self._columns if modality in KORNIA_VALID_MODALITIES]
        return geometric if set(geometric) <= {"image", "mask"} else []

    def _load(self, modality: str, index: int, *, final: bool) -> Any:
        entry = self._columns[modality][index]
        if modality == "mask" and entry == EMPTY_MASK_TOKEN:
            return None
        loader = self._loaders[modality]
        try:
            return loader.load(entry, self.root) if final else loader.raw(entry, self.root)
        except MMLError as error:
            raise type(error)(f"Task '{self.name}', sample '{self._ids[index]}', {modality}: {error}") from error


def _parts(key: Key) -> tuple[int, int, int]:
    if not isinstance(key, tuple):
        return 0, int(key), 0
    return (int(key[0]), int(key[1]), int(key[2]) if len(key) == 3 else 0)
