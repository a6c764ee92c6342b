"""The task structs that one command works with, and what it changed on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mml_ray.composition.portable import plain
from mml_ray.errors import MMLMisconfigurationException, TaskNotFoundError, unknown_name_message
from mml_ray.store.artifacts import ModelStorage
from mml_ray.store.manager import MMLFileManager
from mml_ray.tasks.struct import TaskStruct


class StructBook:
    """Hands out structs, one object for each name until the next :meth:`reset`, and finds out what was changed on them."""

    def __init__(self) -> None:
        #: each struct, and its paths and models as they were when it was handed out
        self._structs: dict[str, tuple[TaskStruct, dict[str, Any], set[str]]] = {}

    def reset(self) -> None:
        """Forget all structs, so that :meth:`get` reads them again."""
        self._structs.clear()

    def get(self, name: str, manager: MMLFileManager, *, preprocessing: str) -> TaskStruct:
        """The struct of a task with everything committed so far attached to it; tagged variants are created when missing.

        Raises:
            TaskNotFoundError: neither the task nor, for a tagged one, its base exists.
        """
        if name in self._structs:
            return self._structs[name][0]
        from mml_ray.prepare.variants import ensure_task

        ensure_task(manager.data, name, preprocessing=preprocessing)
        struct: TaskStruct = manager.data.struct(name, preprocessing)
        reused = manager.reusables.get(name, {})
        state = manager.task_state(name)
        struct.paths.update({key: path for key, path in reused.items() if key != "models"})
        struct.paths.update({key: manager.absolute(path) for key, path in state["paths"].items()})
        struct.models.extend(reused.get("models", []))
        known = {storage.path for storage in struct.models}
        fresh = [path for path in map(manager.absolute, state["models"]) if path not in known]
        struct.models.extend(manager.load_model(path) for path in fresh)
        self._structs[name] = struct, dict(struct.paths), {str(model.path) for model in struct.models}
        return struct

    def deltas(self, manager: MMLFileManager) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was changed since the structs were handed out: set paths and appended models by task; updates by model storage.

        Raises:
            MMLMisconfigurationException: a model was attached that is not stored, or a value that is not a path.
        """
        structs: dict[str, Any] = {}
        updates: dict[str, Any] = {}
        for name, (struct, paths, models) in self._structs.items():
            changed = {key: value for key, value in struct.paths.items() if paths.get(key) != value}
            set_paths = {key: manager.stored(_path(name, key, value)) for key, value in changed.items()}
            removed = [key for key in paths if key not in struct.paths]
            if removed:
                raise MMLMisconfigurationException(
                    f"Path keys were deleted from the struct of '{name}': {', '.join(removed)}. A command can only set them."
                )
            appended = [_stored_model(name, model, manager) for model in struct.models if str(model.path) not in models]
            if set_paths or appended:
                structs[name] = {"set_paths": set_paths, "append_models": appended}
            for model in struct.models:
                if str(model.path) in models and (change := model.change(manager.results_path)):
                    updates[manager.stored(model.path)] = change
        return structs, {**manager.model_updates, **updates}


def check_tasks(names: list[str], manager: MMLFileManager, *, preprocessing: str) -> None:
    """Check that every task, or the base of a tagged one, is in the data root, and that the arguments of its tags fit.

    Raises:
        TaskNotFoundError: a task does not exist; names the nearest ones.
        UnknownNameError: an unknown tag. MMLMisconfigurationException, DataError: a tag whose arguments do not fit.
    """
    from mml_ray.prepare.variants import derived
    from mml_ray.tasks.tags import check

    known = manager.data.index()
    for name in names:
        if name not in known and check(name).base not in known:
            hint = "Create it first: mml-ray create tasks=... (mml-ray info lists the existing tasks)."
            raise TaskNotFoundError(unknown_name_message("task", name, known, hint))
    for name in names:
        if name not in known:
            derived(manager.data, name, preprocessing)


def check_preprocessing(cfg: DictConfig, manager: MMLFileManager) -> None:
    """Check that stored preprocessed images match ``cfg.preprocessing``.

    Raises:
        MMLMisconfigurationException: they were made with other steps. DataError: they were made from an older version of the task.
    """
    from mml_ray.prepare.preprocessed import check_preprocessed

    content = plain(cfg, "preprocessing")
    names = [str(name) for name in cfg.task_list]
    check_preprocessed(manager.data, names, preprocessing=str(content["id"]), pipeline=content.get("pipeline") or [])


def _path(task: str, key: str, value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise MMLMisconfigurationException(
            f"struct.paths['{key}'] of '{task}' must be a path, got {type(value).__name__}. Store the object under a path from "
            "fm.construct_saving_path(...) and attach that path."
        )
    return Path(value)


def _stored_model(task: str, model: ModelStorage, manager: MMLFileManager) -> str:
    if model.path is None or not manager.files.exists(model.path):
        raise MMLMisconfigurationException(
            f"A model was attached to the struct of '{task}' before it was stored. Call its store() first."
        )
    return manager.stored(model.path)
