"""Importing the libraries behind the extras, with errors that say what to install."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from mml_ray.errors import MissingExtraError, MMLMisconfigurationException

T = TypeVar("T")

_MISMATCH = (
    "{extra} needs torchvision, and the torchvision here does not fit this torch ({torch}): {error}. Install both together, as the "
    "selector on PyTorch's site says for this machine; a torch for CPUs needs the torchvision for CPUs. arch=monai needs none."
)


def load_extra(module: str, package: str, extra: str) -> Any:
    """The imported ``module``; missing, or next to a torchvision that does not fit, it raises a user error."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(str(error.name or package), extra, f"arch={extra}") from error
    except (RuntimeError, ImportError, OSError) as error:
        if "torchvision" not in str(error):
            raise
        import torch

        raise MMLMisconfigurationException(
            _MISMATCH.format(extra=f"arch={extra}", torch=torch.__version__, error=error)
        ) from error


def with_weights(make: Callable[[], T], name: str, switch: str) -> T:
    """Make a network whose weights may be downloaded; a failing download says how to do without it."""
    try:
        return make()
    except OSError as error:  # what requests, httpx and the hub raise is one of these
        raise MMLMisconfigurationException(
            f"The pretrained weights of '{name}' cannot be loaded: {error}. Check the connection, or train from scratch with {switch}."
        ) from error
