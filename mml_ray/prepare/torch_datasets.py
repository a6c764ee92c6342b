"""Map-style datasets (``len`` and ``[]``, as PyTorch has them) written as files.

``<kind>_data/<class>/<000123>.png`` for classification, ``<kind>_data/<000123>.png`` otherwise, masks in
``<kind>_labels/<000123>.png``; numbers go on over all kinds. The class folder is the class's name, or its index in three digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.imaging import Pixels, write_png
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.kinds import kind_of

KINDS = ("training", "testing", "unlabeled")
_TRANSFORMS = ("transform", "target_transform", "transforms")


def extract_dataset(
    datasets: Mapping[str, Any],
    task_type: TaskType,
    *,
    folder: Path,
    allow_transforms: bool = False,
    class_names: Sequence[str] | None = None,
    workers: int = 4,
) -> None:
    """Write all samples. They are (image, target) tuples or mappings by modality, unlabelled ones an image alone.

    Images are PIL images or uint8 arrays ``[H, W]`` or ``[H, W, 3]``; a dataset with transforms active is refused unless allowed.
    """
    unknown = set(datasets) - set(KINDS)
    if unknown or not datasets:
        raise MMLMisconfigurationException(
            f"The keys of datasets must be among {', '.join(KINDS)}, got {', '.join(datasets) or 'none'}."
        )
    wanted, supported = kind_of(task_type), (Modality.CLASS, Modality.MASK)
    if wanted.target not in supported and not wanted.unlabelled and set(datasets) != {"unlabeled"}:
        raise MMLMisconfigurationException(
            f"Datasets can only be extracted if the target is {' or '.join(supported)} or there is none, not for {task_type.value}."
        )
    number = 0
    with ThreadPoolExecutor(max_workers=workers) as pool:
        pending: list[Future[None]] = []
        for kind in KINDS:
            dataset = datasets.get(kind, ())
            if not allow_transforms:
                _refuse_transforms(dataset, kind)
            for position in range(len(dataset)):
                for path, pixels in _files(dataset[position], kind, task_type, class_names=class_names, stem=f"{number:06d}"):
                    pending.append(pool.submit(write_png, folder / path, pixels))
                number += 1
                if len(pending) > 8 * workers:
                    pending.pop(0).result()
        for future in pending:
            future.result()


def _refuse_transforms(dataset: Any, kind: str) -> None:
    active = [name for name in _TRANSFORMS if getattr(dataset, name, None) is not None]
    if active:
        raise MMLMisconfigurationException(
            f"The {kind} dataset has an active {active[0]}, which would be written into the files. Set it to None, or pass "
            "allow_transforms=True."
        )


def _files(
    sample: Any, kind: str, task_type: TaskType, *, class_names: Sequence[str] | None, stem: str
) -> list[tuple[str, Pixels]]:
    """The files of one sample, as (relative path, pixels)."""
    image, target = _take_apart(sample, kind, task_type)
    pixels = _pixels(_as_colors(image), f"{kind} sample {stem}")
    target_kind = kind_of(task_type)
    if kind == "unlabeled" or target_kind.unlabelled:
        return [(f"{kind}_data/{stem}.png", pixels)]
    if target_kind.labels_in_files:
        mask = _pixels(_as_numbers(target), f"mask of {kind} sample {stem}")
        return [(f"{kind}_data/{stem}.png", pixels), (f"{kind}_labels/{stem}.png", mask)]
    index = int(target)
    if class_names is not None and not 0 <= index < len(class_names):
        raise DataError(f"The {kind} sample {stem} has the class {index}; {len(class_names)} names were given.")
    name = class_names[index] if class_names is not None else f"{index:03d}"
    return [(f"{kind}_data/{name}/{stem}.png", pixels)]


def _take_apart(sample: Any, kind: str, task_type: TaskType) -> tuple[Any, Any]:
    target = kind_of(task_type).target
    if isinstance(sample, Mapping):
        return sample[Modality.IMAGE], sample.get(target) if target is not None else None
    if isinstance(sample, tuple | list):
        if kind != "unlabeled" and target is not None and len(sample) != 2:
            raise DataError(f"A {kind} sample must be (image, target), got {len(sample)} parts.")
        return sample[0], sample[1] if len(sample) > 1 else None
    if kind != "unlabeled" and target is not None:
        raise DataError(f"A {kind} sample must be (image, target), got {type(sample).__name__}.")
    return sample, None


def _as_colors(image: Any) -> Any:
    """A PIL image in a mode that arrays show as it looks; floats are left to be refused."""
    if not _is_pillow(image) or image.mode in ("RGB", "L", "I;16", "F"):
        return image
    return image.convert("I;16" if image.mode == "I" else "RGB")  # I: 16 bit in the container of 32


def _as_numbers(mask: Any) -> Any:
    """A mask whose array holds its class numbers: palettes by index, black and white as 0 and 1."""
    if not _is_pillow(mask) or mask.mode in ("L", "P", "I;16"):
        return mask
    return np.asarray(mask).astype(np.uint8) if mask.mode == "1" else mask.convert("I;16" if mask.mode == "I" else "RGB")


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "mode") and hasattr(image, "convert")


def _pixels(image: Any, what: str) -> Pixels:
    array: Pixels = np.asarray(image)
    if array.dtype not in (np.uint8, np.uint16) or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        found = f"{type(image).__name__} {array.shape} {array.dtype}"
        raise DataError(f"The {what} must be a PIL image or a uint8 array [H, W] or [H, W, 3], got {found}.")
    return array
