"""Writing images: PNG, the one format in which datasets are made."""

from __future__ import annotations

from pathlib import Path

import cv2

from mml_ray.errors import BrokenSampleError
from mml_ray.imaging.pixels import Pixels


def write_png(path: Path, image: Pixels, *, compression: int = 3) -> None:
    """Write ``[H, W]`` or RGB ``[H, W, 3]`` (uint8 or uint16) as PNG; makes the folder."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        is_encoded, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    except cv2.error as error:
        raise BrokenSampleError(f"The image {path} cannot be written: {image.shape} of {image.dtype} ({error}).") from error
    if not is_encoded:
        raise BrokenSampleError(f"The image {path} cannot be written: {image.shape} of {image.dtype}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
