"""Loaders, by name (registry kind ``loader``): from an entry of a task description to an array or a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mml_ray.data.loaders.base import FileLoader, ModalityLoader
from mml_ray.data.loaders.image import (
    AcceleratedPillowImage,
    CombinedImage,
    NumpyImage,
    OpenCVImage,
    PillowImage,
    ScikitImage,
    TorchvisionImage,
)
from mml_ray.data.loaders.labels import ClassLoader, MultiLabelClassLoader, SoftLabelClassLoader, ValueLoader
from mml_ray.data.loaders.mask import OpenCVMask, RawMask
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.registry import registry
from mml_ray.tasks.kinds import all_kinds

__all__ = ["FileLoader", "ModalityLoader", "build_loader", "default_loader"]

_SHIPPED: dict[str, type[ModalityLoader]] = {
    "opencv": OpenCVImage,
    "pillow": PillowImage,
    "pillow_acc": AcceleratedPillowImage,
    "scikit": ScikitImage,
    "numpy": NumpyImage,
    "torchvision": TorchvisionImage,
    "combined": CombinedImage,
    "opencv_mask": OpenCVMask,
    "raw_mask": RawMask,
    "class": ClassLoader,
    "multi_label": MultiLabelClassLoader,
    "soft_label": SoftLabelClassLoader,
    "value": ValueLoader,
}
for _name, _loader in _SHIPPED.items():
    registry.add("loader", _name, _loader)


class HasClasses(Protocol):
    """A task description, or its header."""

    @property
    def idx_to_class(self) -> Mapping[int, str]:
        """Raw index to class name."""


def default_loader(modality: str) -> str | None:
    """The loader of ``modality`` where the configuration names none: that of the kind of task it is the target of."""
    return "opencv" if modality == "image" else next((kind.loader for kind in all_kinds() if kind.target == modality), None)


def build_loader(modality: str, name: str | None, task: HasClasses) -> ModalityLoader:
    """The loader ``name`` (``None``: see :func:`default_loader`) of ``modality``, for one task.

    ``<name>_<modality>`` goes before ``<name>``, so ``opencv`` means ``opencv_mask`` for masks.
    """
    chosen = name or default_loader(modality)
    if chosen is None:
        raise MMLMisconfigurationException(
            f"No loader is set for the modality '{modality}'. Set loaders.{modality}=<name>; registered: "
            f"{', '.join(registry.names('loader'))}."
        )
    made: type[ModalityLoader] = registry.find("loader", f"{chosen}_{modality}") or registry.lookup("loader", chosen)
    return made(task.idx_to_class)
