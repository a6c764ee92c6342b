"""The stores of a node: each image is decoded once, for all processes.

Whoever wins the claim of a store writes what it decodes anyway; all others decode on the fly and take up finished parts at
the start of each epoch. A store serves all folds, trials and tasks that read the same files the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2

from mml_ray.data.cache.decoded import GrowingArrays
from mml_ray.data.cache.node_folder import Claim, default_cache_dir
from mml_ray.data.dataset import TaskDataset
from mml_ray.data.loaders import default_loader


class NodeCache:
    """Gives datasets their self-filling stores and says which of them this process may fill."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        """``cache_dir``: a folder on a disk of this node, :func:`default_cache_dir` if ``None``."""
        self._cache_dir = cache_dir
        self._claims: dict[Path, Claim] = {}

    def attach(self, dataset: TaskDataset, *, pipeline: Sequence[Mapping[str, Any]], loaders: Mapping[str, str]) -> None:
        """Let ``dataset`` use the store of its files; without one, with a warning, if the folder cannot be used."""
        if not dataset.storable:
            return
        definition = cache_definition(dataset.root, pipeline=pipeline, loaders=loaders)
        try:
            folder = cache_folder(self._cache_dir, definition)
            dataset.store = GrowingArrays(folder, dataset, definition)
        except OSError as error:
            warnings.warn(f"sampling.cache=auto is not used: {error}", UserWarning, stacklevel=2)

    def writable(self, datasets: Sequence[TaskDataset]) -> frozenset[int]:
        """The positions of the datasets whose stores lack arrays and may be filled by this process."""
        found = set()
        for position, dataset in enumerate(datasets):
            store = dataset.store
            if isinstance(store, GrowingArrays):
                store.refresh()
                if not store.complete and self._claims.setdefault(store.folder, Claim(store.folder)).acquire(create=True):
                    found.add(position)
        return frozenset(found)

    def release(self) -> None:
        """Give up all claims."""
        for claim in self._claims.values():
            claim.release()
        self._claims.clear()


def cache_definition(root: str, *, pipeline: Any, loaders: Mapping[str, str]) -> dict[str, Any]:
    """What makes two stores the same: the files' folder, how they are read, what is done to them, and by which versions."""
    versions = {name: metadata.version(name) for name in ("albumentations", "numpy")} | {"opencv": str(cv2.__version__)}
    return {
        "root": os.path.realpath(root),
        "pipeline": [dict(step) for step in pipeline],
        "loaders": {modality: loaders.get(modality, default_loader(modality)) for modality in ("image", "mask")},
        "versions": versions,
    }


def cache_folder(cache_dir: Path | None, definition: Mapping[str, Any]) -> Path:
    """Where the store of ``definition`` is; makes the folder above it, which no other user may write."""
    base = cache_dir or default_cache_dir()
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    if cache_dir is None and base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to another user")
    digest = hashlib.blake2b(json.dumps(definition, sort_keys=True).encode(), digest_size=12).hexdigest()
    return base / digest
