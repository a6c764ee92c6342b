"""Architectures by name (the ``backend`` of ``arch``): where features come from. A backend is loaded when it is built."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.registry import registry

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mml_ray.models.architectures.base import Architecture

DEFAULT_ARCH: dict[str, Any] = {"backend": "monai", "name": "resnet_small"}


class _Lazy:
    """A backend that lives in a module of this folder and is imported when it is called."""

    def __init__(self, module: str, dense: Collection[str] | None) -> None:
        self._module = module
        self.dense = dense

    def __call__(self, params: Mapping[str, Any]) -> Architecture:
        made: Architecture = importlib.import_module(f"mml_ray.models.architectures.{self._module}").create(params)
        return made


#: backend -> its networks with features of places; ``None``: all of them
for _backend, _dense in (("monai", ("basic_unet",)), ("timm", ()), ("smp", None)):
    registry.add("architecture", _backend, _Lazy(_backend, _dense))


def supports(arch: Mapping[str, Any], route: str) -> bool:
    """Whether heads for tasks of a configuration route fit the network that ``arch`` describes, told without building it; of a
    backend that a plugin brings nobody knows before.
    """
    from mml_ray.models.architectures.base import needed_features

    backend = registry.find("architecture", str(arch.get("backend", DEFAULT_ARCH["backend"])))
    if not isinstance(backend, _Lazy) or backend.dense is None or needed_features(route) == "pooled":
        return True
    return arch.get("name") in backend.dense


def create_architecture(arch: Mapping[str, Any] | None) -> Architecture:
    """The architecture that the configuration group ``arch`` describes: ``backend``, ``name``, and what the backend takes.

    A backend is any registered callable ``(params) -> Architecture``; ``params`` is ``arch`` without ``backend``.
    """
    from mml_ray.models.architectures.base import Architecture

    params = dict(DEFAULT_ARCH if arch is None else arch)
    backend = str(params.pop("backend", DEFAULT_ARCH["backend"]))
    made = registry.lookup("architecture", backend)(params)
    if not isinstance(made, Architecture):
        raise MMLMisconfigurationException(
            f"The architecture backend '{backend}' made a {type(made).__name__}, not an Architecture."
        )
    return made
