"""Descriptions of what was trained: a model, an ensemble of models. JSON files whose paths are relative to the results root."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.store.files import LOCAL, Files
from mml_ray.store.pipeline import PIPELINE_KEYS, PipelineCfg, path_for
from mml_ray.store.run import model_updates

if TYPE_CHECKING:
    from mml_ray.store.manager import MMLFileManager

log = logging.getLogger(__name__)
__all__ = ["PIPELINE_KEYS", "EnsembleStorage", "ModelStorage", "PipelineCfg"]


@dataclass
class ModelStorage:
    """One trained model of one fold: where its parts lie, how it did, what was predicted with it.

    ``performance``: the score it was selected by (None: not finite or unknown); ``training_time`` in seconds (-1: unknown);
    ``metrics``: one dict per epoch, then one per test; ``predictions``: by task; ``seen_samples``: by task, the ids of the
    samples it was trained on; ``origin``: the storage of the model it was initialized from. Paths are absolute in memory, and
    relative to the results root in the file.
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
    def load(cls, path: Path | str, results_root: Path | str, files: Files = LOCAL) -> ModelStorage:
        """Read a storage, with everything that was committed to change in it. In a scheduler: ``self.fm.load_model(path)``.

        Raises:
            DataError: the file is not a model storage.
            FileNotFoundError: it is missing.
        """
        root, path = Path(os.path.abspath(results_root)), Path(os.path.abspath(path))
        content = model_updates.load(path, files)
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

    def store(self, target: Any = None, manager: MMLFileManager | None = None, *, results_root: Path | str | None = None) -> Path:
        """Write the storage to a path, or for a struct to where the file manager says; without a target, back to where it was
        loaded from. In a scheduler ``manager`` is ``self.fm``; elsewhere ``results_root`` is enough for a path.

        A storage that was loaded is not rewritten: inside a command its change is committed with the command, outside (or without
        a manager) it is added to the file.

        Raises:
            ValueError: a new storage without a target, or one that was stored before with a target.
            MMLMisconfigurationException: a path outside the results root, or a change that is not an addition.
        """
        if (target is None) == (self.path is None):
            given = "new, so it needs a target" if target is None else f"already stored at {self.path}, so it takes no target"
            raise ValueError(f"This model storage is {given}.")
        root = _root(manager, results_root)
        if self.path is None:
            self.path = path_for(self, self._key, target, manager, file_name=self.file_name)
            self._warn_about(target)
            self.created = self.created or time.strftime("%Y-%m-%dT%H:%M:%S")
        if self._before is None:
            atomic.write_json(self.path, self._content(root))
        elif delta := self.change(root):
            if manager is not None and manager.attempt is not None:
                manager.note_model_update(self.path, delta)
            else:
                model_updates.write_updates(self.path, [model_updates.entry("", f"by hand {time.time_ns()}", 0, delta)])
                self._before = (dict(self.predictions), len(self.metrics))
        return self.path

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

    def change(self, results_root: Path | str) -> dict[str, Any]:
        """What was added since :meth:`load`, in the form of ``models_update`` ({}: nothing).

        Raises:
            MMLMisconfigurationException: metrics or predictions were taken away.
        """
        root = Path(os.path.abspath(results_root))
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

    def _warn_about(self, target: Any) -> None:
        name = getattr(target, "name", None) if not isinstance(target, str | Path) else None
        if name is not None and self.task is not None and name != self.task:
            log.warning("A model of task '%s' is stored for task '%s'.", self.task, name)


@dataclass
class EnsembleStorage:
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
    def load(cls, path: Path | str, results_root: Path | str, files: Files = LOCAL) -> EnsembleStorage:
        """Read a storage. Errors as :meth:`ModelStorage.load`."""
        root, path = Path(os.path.abspath(results_root)), Path(os.path.abspath(path))
        content = model_updates.load(path, files)
        if "members" not in content:
            raise DataError(f"{path} is not an ensemble storage: it has no 'members'.")
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

    def store(
        self,
        target: Any,
        manager: MMLFileManager | None = None,
        *,
        file_name: str = "ensemble.json",
        results_root: Path | str | None = None,
    ) -> Path:
        """Write the storage to a path, or for a struct to where the file manager says.

        Raises:
            MMLMisconfigurationException: the file is not called ``.json``, or a path lies outside the results root.
        """
        root = _root(manager, results_root)
        named = str(target) if isinstance(target, str | Path) else file_name
        if not named.endswith(".json"):
            raise MMLMisconfigurationException(f"The file of an ensemble must be called <name>.json, got '{named}'.")
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
        self.path = path_for(self, self._key, target, manager, file_name=file_name)
        atomic.write_json(self.path, content)
        return self.path

    def get_members(self, results_root: Path | str, files: Files = LOCAL) -> list[ModelStorage]:
        """The stored models, in the order of the weights; warns where they are of different tasks."""
        models = [ModelStorage.load(member, results_root, files) for member in self.members]
        tasks = {model.task for model in models}
        if len(tasks) > 1:
            log.warning("The members of %s are models of different tasks: %s.", self.path, ", ".join(sorted(map(str, tasks))))
        return models


def _root(manager: MMLFileManager | None, results_root: Path | str | None) -> Path:
    if results_root is not None:
        return Path(os.path.abspath(results_root))
    if manager is None:
        raise MMLMisconfigurationException("A storage needs the file manager to be stored: store(..., manager=self.fm).")
    return manager.results_path


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
