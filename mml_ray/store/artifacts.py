"""Descriptions of what was trained: a model, an ensemble of models. JSON files whose paths are relative to the results root."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.store.pipeline import PIPELINE_KEYS, PipelineCfg
from mml_ray.store.run import model_updates

log = logging.getLogger(__name__)
S = TypeVar("S", bound="_Stored")
__all__ = ["PIPELINE_KEYS", "EnsembleStorage", "ModelStorage", "PipelineCfg"]


class _Stored:
    """What both storages share: where they lie, and paths that are relative in the file and absolute in memory."""

    _key: ClassVar[str]
    path: Path | None

    def _write(self, content: Mapping[str, Any], path: Path) -> Path:
        atomic.write_json(path, content)
        self.path = path
        return path

    def _new_path(self, target: Any, file_name: str) -> Path:
        """Where to store: a path, or a struct (anything with a name) for which the file manager gives one."""
        if isinstance(target, str | Path):
            return Path(os.path.abspath(target))
        from mml_ray.store.manager import MMLFileManager

        manager = MMLFileManager.instance()
        return manager.construct_saving_path(self, self._key, task_name=str(target.name), file_name=file_name)


@dataclass
class ModelStorage(_Stored):
    """One trained model of one fold: where its parts lie, how it did, what was predicted with it.

    ``performance``: the score it was selected by (None: not finite or unknown); ``training_time`` in seconds (-1: unknown);
    ``metrics``: one dict per epoch, then one per test; ``predictions``: by task; ``seen_samples``: by task, the ids of the
    samples it was trained on; ``origin``: the storage of the model it was initialised from. Paths are absolute here.
    """

    _key: ClassVar[str] = "models"

    pipeline: Path | None = None
    parameters: Path | None = None
    performance: float | None = None
    training_time: float = -1.0
    task: str | None = None
    fold: int | None = None
    created: str | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    predictions: dict[str, Path] = field(default_factory=dict)
    seen_samples: dict[str, list[str]] = field(default_factory=dict)
    origin: Path | None = None
    path: Path | None = field(default=None, compare=False)
    _before: tuple[dict[str, Path], int] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path | str, results_root: Path | str | None = None) -> ModelStorage:
        """Read a storage, with everything that was committed to change in it.

        Raises:
            DataError: the file is not a model storage.
            FileNotFoundError: there is none.
        """
        root, path = _root(results_root), Path(os.path.abspath(path))
        content = model_updates.load(path)
        if "pipeline" not in content or "parameters" not in content:
            raise DataError(f"{path} is not a model storage: it has no 'pipeline' and 'parameters'.")
        predictions, metrics = model_updates.apply_updates(content)
        fold, performance = content.get("fold"), content.get("performance")
        storage = cls(
            pipeline=_absolute(content["pipeline"], root),
            parameters=_absolute(content["parameters"], root),
            performance=None if performance is None else float(performance),
            training_time=float(content.get("training_time", -1.0)),
            task=content.get("task"),
            fold=None if fold is None else int(fold),
            created=content.get("created"),
            metrics=metrics,
            predictions={task: root / item for task, item in predictions.items()},
            seen_samples=content.get("seen_samples") or {},
            origin=_absolute(content.get("origin"), root),
            path=path,
        )
        storage._before = (dict(storage.predictions), len(metrics))
        return storage

    @property
    def file_name(self) -> str:
        """``fold_<k>.json``; fold 0 is fold 0, and a model without a fold is ``model.json``."""
        return "model.json" if self.fold is None else f"fold_{self.fold}.json"

    def store(self, target: Any = None, *, results_root: Path | str | None = None) -> Path:
        """Write the storage to a path, or for a struct to where the file manager says; without a target, back to where it was
        loaded from.

        A storage that was loaded is not rewritten: inside a command its change is committed with the command, outside it is added
        to the file.

        Raises:
            ValueError: no target, and it was never stored; or a target, and it was.
            MMLMisconfigurationException: a path outside the results root, or a change that is no addition.
        """
        if (target is None) == (self.path is None):
            given = "new, so it needs a target" if target is None else f"stored at {self.path} already, so it takes no target"
            raise ValueError(f"This model storage is {given}.")
        root = _root(results_root)
        if self._before is not None and self.path is not None:
            return self._store_change(self.path, root)
        if self.path is None:
            self._warn_about(target)
            self.created = self.created or time.strftime("%Y-%m-%dT%H:%M:%S")
        path = self.path or self._new_path(target, self.file_name)
        return self._write(self._content(root), path)

    def _content(self, root: Path) -> dict[str, Any]:
        content: dict[str, Any] = {
            "pipeline": _relative(self.pipeline, root),
            "parameters": _relative(self.parameters, root),
            "performance": self.performance,
            "training_time": self.training_time,
            "task": self.task,
            "fold": self.fold,
            "created": self.created,
            "metrics": self.metrics,
            "predictions": {task: _relative(path, root) for task, path in self.predictions.items()},
        }
        if self.seen_samples:
            content["seen_samples"] = self.seen_samples
        if self.origin is not None:
            content["origin"] = _relative(self.origin, root)
        return content

    def change(self, results_root: Path | str | None = None) -> dict[str, Any]:
        """What was added since :meth:`load`, in the form of ``models_update`` ({}: nothing).

        Raises:
            MMLMisconfigurationException: metrics or predictions were taken away.
        """
        root = _root(results_root)
        predictions, count = self._before or ({}, 0)
        if len(self.metrics) < count or any(task not in self.predictions for task in predictions):
            raise MMLMisconfigurationException(f"Metrics or predictions were removed from {self.path}; they can only be added.")
        new = {task: path for task, path in self.predictions.items() if predictions.get(task) != path}
        delta: dict[str, Any] = {}
        if new:
            delta["predictions"] = {task: f"results:{_relative(path, root)}" for task, path in new.items()}
        if len(self.metrics) > count:
            delta["append_metrics"] = copy.deepcopy(self.metrics[count:])
        return delta

    def _store_change(self, path: Path, root: Path) -> Path:
        from mml_ray.store.manager import MMLFileManager

        delta = self.change(root)
        manager = MMLFileManager.instance() if MMLFileManager.exists() else None
        if delta and manager is not None and manager.attempt is not None:
            manager.note_model_update(path, delta)
        elif delta:
            model_updates.write_updates(path, [model_updates.entry("", f"by hand {time.time_ns()}", 0, delta)])
            self._before = (dict(self.predictions), len(self.metrics))
        return path

    def _warn_about(self, target: Any) -> None:
        name = getattr(target, "name", None) if not isinstance(target, str | Path) else None
        if name is not None and self.task is not None and name != self.task:
            log.warning("A model of task '%s' is stored for task '%s'.", self.task, name)


@dataclass
class EnsembleStorage(_Stored):
    """An ensemble of stored models: ``members`` are the paths of their storages, ``weights`` sum to one (empty: uniform)."""

    _key: ClassVar[str] = "ensemble"

    performance: float | None = None
    weights: list[float] = field(default_factory=list)
    members: list[Path] = field(default_factory=list)
    predictions: dict[str, Path] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    search_params: dict[str, Any] = field(default_factory=dict)
    created: str | None = None
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise MMLMisconfigurationException("An ensemble needs at least one member.")
        if not self.weights:
            self.weights = [1.0 / len(self.members)] * len(self.members)
        if len(self.weights) != len(self.members):
            raise MMLMisconfigurationException(
                f"An ensemble of {len(self.members)} members was given {len(self.weights)} weights."
            )

    @classmethod
    def load(cls, path: Path | str, results_root: Path | str | None = None) -> EnsembleStorage:
        """Read a storage. Errors as :meth:`ModelStorage.load`."""
        root, path = _root(results_root), Path(os.path.abspath(path))
        content = model_updates.load(path)
        if "members" not in content:
            raise DataError(f"{path} is no ensemble storage: it has no 'members'.")
        return cls(
            performance=content.get("performance"),
            weights=[float(weight) for weight in content.get("weights") or ()],
            members=[root / member for member in content["members"]],
            predictions={task: root / item for task, item in (content.get("predictions") or {}).items()},
            metrics=content.get("metrics") or {},
            search_params=content.get("search_params") or {},
            created=content.get("created"),
            path=path,
        )

    def store(self, target: Any, *, file_name: str = "ensemble.json", results_root: Path | str | None = None) -> Path:
        """Write the storage to a path, or for a struct to where the file manager says.

        Raises:
            MMLMisconfigurationException: the file is not called ``.json``, or a path lies outside the results root.
        """
        root = _root(results_root)
        if not str(target if isinstance(target, str | Path) else file_name).endswith(".json"):
            raise MMLMisconfigurationException(
                f"An ensemble is stored as .json, not as {target if isinstance(target, str | Path) else file_name}."
            )
        self.created = self.created or time.strftime("%Y-%m-%dT%H:%M:%S")
        content = {
            "performance": self.performance,
            "weights": self.weights,
            "members": _all_relative(self.members, root),
            "predictions": {task: _relative(path, root) for task, path in self.predictions.items()},
            "metrics": self.metrics,
            "search_params": self.search_params,
            "created": self.created,
        }
        return self._write(content, self._new_path(target, file_name))

    def get_members(self, results_root: Path | str | None = None) -> list[ModelStorage]:
        """The stored models, in the order of the weights; warns where they are of different tasks."""
        models = [ModelStorage.load(member, results_root) for member in self.members]
        tasks = {model.task for model in models}
        if len(tasks) > 1:
            log.warning("The members of %s are models of different tasks: %s.", self.path, ", ".join(sorted(map(str, tasks))))
        return models

    def tasks(self, results_root: Path | str | None = None) -> list[str | None]:
        """The task of each member."""
        return [model.task for model in self.get_members(results_root)]

    def folds(self, results_root: Path | str | None = None) -> list[int | None]:
        """The fold of each member."""
        return [model.fold for model in self.get_members(results_root)]


def _root(results_root: Path | str | None) -> Path:
    if results_root is not None:
        return Path(os.path.abspath(results_root))
    from mml_ray.store.manager import MMLFileManager

    return MMLFileManager.instance().results_path


def _absolute(stored: str | None, root: Path) -> Path | None:
    return None if stored in (None, "None") else root / str(stored)


def _relative(path: Path | str | None, root: Path) -> str | None:
    if path is None:
        return None
    absolute = Path(os.path.abspath(path))
    for base in (root, root.resolve()):
        if absolute.is_relative_to(base):
            return absolute.relative_to(base).as_posix()
    raise MMLMisconfigurationException(
        f"{path} does not lie below the results root {root}: what a storage names must move with it. Get paths from "
        "fm.construct_saving_path(...)."
    )


def _all_relative(paths: Sequence[Path], root: Path) -> list[str]:
    return [str(_relative(path, root)) for path in paths]
