"""Decode and preprocess the images of a task once, into a store that every training maps into memory.

The arrays come from the code that loads on the fly (:meth:`TaskDataset.made`), so both give the same pixels. A store serves all
tasks of a dataset, all their folds and variants, and all processes of a node.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import pyarrow as pa
from numpy.typing import NDArray

from mml_ray.data.augment import build_preprocessing
from mml_ray.data.cache.arrow import ArrowReader, ArrowWriter, compact, is_store
from mml_ray.data.cache.decoded import array_keys, file_version
from mml_ray.data.dataset import Sample, TaskDataset
from mml_ray.data.loaders import default_loader
from mml_ray.data.options import PreprocessingOptions
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.attributes import KORNIA_VALID_MODALITIES, DataSplit
from mml_ray.tasks.description import TaskDescription

T = TypeVar("T")
R = TypeVar("R")
#: a part is finished, and kept whatever happens next, when it holds so many bytes or is so many seconds old
PART_BYTES, PART_SECONDS = 256 << 20, 60.0
_SPLITS = (DataSplit.FULL_TRAIN, DataSplit.TEST, DataSplit.UNLABELLED)


@dataclass(frozen=True)
class StoreSummary:
    """Arrays written by this call, arrays that were there and still fit, and the size of the whole store in bytes."""

    written: int
    kept: int
    size: int


def store_definition(preprocessing: PreprocessingOptions, loaders: Mapping[str, str]) -> dict[str, Any]:
    """What was done to the arrays of a store: the steps, and how the files were read."""
    return {
        "id": preprocessing.id,
        "pipeline": [dict(step) for step in preprocessing.pipeline],
        "loaders": {modality: loaders.get(modality, default_loader(modality)) for modality in ("image", "mask")},
    }


def open_store(folder: Path | str, *, preprocessing: PreprocessingOptions, loaders: Mapping[str, str]) -> ArrowReader:
    """The store of ``folder``; one that was made in another way raises :class:`MMLMisconfigurationException`."""
    reader = ArrowReader(folder)
    wanted = store_definition(preprocessing, loaders)
    reader.check({key: wanted[key] for key in ("pipeline", "loaders") if key == "pipeline" or key in reader.definition})
    return reader


def store_arrays(
    description: TaskDescription,
    root: Path | str,
    *,
    folder: Path | str,
    preprocessing: PreprocessingOptions,
    loaders: Mapping[str, str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> StoreSummary:
    """Bring the store ``folder`` up to date: all images (and masks) of the task whose files, below ``root``, are new or changed.

    Works in ``workers`` threads. ``progress`` gets (samples done, samples to do) from the calling thread; what it raises ends the
    work. Whatever ends it, finished arrays stay, and the next call goes on from there. One caller at a time for each folder.

    Raises:
        MMLMisconfigurationException: the store was made otherwise, or the task's targets cannot be stored.
        BrokenSampleError: a file cannot be read.
    """
    definition = store_definition(preprocessing, loaders)
    store = Path(folder)
    for leftover in store.glob(".part-*"):  # of a killed writer
        leftover.unlink(missing_ok=True)
    datasets = [
        _dataset(description, root, split, preprocessing=preprocessing, loaders=loaders)
        for split in _SPLITS
        if description.sample_ids(split)
    ]
    todo, kept = _todo(datasets, _sources(store, definition))
    written = _write(todo, store, definition, workers=workers, progress=progress)
    if is_store(store):
        _tidy(store)
    return StoreSummary(written, kept, sum(path.stat().st_size for path in store.glob("part-*.arrow")))


# -- what is to be done ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Job:
    """One sample: its arrays' keys and the versions of their files, by modality."""

    dataset: TaskDataset
    index: int
    keys: Mapping[str, str]
    versions: Mapping[str, str]

    def make(self) -> Sample:
        return self.dataset.made(self.index)


def _dataset(
    description: TaskDescription,
    root: Path | str,
    split: DataSplit,
    *,
    preprocessing: PreprocessingOptions,
    loaders: Mapping[str, str],
) -> TaskDataset:
    dataset = TaskDataset(description, root, split=split, loaders=loaders)
    if not dataset.storable:
        lost = ", ".join(m for m in dataset.modalities if m in KORNIA_VALID_MODALITIES and m not in ("image", "mask"))
        raise MMLMisconfigurationException(
            f"Task '{description.name}' cannot be stored preprocessed: its {lost} would have to be transformed with the image. "
            "Train with on-the-fly preprocessing: leave pp out."
        )
    dataset = TaskDataset(description, root, split=split, loaders=loaders, modalities=dataset.storable)
    dataset.preprocessing = _PerThread(lambda: build_preprocessing(preprocessing.pipeline, dataset.modalities))
    return dataset


class _PerThread:
    """A callable of its own for each thread: albumentations' objects keep their state in themselves."""

    def __init__(self, build: Callable[[], Callable[[Sample], Sample] | None]) -> None:
        self._build = build
        self._local = threading.local()

    def __call__(self, sample: Sample) -> Sample:
        if not hasattr(self._local, "steps"):
            self._local.steps = self._build()
        steps = self._local.steps
        return sample if steps is None else steps(sample)


def _sources(store: Path, definition: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the arrays that are there were made from, by modality and key."""
    if not is_store(store):
        return {}
    reader = ArrowReader(store, definition=definition)
    return {modality: reader.sources(modality) for modality in ("image", "mask")}


def _todo(datasets: Iterable[TaskDataset], stored: Mapping[str, Mapping[str, str]]) -> tuple[list[_Job], int]:
    """The samples of which an array is missing or outdated, each array once; and how many arrays fit."""
    jobs: list[_Job] = []
    seen: set[tuple[str, str]] = set()
    kept = 0
    for dataset in datasets:
        columns = {modality: keys.to_pylist() for modality, keys in array_keys(dataset).items()}
        entries = {modality: dataset.entries(modality).tolist() for modality in columns}
        for index in range(len(dataset)):
            keys = {modality: column[index] for modality, column in columns.items()}
            if seen.issuperset(keys.items()):
                continue
            seen.update(keys.items())
            versions = _versions({modality: column[index] for modality, column in entries.items()}, dataset.root)
            if all(stored.get(modality, {}).get(key) == versions[modality] for modality, key in keys.items()):
                kept += len(keys)
            else:
                jobs.append(_Job(dataset, index, keys, versions))
    return jobs, kept


def _versions(entries: Mapping[str, str], root: str) -> dict[str, str]:
    """Size and time of change of the files; a mask is shaped like its image, so it follows that, too."""
    image = file_version(os.path.join(root, entries["image"]), "none")
    return {
        modality: image if modality == "image" else f"{file_version(os.path.join(root, entry), 'none')}|{image}"
        for modality, entry in entries.items()
    }


# -- doing it ----------------------------------------------------------------------------------------------------------
def _write(
    jobs: Sequence[_Job],
    store: Path,
    definition: Mapping[str, Any],
    *,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> int:
    parts = _Parts(store, definition)
    with contextlib.closing(_in_order(_Job.make, jobs, workers)) as made, _single_threaded_opencv():
        try:
            for done, (job, sample) in enumerate(zip(jobs, made, strict=True), 1):
                parts.add(job, sample)
                if progress is not None:
                    progress(done, len(jobs))
        except (OSError, pa.ArrowException):
            parts.abort()
            raise
        except BaseException:
            parts.close()
            raise
    parts.close()
    return parts.written


class _Parts:
    """Writes arrays into one part after the other."""

    def __init__(self, store: Path, definition: Mapping[str, Any]) -> None:
        self._store, self._definition = store, definition
        self._writer: ArrowWriter | None = None
        self._bytes, self._began = 0, 0.0
        self.written = 0

    def add(self, job: _Job, sample: Sample) -> None:
        """All arrays of a sample go into the same part."""
        if self._writer is None:
            self._writer = ArrowWriter(self._store, definition=self._definition)
            self._bytes, self._began = 0, time.monotonic()
        for modality, key in job.keys.items():
            array: NDArray[Any] = sample[modality]
            sample_id = job.dataset.ids[job.index]
            self._writer.add(array, key=key, modality=modality, sample_id=sample_id, source=job.versions[modality])
            self._bytes += array.nbytes
            self.written += 1
        if self._bytes >= PART_BYTES or time.monotonic() - self._began > PART_SECONDS:
            self.close()

    def close(self) -> None:
        """Finish the part."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def abort(self) -> None:
        """Throw the part away."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()


def _in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Generator[R, None, None]:
    """``function`` of each item, in threads, in order; few results wait at a time."""
    in_flight: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for item in items:
            in_flight.append(pool.submit(function, item))
            if len(in_flight) > 4 * workers:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Samples run side by side already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _tidy(store: Path) -> None:
    """Rewrite a store of which more than half is outdated."""
    reader = ArrowReader(store)
    live = sum(len(reader.sources(modality)) for modality in ("image", "mask"))
    if len(reader) > 2 * live:
        compact(store)
