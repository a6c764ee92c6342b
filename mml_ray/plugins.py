"""Plugins: installed packages that extend mml-ray, found through the entry-point group ``mml_ray.plugins``.

The value of an entry point is a module (imported) or a function (called without arguments). Either may register
entries (:mod:`mml_ray.registry`), add path assignments, and offer configuration: a module attribute
``CONFIG_PACKAGE = "my_plugin.configs"`` puts that package's hydra tree on the search path.
The driver and every worker load them before anything else.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from mml_ray.errors import MMLMisconfigurationException

GROUP = "mml_ray.plugins"


@dataclass(frozen=True)
class Plugin:
    """One loaded plugin: its name, the version of its package, the configuration package it offers (or '')."""

    name: str
    version: str
    config_package: str = ""


@cache
def load() -> tuple[Plugin, ...]:
    """Load every plugin once per process, sorted by name; a plugin that cannot be imported ends the start."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(_load_one(point) for point in points)


def _load_one(point: EntryPoint) -> Plugin:
    try:
        target = point.load()
        if callable(target):
            target()
        module = importlib.import_module(point.module)
    except Exception as error:
        raise MMLMisconfigurationException(
            f"Plugin '{point.name}' ({point.value}) cannot be loaded: {type(error).__name__}: {error}. "
            "Repair or uninstall its package."
        ) from error
    version = point.dist.version if point.dist is not None else "unknown"
    return Plugin(name=point.name, version=version, config_package=getattr(module, "CONFIG_PACKAGE", ""))
