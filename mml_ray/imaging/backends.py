"""Backends: each decodes some file formats with one library. Registry kind ``image_backend``."""

from __future__ import annotations

import importlib.util
import io
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from mml_ray.errors import BrokenSampleError, MissingExtraError
from mml_ray.imaging.files import read_bytes
from mml_ray.imaging.pixels import Pixels
from mml_ray.registry import registry

_COMMON = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_NPY_MAGIC = b"\x93NUMPY"


class ImageBackend(ABC):
    """Reads files of some formats. A format is added with ``registry.add("image_backend", "<name>", Backend)``.

    Methods may raise anything for a file they cannot read; the reader turns it into a :class:`BrokenSampleError` that names the file.
    """

    #: suffixes (lower case, with the dot) of the files it reads; a file of another name is read if its content allows it
    suffixes: ClassVar[frozenset[str]]
    reads_masks: ClassVar[bool] = False

    @abstractmethod
    def image(self, path: str) -> Pixels:
        """``[H, W]`` or ``[H, W, C]`` gray, gray + alpha, RGB or RGBA, turned as the file's EXIF data say."""

    def mask(self, path: str) -> Pixels:
        """The stored values, ``[H, W]`` or ``[H, W, C]``; only called where :attr:`reads_masks` is set."""
        raise BrokenSampleError(f"The file {path} cannot be read as a mask: {type(self).__name__} reads images only.")


class OpenCVBackend(ImageBackend):
    """OpenCV, which recognizes formats by content."""

    suffixes = _COMMON | {".jp2", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".sr", ".ras"}
    reads_masks = True

    def image(self, path: str) -> Pixels:
        """Decode to RGB of 8 bit."""
        return self._decode(path, cv2.IMREAD_COLOR_RGB)

    def mask(self, path: str) -> Pixels:
        """Decode without conversion; palettes become colors."""
        return self._decode(path, cv2.IMREAD_UNCHANGED)

    @staticmethod
    def _decode(path: str, flags: int) -> Pixels:
        decoded: Pixels | None = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), flags)
        if decoded is None:
            raise BrokenSampleError(f"The file {path} cannot be decoded: it is damaged or of an unknown format.")
        return decoded


class NumpyBackend(ImageBackend):
    """Arrays in ``.npy`` files; pickled objects are refused."""

    suffixes = frozenset({".npy"})
    reads_masks = True

    def image(self, path: str) -> Pixels:
        """Read the array."""
        with open(path, "rb") as file:
            if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:  # numpy would take it for a pickle, and say so
                raise BrokenSampleError(f"The file {path} is not a NumPy array.")
            file.seek(0)
            array: Pixels = np.load(file, allow_pickle=False)
        return array

    mask = image


class PillowBackend(ImageBackend):
    """Pillow."""

    suffixes = _COMMON | {".gif", ".avif", ".tga", ".ppm", ".pgm", ".pbm"}

    def image(self, path: str) -> Pixels:
        """Decode to gray, RGB or 16 bit; of an animation the first picture."""
        return np.asarray(self._open(path))

    @staticmethod
    def _open(path: str) -> Any:
        """The decoded image in mode L, LA, RGB, RGBA or I;16."""
        from PIL import Image, ImageOps

        image: Any = Image.open(io.BytesIO(read_bytes(path)))
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or image.mode in ("L", "LA", "RGB", "RGBA"):
            return image
        return image.convert("I;16" if image.mode == "I" else "RGB")  # I: 16 bit in a container of 32


class AcceleratedPillowBackend(PillowBackend):
    """As :class:`PillowBackend`, same pixels; takes them through Pillow's Arrow interface (0.1 ms less for 640x480)."""

    def image(self, path: str) -> Pixels:
        """Decode the file."""
        image = self._open(path)
        if image.mode != "RGB" or not hasattr(image, "__arrow_c_array__"):
            return np.asarray(image)
        try:
            pixels = np.asarray(pa.array(image).flatten()).reshape(image.height, image.width, 4)
        except ValueError:  # Pillow keeps large images in several blocks
            return np.asarray(image)
        rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
        return rgb


class ScikitBackend(ImageBackend):
    """scikit-image, an optional package."""

    suffixes = _COMMON | {".gif"}

    def image(self, path: str) -> Pixels:
        """Decode the file; of an animation the first picture."""
        if importlib.util.find_spec("skimage") is None:
            raise MissingExtraError.of("scikit-image", "scikit", "The loader 'scikit'")
        from skimage.io import imread

        image = np.asarray(imread(io.BytesIO(read_bytes(path))))
        return image[0] if image.ndim == 4 else image


class TorchvisionBackend(ImageBackend):
    """torchvision, an optional package that has to match the installed torch."""

    suffixes = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp"})

    def image(self, path: str) -> Pixels:
        """Decode to RGB of 8 or 16 bit."""
        from mml_ray.imaging.torchvision import decode_rgb

        return decode_rgb(path)


#: in the order in which they are asked for a suffix, the same on all machines; those of plugins follow by name
SHIPPED: dict[str, type[ImageBackend]] = {
    "opencv": OpenCVBackend,
    "numpy": NumpyBackend,
    "pillow": PillowBackend,
    "torchvision": TorchvisionBackend,
    "scikit": ScikitBackend,
    "pillow_acc": AcceleratedPillowBackend,
}
for _name, _backend in SHIPPED.items():
    registry.add("image_backend", _name, _backend)
