"""torchvision as an optional package: its decoder, and what to say where it is missing or does not match torch."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

from mml_ray.errors import MissingExtraError, MMLMisconfigurationException
from mml_ray.imaging.files import read_bytes
from mml_ray.imaging.pixels import Pixels


def decode_rgb(path: str) -> Pixels:
    """``[H, W, 3]`` of 8 or 16 bit, turned as the file's EXIF data say."""
    require_torchvision("The loader 'torchvision'")
    import torch
    from torchvision.io import ImageReadMode, decode_image

    data = torch.frombuffer(bytearray(read_bytes(path)), dtype=torch.uint8)
    try:
        image = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError as error:
        if "extension" in str(error):
            raise _mismatch("The loader 'torchvision'", error) from error
        raise
    pixels: Pixels = image.permute(1, 2, 0).numpy()
    return pixels


def require_torchvision(needed_for: str) -> None:
    """Import torchvision.

    Raises:
        MissingExtraError: it is not installed.
        MMLMisconfigurationException: it was built for another torch.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise MissingExtraError.of("torchvision", "torchvision", needed_for)
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, OSError, ImportError) as error:
        raise _mismatch(needed_for, error) from error


def _mismatch(needed_for: str, error: Exception) -> MMLMisconfigurationException:
    return MMLMisconfigurationException(
        f"{needed_for} needs torchvision, but torchvision {metadata.version('torchvision')} does not fit torch "
        f"{metadata.version('torch')} ({error}). Install both from the same source in one call of pip: a CPU-only torch needs "
        "the CPU-only torchvision."
    )
