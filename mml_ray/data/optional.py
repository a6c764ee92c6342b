"""Packages that only some choices need."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

from mml_ray.errors import MissingExtraError, MMLMisconfigurationException


def require_torchvision(needed_for: str) -> None:
    """Import torchvision, or say what is wrong: not installed, or built for another torch."""
    if importlib.util.find_spec("torchvision") is None:
        raise MissingExtraError.of("torchvision", "torchvision", needed_for)
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, OSError, ImportError) as error:
        raise torchvision_mismatch(needed_for, error) from error


def torchvision_mismatch(needed_for: str, error: Exception) -> MMLMisconfigurationException:
    """What to say when torchvision is there, but its compiled part is not for this torch."""
    return MMLMisconfigurationException(
        f"{needed_for} needs torchvision, but torchvision {metadata.version('torchvision')} does not fit torch "
        f"{metadata.version('torch')} ({error}). Install both from the same source in one call of pip: a CPU-only torch needs "
        "the CPU-only torchvision."
    )
