"""The classes in masks, and the conversion of colored masks to class numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.imaging import Pixels, read_image, read_mask, write_png
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN, IGNORE_INDEX, Modality
from mml_ray.tasks.classes import Sample

#: a color, or a gray value in a tuple of one
Color = tuple[int, ...]


def mask_values(mask: Pixels, source: Path | str) -> tuple[int, ...]:
    """The values that occur, ascending; :class:`BrokenSampleError` beyond 255, which no class can have."""
    if mask.dtype != np.uint8:
        if mask.dtype.kind not in "bui" or (mask.size and int(mask.max()) > 255):
            raise BrokenSampleError(
                f"The mask {source} holds values up to {mask.max()} ({mask.dtype}); class numbers are 0 to 254. Masks that number objects "
                "must be reduced to classes first."
            )
        mask = mask.astype(np.uint8)
    counts = cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256])
    return tuple(int(value) for value in np.flatnonzero(counts))


def classes_in_masks(samples: Mapping[str, Sample], folder: Path, *, workers: int | None = None) -> dict[str, list[int]]:
    """Sample id -> values in its mask, 255 left out; an empty mask shows class 0 only. Each file is read once, in threads."""
    files = list(dict.fromkeys(sample[Modality.MASK] for sample in samples.values() if Modality.MASK in sample))
    present = dict(zip(files, in_threads(partial(_values_of, folder), files, workers=workers, what="masks"), strict=True))
    return {
        sample_id: [value for value in present[sample[Modality.MASK]] if value != IGNORE_INDEX]
        for sample_id, sample in samples.items()
        if Modality.MASK in sample
    }


def _values_of(folder: Path, entry: str) -> tuple[int, ...]:
    if entry == EMPTY_MASK_TOKEN:
        return (0,)
    path = folder / entry
    return mask_values(read_mask(path), path)


def transform_masks(
    masks: Sequence[Path],
    transform: Mapping[Color, int],
    *,
    labels_folder: Path,
    load: str = "rgb",
    ignore: Iterable[Color] = (),
    workers: int | None = None,
) -> list[Path]:
    """Rewrite each mask, every color (or gray value) replaced by its class, ``ignore``-d ones by 255.

    The results lie below ``labels_folder/transformed_masks`` under the same relative paths, as PNG. A color without a class
    raises :class:`DataError` naming file and color.
    """
    channels = {"rgb": 3, "grayscale": 1}.get(load)
    if channels is None:
        raise MMLMisconfigurationException(f"transform_masks can load masks as rgb or grayscale, got {load!r}.")
    table = {_key(color, channels): _class_number(number) for color, number in transform.items()}
    table |= {_key(color, channels): IGNORE_INDEX for color in ignore}
    job = partial(_transform_one, table=table, labels_folder=labels_folder, channels=channels)
    return in_threads(job, list(masks), workers=workers, what="masks")


def _class_number(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 254:
        raise MMLMisconfigurationException(f"A class number in a mask must be an integer from 0 to 254, got {number!r}.")
    return number


def _key(color: Color, channels: int) -> int:
    if len(color) != channels or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
        raise MMLMisconfigurationException(f"A color must be {channels} integer(s) from 0 to 255, got {color!r}.")
    key = 0
    for value in color:
        key = key * 256 + value
    return key


def _transform_one(path: Path, *, table: Mapping[int, int], labels_folder: Path, channels: int) -> Path:
    if channels == 3:
        image = read_image(path).astype(np.uint32)
        keys = (image[:, :, 0] << 16) | (image[:, :, 1] << 8) | image[:, :, 2]
    else:
        keys = read_mask(path).astype(np.uint32)
    found, inverse = np.unique(keys, return_inverse=True)
    unknown = [int(key) for key in found if int(key) not in table]
    if unknown:
        color = tuple(unknown[0] >> shift & 255 for shift in (16, 8, 0)[-channels:])
        raise DataError(f"The mask {path} has the color {color}, for which no class was given (and {len(unknown) - 1} more).")
    classes = np.array([table[int(key)] for key in found], np.uint8)[inverse].reshape(keys.shape)
    result = labels_folder / "transformed_masks" / path.relative_to(labels_folder).with_suffix(".png")
    write_png(result, classes)
    return result
