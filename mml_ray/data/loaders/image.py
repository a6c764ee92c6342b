"""Image loaders: whatever the file holds, the result is ``uint8 [height, width, 3]`` in RGB order."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from mml_ray.data.loaders.base import Array, FileLoader, ModalityLoader, as_rgb8, read_bytes
from mml_ray.data.optional import require_torchvision, torchvision_mismatch
from mml_ray.errors import BrokenSampleError, MissingExtraError

_COMMON = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"})


_NPY_MAGIC = b"\x93NUMPY"


class OpenCVImage(FileLoader):
    """OpenCV; turns images as their EXIF data say."""

    suffixes = _COMMON | {".jp2", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", ".sr", ".ras"}

    def read(self, path: str) -> Array:
        """Decode the file."""
        image: Array | None = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise BrokenSampleError(f"The file {path} cannot be decoded as an image.")
        return image


class PillowImage(FileLoader):
    """Pillow; turns images as their EXIF data say."""

    suffixes = _COMMON | {".gif", ".avif", ".ico", ".tga", ".ppm", ".pgm", ".pbm"}

    def read(self, path: str) -> Array:
        """Decode the file."""
        image = _open_pillow(path)
        return as_rgb8(np.asarray(image), path)


class AcceleratedPillowImage(PillowImage):
    """As :class:`PillowImage`, same pixels; takes them out of Pillow through its Arrow interface (0.1 ms less for 640x480)."""

    def read(self, path: str) -> Array:
        """Decode the file."""
        image = _open_pillow(path)
        if image.mode != "RGB" or not hasattr(image, "__arrow_c_array__"):
            return as_rgb8(np.asarray(image), path)
        try:
            pixels = np.asarray(pa.array(image).flatten()).reshape(image.height, image.width, 4)
        except ValueError:  # large images lie in several blocks
            return as_rgb8(np.asarray(image), path)
        rgb: Array = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
        return rgb


class ScikitImage(FileLoader):
    """scikit-image; needs the package ``scikit-image``."""

    suffixes = _COMMON | {".gif"}

    def read(self, path: str) -> Array:
        """Decode the file."""
        if importlib.util.find_spec("skimage") is None:
            raise MissingExtraError.of("scikit-image", "scikit", "The loader 'scikit'")
        from skimage.io import imread

        image = np.asarray(imread(io.BytesIO(read_bytes(path))))
        return as_rgb8(image[0] if image.ndim == 4 else image, path)  # of an animation the first picture, as others give


class NumpyImage(FileLoader):
    """Arrays in ``.npy`` files: ``[H, W]`` or ``[H, W, C]``."""

    suffixes = frozenset({".npy"})

    def read(self, path: str) -> Array:
        """Read the array; pickled objects are refused."""
        with open(path, "rb") as file:
            if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
                raise BrokenSampleError(
                    f"The file {path} is no .npy file; the loader 'numpy' reads no others (loaders=uni does)."
                )
        return as_rgb8(np.load(path, allow_pickle=False), path)


class TorchvisionImage(FileLoader):
    """torchvision; needs the package and a build that matches the installed torch."""

    suffixes = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp"})

    def read(self, path: str) -> Array:
        """Decode the file."""
        require_torchvision("The loader 'torchvision'")
        import torch
        from torchvision.io import ImageReadMode, decode_image

        data = torch.frombuffer(bytearray(read_bytes(path)), dtype=torch.uint8)
        try:
            image = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError as error:
            if "extension" in str(error):
                raise torchvision_mismatch("The loader 'torchvision'", error) from error
            raise
        return as_rgb8(image.permute(1, 2, 0).numpy(), path)  # 16 bits stay 16 bits in torchvision


class CombinedImage(ModalityLoader):
    """The first loader whose suffixes fit; the order is the same wherever it runs, installed packages or not."""

    loaders: tuple[type[FileLoader], ...] = (OpenCVImage, NumpyImage, PillowImage, TorchvisionImage, ScikitImage)

    def raw(self, entry: Any, root: str) -> Any:
        """Read with the first loader that matches."""
        for loader in self.loaders:
            if loader.matches(entry):
                return loader(self.idx_to_class).raw(entry, root)
        known = sorted(set().union(*(loader.suffixes for loader in self.loaders)))
        raise BrokenSampleError(f"No loader reads the image {entry!r}; known suffixes: {' '.join(known)}.")

    @classmethod
    def matches(cls, entry: Any) -> bool:
        """Whether one of the loaders matches."""
        return any(loader.matches(entry) for loader in cls.loaders)


def _open_pillow(path: str) -> Any:
    """The decoded image, turned as its EXIF data say, in mode L, LA, RGB, RGBA or I;16."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError.of("pillow", "pillow", "The loader 'pillow'")
    from PIL import Image, ImageOps

    image: Any = Image.open(io.BytesIO(read_bytes(path)))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if image.mode == "I":  # 16 bit in the container of 32
        return image.convert("I;16")
    return image.convert("RGB")
