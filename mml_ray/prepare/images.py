"""Reading image files with suspicion: a file that is cut off, damaged or absurdly large is named, never half believed.

Decoders differ in what they let pass (some fill the rest of a cut JPEG with grey), so the structure of PNG and JPEG files is
checked before they are decoded.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mml_ray.errors import BrokenSampleError

Pixels = npt.NDArray[Any]
#: files with more pixels are refused; 2**28 pixels of three channels take 0.8 GB
MAX_PIXELS = 1 << 28
IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .bmp .dib .tif .tiff .webp .jp2 .pbm .pgm .ppm .pnm .sr .ras .gif .avif .npy".split()
)
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class ImageFacts:
    """What one look at an image tells: sides in pixels, channel sums over [0, 1] values, and a digest of its pixels."""

    height: int
    width: int
    mean: tuple[float, float, float]
    mean_of_squares: tuple[float, float, float]
    digest: str


def read_image(path: Path) -> Pixels:
    """The image as ``[H, W, 3]`` uint8, RGB; grey images are repeated, alpha is dropped, EXIF orientation is applied."""
    if path.suffix.lower() == ".npy":
        return _as_rgb(_load_array(path), path)
    rgb: Pixels = cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return rgb


def read_mask(path: Path) -> Pixels:
    """The mask as ``[H, W]``, values as stored (uint8, or uint16 of 16-bit files)."""
    mask = _load_array(path) if path.suffix.lower() == ".npy" else _decode(path, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3 and mask.shape[2] == 4:
        mask = mask[:, :, :3]
    if mask.ndim == 3 and (mask == mask[:, :, :1]).all():
        mask = mask[:, :, 0]
    if mask.ndim != 2:
        raise BrokenSampleError(
            f"The mask {path} is coloured; a mask holds one number for each pixel. DSetCreator.transform_masks maps colours to "
            "classes."
        )
    return mask


def look_at(path: Path) -> ImageFacts:
    """Read an image once and tell everything a task wants to know of it."""
    return facts_of(read_image(path))


def facts_of(image: Pixels) -> ImageFacts:
    """The same of an image that was read already, ``[H, W, 3]`` uint8."""
    means, deviations = cv2.meanStdDev(image)
    mean = means.ravel() / 255
    squares = (deviations.ravel() / 255) ** 2 + mean**2
    digest = hashlib.blake2b(image.data, digest_size=16, person=str(image.shape).encode()[:16])
    r, g, b = (float(value) for value in mean)
    r2, g2, b2 = (float(value) for value in squares)
    return ImageFacts(image.shape[0], image.shape[1], (r, g, b), (r2, g2, b2), digest.hexdigest())


def is_image(path: Path) -> bool:
    """Whether the name of a file says it is an image (hidden files are none)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def write_png(path: Path, image: Pixels, *, compression: int = 3) -> None:
    """Write ``[H, W]`` or RGB ``[H, W, 3]`` (uint8 or uint16) as PNG; makes the folder."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        done, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    except cv2.error as error:
        raise BrokenSampleError(f"An image {image.shape} of {image.dtype} cannot be written to {path}: {error}") from error
    if not done:
        raise BrokenSampleError(f"An image {image.shape} of {image.dtype} cannot be written to {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _decode(path: Path, flags: int) -> Pixels:
    data = _bytes_of(path)
    fault = _fault(data)
    if fault:
        raise BrokenSampleError(f"The image {path} is broken: {fault}.")
    try:
        image: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BrokenSampleError(f"The image {path} cannot be decoded: {str(error).strip()}") from error
    if image is None or image.size == 0:
        raise BrokenSampleError(f"The image {path} cannot be decoded: it is damaged or of an unknown format.")
    return image


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenSampleError(f"The image {path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise BrokenSampleError(f"The image {path} is broken: it is empty.")
    return data


def _load_array(path: Path) -> Pixels:
    try:
        array: Any = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy evaluates the header; what damage makes of it has many kinds
        raise BrokenSampleError(f"The array {path} cannot be read: {error}.") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or array.size == 0:
        raise BrokenSampleError(f"The array {path} is no image: it has to have two or three dimensions and some pixels.")
    return array


def _as_rgb(array: Pixels, path: Path) -> Pixels:
    if array.dtype != np.uint8:
        raise BrokenSampleError(f"The array {path} holds {array.dtype}, an image has to hold uint8.")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] not in (1, 3, 4):
        raise BrokenSampleError(f"The array {path} has {array.shape[2]} channels, an image has 1, 3 or 4.")
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3])


def _fault(data: bytes) -> str:
    """What is wrong with the structure of an image file, '' if nothing is or its format is another one."""
    if data.startswith(_PNG):
        return _png_fault(data)
    if data.startswith(_JPEG):
        return _jpeg_fault(data)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = (abs(int.from_bytes(data[start : start + 4], "little", signed=True)) for start in (18, 22))
        return _too_large(width, height)
    return ""


def _too_large(width: int, height: int) -> str:
    return f"it claims {width} x {height} pixels, more than {MAX_PIXELS} are refused" if width * height > MAX_PIXELS else ""


def _png_fault(data: bytes) -> str:
    """Chunks have to be complete with right checksums, from IHDR to IEND (PNG specification, section 5)."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return f"a wrong checksum in its part {kind.decode('latin-1')!r}"
        if kind == b"IHDR":
            sides = [int.from_bytes(data[start : start + 4], "big") for start in (position + 8, position + 12)]
            if too_large := _too_large(*sides):
                return too_large
        if kind == b"IEND":
            return ""
        position = end
    return "it is cut off"


def _jpeg_fault(data: bytes) -> str:
    """Segments up to the start of scan have to be complete, and an end marker has to follow (ITU T.81, annex B)."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return "a segment does not start where it should"
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 9 <= len(data):
            height, width = (int.from_bytes(data[start : start + 2], "big") for start in (position + 5, position + 7))
            if too_large := _too_large(width, height):
                return too_large
        position += 2 + length
        if marker == 0xDA:
            return "" if data.find(b"\xff\xd9", position) >= 0 else "it is cut off"
    return "it is cut off"
