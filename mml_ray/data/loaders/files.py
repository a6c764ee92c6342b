"""Loaders of images and masks, through the reader of :mod:`mml_ray.imaging`."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from mml_ray.data.loaders.base import FileLoader
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.imaging import Pixels, read_image, read_mask
from mml_ray.tasks.attributes import IGNORE_INDEX
from mml_ray.tasks.classes import index_map

# Parallelism comes from processes; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)


class ImageLoader(FileLoader):
    """Images as ``uint8 [H, W, 3]`` in RGB order, whatever the files hold."""

    def __init__(self, idx_to_class: Mapping[int, str], backend: str | None = None) -> None:
        """``backend`` is the registered one to read with; ``None``: the first that reads files of their suffix."""
        super().__init__(idx_to_class)
        self._backend = backend

    def read(self, path: str) -> Pixels:
        """Decode the file."""
        return read_image(path, self._backend)


class RawMaskLoader(FileLoader):
    """Masks with their values as stored, unmapped: ``uint8`` or ``uint16``, ``[H, W]``."""

    def read(self, path: str) -> Pixels:
        """Decode the file."""
        return read_mask(path)


class MaskLoader(RawMaskLoader):
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

    def final(self, raw: Pixels) -> Pixels:
        """Map raw values to final class indices."""
        if raw.dtype == np.uint8:
            narrow: Pixels = cv2.LUT(raw, self._narrow)
            return narrow
        mapped: Pixels = self._wide[raw]
        return mapped
