"""What a loader is: it turns one entry of a task description into an array or a number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mml_ray.errors import BrokenSampleError, DataError, UserError

# Parallelism comes from processes; OpenCV's own threads would only compete with them.
cv2.setNumThreads(0)

Array = NDArray[Any]


class ModalityLoader(ABC):
    """Reads the entries of one modality. One object serves one task; it must survive pickling.

    Register a subclass with ``registry.add("loader", "<name>", Loader)``.
    """

    #: suffixes (lower case, with the dot) of files it reads; empty: its entries are values, not files
    suffixes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """``idx_to_class`` as in the task's description: raw index to class name; may be empty."""
        self.idx_to_class = dict(idx_to_class)

    @abstractmethod
    def raw(self, entry: Any, root: str) -> Any:
        """The value of ``entry`` as it is preprocessed and stored; relative paths start at the folder ``root``.

        Raises :class:`DataError` (for a file: :class:`BrokenSampleError`) that names the entry.
        """

    def final(self, raw: Any) -> Any:
        """What the task makes of a raw value, after preprocessing (masks: the mapping to class indices)."""
        return raw

    def load(self, entry: Any, root: str) -> Any:
        """The final value of ``entry``."""
        return self.final(self.raw(entry, root))

    @classmethod
    def matches(cls, entry: Any) -> bool:
        """Whether this loader can read ``entry``, judged by its type and suffix."""
        if not cls.suffixes:
            return not isinstance(entry, str)
        return isinstance(entry, str) and os.path.splitext(entry)[1].lower() in cls.suffixes


class FileLoader(ModalityLoader):
    """A loader of files; subclasses implement :meth:`read`."""

    def raw(self, entry: Any, root: str) -> Array:
        """The content of the file ``entry``."""
        if not isinstance(entry, str):
            raise DataError(f"{type(self).__name__} reads files, but the entry is {entry!r}; it has to be a path.")
        path = os.path.join(root, entry)
        try:
            return self.read(path)
        except FileNotFoundError:
            raise BrokenSampleError(f"The file {path} does not exist. Create the task again, or restore the file.") from None
        except Exception as error:
            if path.lower().endswith(".npy") and ".npy" not in self.suffixes:
                raise BrokenSampleError(
                    f"The file {path} is an array, which {type(self).__name__} does not read: choose loaders=numpy, or loaders=uni for "
                    "files of several kinds."
                ) from error
            if isinstance(error, UserError):
                raise
            raise BrokenSampleError(f"The file {path} cannot be read ({type(error).__name__}: {error}).") from error

    @abstractmethod
    def read(self, path: str) -> Array:
        """The content of the file at ``path``; any exception becomes a :class:`BrokenSampleError`."""


def read_bytes(path: str) -> bytes:
    """The whole file, checked for the end marks of JPEG and PNG: decoders fill up cut off files with grey in silence."""
    data = Path(path).read_bytes()
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise BrokenSampleError(f"The file {path} is cut off: {len(data):,} bytes without the end mark of a JPEG.")
    if data[:4] == b"\x89PNG" and data.rfind(b"IEND") < 0:
        raise BrokenSampleError(f"The file {path} is cut off: {len(data):,} bytes without the end mark of a PNG.")
    return data


def as_rgb8(array: Array, path: str) -> Array:
    """``uint8 [H, W, 3]`` from grey, grey + alpha, RGB or RGBA of 8 or 16 bit, or of floats in [0, 1]; alpha is dropped.

    16-bit values keep their upper byte, as OpenCV does.
    """
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        if array.size and not (float(array.min()) >= 0.0 and float(array.max()) <= 1.0):
            raise BrokenSampleError(f"The image {path} holds floats outside [0, 1]; store uint8, uint16 or floats in [0, 1].")
        array = np.rint(array * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        raise BrokenSampleError(f"The image {path} holds {array.dtype}; store uint8, uint16 or floats in [0, 1].")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise BrokenSampleError(f"The image {path} has the shape {array.shape}; expected [height, width(, 1 to 4)].")
    if array.shape[2] <= 2:
        return np.ascontiguousarray(np.repeat(array[:, :, :1], 3, axis=2))
    return np.ascontiguousarray(array[:, :, :3])
