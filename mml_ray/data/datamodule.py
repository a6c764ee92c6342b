"""The data module of a training: one or several tasks, from descriptions to finished batches."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from mml_ray.data.augment import build_cpu, build_gpu, build_preprocessing
from mml_ray.data.augment.base import refuse_all_but_masks
from mml_ray.data.batches import Batch, BatchSource, Finisher
from mml_ray.data.cache.arrow import STORE_FOLDER, ArrowReader, is_store
from mml_ray.data.cache.decoded import StoredArrays
from mml_ray.data.cache.node import NodeCache
from mml_ray.data.dataset import TaskDataset
from mml_ray.data.loading import MultiTaskLoader, worker_count
from mml_ray.data.normalization import Normalization, choose
from mml_ray.data.options import DataTask, LoadingOptions
from mml_ray.data.preprocess import open_store
from mml_ray.data.sampling import Stream, class_weights, multilabel_weights
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.kinds import check_fact, kind_of

_PHASES = {"train": DataSplit.TRAIN, "val": DataSplit.VAL, "test": DataSplit.TEST}
_STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class MultiTaskDataModule(pl.LightningDataModule):
    """Loads ``tasks`` as ``options`` say. Batches: see "Batches" in docs/architecture.md.

    Training batches hold every task (shorter tasks start over until the longest is through), all others one task after
    the other. ``predict_on`` chooses what ``predict`` loads. The epoch's order and its augmentations are functions of the
    seed, so :meth:`resume` continues anywhere, with any number of loader processes.
    """

    def __init__(self, tasks: Sequence[DataTask], *, options: LoadingOptions | None = None) -> None:
        """Reads the descriptions that are given as paths; raises :class:`MMLMisconfigurationException` for bad options."""
        super().__init__()
        if not tasks:
            raise MMLMisconfigurationException("A data module needs at least one task.")
        self.tasks = {task.name: task for task in tasks}
        if len(self.tasks) < len(tasks):
            raise MMLMisconfigurationException("Two tasks have the same name; the tag '+duplicate?1' gives a copy another one.")
        self.options = options or LoadingOptions()
        self.descriptions = {task.name: _description(task) for task in tasks}
        self.predict_on: DataSplit = DataSplit.TEST
        self._datasets: dict[tuple[str, DataSplit, bool], TaskDataset] = {}
        self._loaders: dict[str, MultiTaskLoader] = {}
        self._cache = NodeCache(self.options.cache_dir)
        self._stores: dict[Path, ArrowReader] = {}
        self._resume: tuple[int, int] = (0, 0)
        augmentations = self.options.augmentations
        self.normalizations: dict[str, Normalization] = {
            name: choose(augmentations.normalization, self.descriptions[name], self.options.pretraining_stats)
            for name in self.tasks
        }
        self._of_batches = build_gpu(augmentations.gpu)
        self._finisher = Finisher(self.normalizations, self._of_batches)

    # -- Lightning -------------------------------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        """Build the datasets of ``stage`` (fit, validate, test or predict); later calls build what is missing."""
        name_of_stage = str(getattr(stage, "value", stage))
        for phase in _STAGES[name_of_stage]:
            for name in self.tasks:
                self.dataset(name, self._split(phase), augmented=phase == "train")

    def train_dataloader(self) -> MultiTaskLoader:
        """All tasks side by side, augmented; begins where :meth:`resume` said."""
        loader = self._loader("train")
        loader.resume(*self._resume)
        return loader

    def val_dataloader(self) -> MultiTaskLoader | list[Any]:
        """The validation folds; an empty list if none of the tasks has samples in its fold."""
        loader = self._loader("val")
        return loader if len(loader) else []

    def test_dataloader(self) -> MultiTaskLoader:
        """The test samples."""
        return self._loader("test")

    def predict_dataloader(self) -> MultiTaskLoader:
        """The samples of :attr:`predict_on`, unaugmented and in order."""
        return self._loader("predict")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert, augment and normalize what came to a GPU as bytes."""
        return self._finisher(batch)

    def teardown(self, stage: str) -> None:
        """End the loader processes."""
        self.close()

    # -- beyond ----------------------------------------------------------------------------------------------------
    def resume(self, epoch: int, batch: int) -> None:
        """Let the training loader begin after ``batch`` batches of ``epoch``. Call it before ``fit``.

        Lightning counts epochs and batches by itself; both counts have to agree, as they do when they are restored from
        one checkpoint.
        """
        self._resume = (epoch, batch)
        if "train" in self._loaders:
            self._loaders["train"].resume(epoch, batch)

    def dataset(self, name: str, split: DataSplit, *, augmented: bool = False) -> TaskDataset:
        """The samples of a task, the same object at each call."""
        key = (name, DataSplit(split), augmented)
        if key not in self._datasets:
            self._datasets[key] = self._build(name, key[1], augmented=augmented)
        return self._datasets[key]

    @property
    def batch_size(self) -> int:
        """Samples of a batch over all tasks; Lightning's batch size finder sets it."""
        return self.options.sampling.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.options = replace(self.options, sampling=self.options.sampling.model_copy(update={"batch_size": int(size)}))
        self.close()

    def sample_ids(self, name: str, split: DataSplit) -> list[str]:
        """The ids of a split of a task, for its fold."""
        return self.descriptions[name].sample_ids(DataSplit(split), self.tasks[name].fold)

    def close(self) -> None:
        """End the loader processes; the next loader starts new ones."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()
        self._cache.release()

    # -- inner -----------------------------------------------------------------------------------------------------
    def _split(self, phase: str) -> DataSplit:
        return DataSplit(self.predict_on) if phase == "predict" else _PHASES[phase]

    def _build(self, name: str, split: DataSplit, *, augmented: bool) -> TaskDataset:
        task, description, options = self.tasks[name], self.descriptions[name], self.options
        dataset = TaskDataset(
            description, task.root, split=split, fold=task.fold, loaders=options.loaders, seed=options.seed, name=name
        )
        modalities = dataset.modalities
        if task.preprocessed != options.preprocessing.id:
            if task.preprocessed != "none":
                raise MMLMisconfigurationException(
                    f"Task '{name}' is preprocessed with '{task.preprocessed}', but preprocessing={options.preprocessing.id} is asked for."
                )
            dataset.preprocessing = build_preprocessing(options.preprocessing.pipeline, modalities)
        self._attach_store(dataset, task)
        if augmented:
            if self._of_batches is not None:
                refuse_all_but_masks(modalities, str(options.augmentations.gpu.backend))
            dataset.augmentation = build_cpu(options.augmentations.cpu, modalities)
        return dataset

    def _attach_store(self, dataset: TaskDataset, task: DataTask) -> None:
        """Stored arrays where there are some; else a store that fills itself, if that is wanted."""
        preprocessing, sampling = self.options.preprocessing, self.options.sampling
        folder = Path(task.root) / STORE_FOLDER
        if task.preprocessed != "none" and is_store(folder):
            if folder not in self._stores:
                self._stores[folder] = open_store(folder, preprocessing=preprocessing, loaders=self.options.loaders)
            dataset.store = StoredArrays(self._stores[folder], dataset)
        elif sampling.cache == "auto" and self._fits_cache:
            steps = preprocessing.pipeline if dataset.preprocessing is not None else ()
            self._cache.attach(dataset, pipeline=steps, loaders=self.options.loaders)

    @functools.cached_property
    def _fits_cache(self) -> bool:
        """Whether the tasks are small enough for ``cache="auto"``; says so once if they are not."""
        limit, count = self.options.sampling.cache_max_size, sum(found.num_samples for found in self.descriptions.values())
        if count > limit:
            warnings.warn(
                f"sampling.cache=auto is not used: {count} samples are more than sampling.cache_max_size={limit}. Raise it, or "
                "preprocess once with mml-ray pp.",
                UserWarning,
                stacklevel=2,
            )
        return count <= limit

    def _loader(self, phase: str) -> MultiTaskLoader:
        """The loader of a phase. Kept, with its processes, while nothing about it changes."""
        key = f"predict {self.predict_on}" if phase == "predict" else phase
        if key not in self._loaders:
            self._loaders[key] = self._make_loader(phase)
        return self._loaders[key]

    def _make_loader(self, phase: str) -> MultiTaskLoader:
        train = phase == "train"
        datasets = [self.dataset(name, self._split(phase), augmented=train) for name in self.tasks]
        if train and not all(len(dataset) for dataset in datasets):
            empty = next(dataset for dataset in datasets if not len(dataset))
            raise DataError(
                f"Task '{empty.name}' has no training samples beside fold {self.tasks[empty.name].fold}. "
                "A training needs at least two folds: create the task again with more."
            )
        return MultiTaskLoader(
            BatchSource(datasets, phase, seeded=train and bool(self.options.augmentations.gpu.pipeline)),
            [self._stream(dataset, phase) for dataset in datasets],
            finisher=self._finisher,
            parallel=train,
            num_workers=worker_count(self.options.num_workers),
            persistent=phase in ("train", "val"),
            pin_memory=self._device().type == "cuda",
            deferred=lambda: self._device().type != "cpu",
            writers=lambda: self._cache.writable(datasets),
        )

    def _stream(self, dataset: TaskDataset, phase: str) -> Stream:
        sampling = self.options.sampling
        share = max(1, sampling.batch_size // len(self.tasks))
        if phase != "train":
            return Stream(dataset.name, len(dataset), max(1, min(share, len(dataset))))
        drawn = sampling.sample_num or len(dataset)
        weights = sample_weights(dataset) if sampling.balanced else None
        return Stream(
            dataset.name, len(dataset), min(share, drawn), shuffle=True, sample_num=sampling.sample_num,
            weights=weights, drop_last=sampling.drop_last, seed=self.options.seed,
        )  # fmt: skip

    def _device(self) -> torch.device:
        """Where the trainer brings batches. Elsewhere than on the CPU they are finished there (:meth:`on_after_batch_transfer`)."""
        trainer: Any = self.trainer
        strategy = trainer.strategy if trainer is not None else None
        return strategy.root_device if strategy is not None else torch.device("cpu")


def sample_weights(dataset: TaskDataset) -> NDArray[np.float64]:
    """Weights that draw all classes equally often; raises for tasks without classes."""
    kind = kind_of(dataset.task_type)
    check_fact(kind, "balanceable", what="sampling.balanced", task=dataset.name)
    labels = dataset.labels()
    return class_weights(labels.astype(np.int64)) if kind.exclusive_classes else multilabel_weights(labels)


def _description(task: DataTask) -> TaskDescription:
    given = task.description
    return given if isinstance(given, TaskDescription) else TaskDescription.load(given)
