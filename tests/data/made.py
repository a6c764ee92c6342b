"""Small tasks with images on disk, for the tests of this room."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mml_ray.data.options import DataTask, LoadingOptions
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN, Modality, RGBInfo, TaskType
from mml_ray.tasks.description import TaskDescription

CLASSES = {0: "background", 3: "cell", 7: "cell", 9: "debris"}


def test_data(*parts: str) -> Path:
    """A file of the shared test data; skips the test where they are absent."""
    root = Path(os.environ.get("MML_RAY_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    found = root.joinpath(*parts)
    if not found.exists():
        pytest.skip(f"the shared test data are not here: {found}")
    return found


def image(number: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """A smooth image that no other number has."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [(rows * (3 + number % 5) + columns * (2 + c) + 40 * c + 11 * number) % 256 for c in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def mask(number: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Raw values 0, 3, 7, 9, one unlisted (5) and the ignore value."""
    values = np.array([0, 3, 7, 9, 5, 255], np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    return values[(rows // 5 + columns // 7 + number) % 6]


def keep(path: Path, pixels: NDArray[Any]) -> None:
    """Write the file unless it is there: its time of change stays."""
    if not path.exists():
        write(path, pixels)


def write(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = pixels[..., ::-1] if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels
    assert cv2.imwrite(str(path), np.ascontiguousarray(shown))


Entry = Callable[[int, Path], dict[Modality, Any]]


def _class(number: int, root: Path) -> dict[Modality, Any]:
    return {Modality.CLASS: [0, 3, 7, 9][number % 4]}


def _classes(number: int, root: Path) -> dict[Modality, Any]:
    return {Modality.CLASSES: [[0], [3, 9], [], [7]][number % 4]}


def _soft(number: int, root: Path) -> dict[Modality, Any]:
    return {Modality.SOFT_CLASSES: [0.1, 0.2, 0.3, 0.4] if number % 2 else [1.0, 0.0, 0.0, 0.0]}


def _value(number: int, root: Path) -> dict[Modality, Any]:
    return {Modality.VALUE: number / 2}


def _mask(number: int, root: Path) -> dict[Modality, Any]:
    if number % 5 == 4:
        return {Modality.MASK: EMPTY_MASK_TOKEN}
    keep(root / f"masks/{number}.png", mask(number))
    return {Modality.MASK: f"masks/{number}.png"}


KINDS: dict[str, tuple[TaskType, Modality, Entry]] = {
    "classification": (TaskType.CLASSIFICATION, Modality.CLASS, _class),
    "hard": (TaskType.MULTILABEL_CLASSIFICATION, Modality.CLASSES, _classes),
    "soft": (TaskType.MULTILABEL_CLASSIFICATION, Modality.SOFT_CLASSES, _soft),
    "regression": (TaskType.REGRESSION, Modality.VALUE, _value),
    "segmentation": (TaskType.SEMANTIC_SEGMENTATION, Modality.MASK, _mask),
}


def description(kind: str, root: Path, *, count: int = 12, folds: int = 3, name: str | None = None) -> TaskDescription:
    """``count`` training, 3 test and 2 unlabelled samples with images below ``root``."""
    task_type, modality, entry = KINDS[kind]
    samples: dict[str, dict[Modality, Any]] = {}
    for number in range(count + 5):
        keep(root / f"images/{number}.png", image(number))
        samples[f"s{number:03d}"] = {Modality.IMAGE: f"images/{number}.png", **entry(number, root)}
    ids = list(samples)
    return TaskDescription(
        name=name or f"made_{kind}",
        task_type=task_type,
        modalities={Modality.IMAGE: "png; ", modality: "png; " if kind == "segmentation" else ""},
        means=RGBInfo(0.5, 0.25, 0.125),
        stds=RGBInfo(0.25, 0.5, 0.125),
        idx_to_class={} if kind == "regression" else dict(CLASSES),
        train_folds=[ids[fold:count:folds] for fold in range(folds)],
        train_samples={key: samples[key] for key in ids[:count]},  # type: ignore[misc]
        test_samples={key: samples[key] for key in ids[count : count + 3]},  # type: ignore[misc]
        unlabeled_samples={key: {Modality.IMAGE: samples[key][Modality.IMAGE]} for key in ids[count + 3 :]},
    )


def data_task(kind: str, root: Path, *, fold: int = 0, **others: Any) -> DataTask:
    made = description(kind, root, **others)
    return DataTask(made.name, made, root, fold=fold)


FLIPS = {
    "normalization": None,
    "cpu": {
        "backend": "albumentations",
        "pipeline": [{"name": "HorizontalFlip", "p": 0.5}, {"name": "RandomBrightnessContrast"}],
    },
}


def options(*, batch_size: int = 4, workers: int = 0, seed: int = 1, **others: Any) -> LoadingOptions:
    """Small batches with augmentation, no cache."""
    sampling = {"batch_size": batch_size, "cache": "off", **others.pop("sampling", {})}
    augmentations = others.pop("augmentations", FLIPS)
    return LoadingOptions.of(sampling=sampling, augmentations=augmentations, num_workers=workers, seed=seed, **others)


def ids_of(batches: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The sample ids of each batch, over its tasks."""
    return [[sample for fields in batch.values() for sample in fields["sample_id"]] for batch in batches]
