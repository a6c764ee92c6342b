"""Mask loaders: one value for each pixel."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from mml_ray.data.loaders.base import Array, FileLoader, read_bytes
from mml_ray.errors import BrokenSampleError, MMLMisconfigurationException
from mml_ray.tasks.attributes import IGNORE_INDEX
from mml_ray.tasks.classes import index_map


class RawMask(FileLoader):
    """The values as stored, unmapped: ``uint8`` or ``uint16``, ``[H, W]``."""

    suffixes = frozenset({".png", ".bmp", ".tif", ".tiff", ".pgm", ".jp2", ".webp", ".jpg", ".jpeg", ".npy"})

    def read(self, path: str) -> Array:
        """Decode; a colour image is only taken when its channels agree."""
        if path.lower().endswith(".npy"):
            mask = np.load(path, allow_pickle=False)
        else:
            mask = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise BrokenSampleError(f"The file {path} cannot be decoded as a mask.")
        return self._single_channel(mask, path)

    @staticmethod
    def _single_channel(mask: Array, path: str) -> Array:
        if mask.dtype == np.bool_:
            mask = mask.astype(np.uint8)
        if mask.dtype not in (np.uint8, np.uint16):
            raise BrokenSampleError(f"The mask {path} holds {mask.dtype}; store uint8 or uint16, one class index for each pixel.")
        if mask.ndim == 2:
            return mask
        if mask.ndim == 3 and mask.shape[2] in (1, 2):
            return np.ascontiguousarray(mask[:, :, 0])
        if mask.ndim == 3 and bool((mask[:, :, :1] == mask[:, :, 1:3]).all()):
            return np.ascontiguousarray(mask[:, :, 0])
        raise BrokenSampleError(
            f"The mask {path} is a colour image (shape {mask.shape}); a mask holds one class index for each pixel. "
            "Transform it when the dataset is created."
        )


class OpenCVMask(RawMask):
    """Class indices ``uint8 [H, W]``: values that no class lists become 0 (background), 255 stays 255 (ignore).

    16-bit masks are looked up the same way, so raw indices up to 65,535 may be listed.
    """

    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """Build the lookup tables."""
        super().__init__(idx_to_class)
        self._wide = np.zeros(1 << 16, np.uint8)
        for raw, final in index_map(idx_to_class).items():
            if not 0 <= raw < 1 << 16 or final >= IGNORE_INDEX:
                raise MMLMisconfigurationException(
                    f"Class index {raw} (class number {final}) does not fit a mask: indices are 0 to 65,535, classes at most 255."
                )
            self._wide[raw] = final
        self._wide[IGNORE_INDEX] = IGNORE_INDEX
        self._narrow = np.ascontiguousarray(self._wide[:256])

    def final(self, raw: Array) -> Array:
        """Map raw values to final class indices."""
        if raw.dtype == np.uint8:
            narrow: Array = cv2.LUT(raw, self._narrow)
            return narrow
        mapped: Array = self._wide[raw]
        return mapped
