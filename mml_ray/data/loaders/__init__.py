"""Loaders, by name (registry kind ``loader``): from an entry of a task description to an array or a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from mml_ray.data.loaders.base import FileLoader, ModalityLoader
from mml_ray.data.loaders.files import ImageLoader, MaskLoader, RawMaskLoader
from mml_ray.data.loaders.labels import ArrayLoader, ClassLoader, MultiLabelClassLoader, SoftLabelClassLoader, ValueLoader
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.registry import registry
from mml_ray.tasks.kinds import all_kinds

__all__ = ["FileLoader", "ModalityLoader", "build_loader", "default_loader"]

#: makes the loader for one task from its ``idx_to_class``
LoaderFactory = Callable[[Mapping[int, str]], ModalityLoader]

_SHIPPED: dict[str, LoaderFactory] = {
    "combined": ImageLoader,
    "opencv_mask": MaskLoader,
    "raw_mask": RawMaskLoader,
    "class": ClassLoader,
    "multi_label": MultiLabelClassLoader,
    "soft_label": SoftLabelClassLoader,
    "value": ValueLoader,
    "array": ArrayLoader,
}
# every backend of images is a loader, too: loaders.image=<backend>
_SHIPPED |= {name: partial(ImageLoader, backend=name) for name in registry.names("image_backend")}
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
            f"No loader is set for the modality '{modality}'. Set loaders.{modality} to one of: {', '.join(registry.names('loader'))}."
        )
    factory: LoaderFactory = registry.find("loader", f"{chosen}_{modality}") or registry.lookup("loader", chosen)
    return factory(task.idx_to_class)
