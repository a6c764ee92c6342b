"""Create datasets and tasks; every call may be repeated.

What exists is used. A creation that was killed left its mark: its dataset is removed and created again, its downloads are kept. So
is a dataset of own data on which no task could be described, since its source may have been fixed. Two processes that create the
same thing wait for one another.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.prepare.context import CreationContext, activated
from mml_ray.prepare.dataset import DatasetUnderConstruction
from mml_ray.prepare.own.records import NOTES
from mml_ray.prepare.registration import TaskEntry, call_creator
from mml_ray.prepare.variants import ensure_task
from mml_ray.registry import registry
from mml_ray.store.data_root import DataRoot, writing
from mml_ray.tasks.description import clean_name
from mml_ray.tasks.tags import parse

__all__ = ["CreationContext", "create_dataset", "create_task", "dataset_of_task", "known_tasks"]

log = logging.getLogger(__name__)


def known_tasks() -> list[str]:
    """The names of all tasks that have a creator of their own."""
    names = registry.names("task_creator")
    return [name for name in names if not getattr(registry.lookup("task_creator", name), "sourced", False)]


def dataset_of_task(name: str, source: Mapping[str, Any] | None = None) -> str:
    """The dataset that the task ``name`` is described on; ``source`` as in the context, for tasks made without Python."""
    base = parse(name).base
    return base if _is_sourced(base, source or {}) else _task_entry(base, source or {}).dset_name


def _is_sourced(name: str, source: Mapping[str, Any]) -> bool:
    return bool(source.get("creator")) and str(source.get("name")) == name


def _task_entry(name: str, source: Mapping[str, Any]) -> TaskEntry:
    wanted = str(source["creator"]) if _is_sourced(name, source) else name
    hint = "Images of your own become a task with tasks=from_folder or tasks=from_table."
    entry = registry.lookup("task_creator", wanted, hint)
    if not isinstance(entry, TaskEntry):
        raise MMLMisconfigurationException(f"The creator of task '{name}' was not registered with register_taskcreator.")
    return entry


def create_dataset(name: str, context: CreationContext) -> Path:
    """The folder of the dataset ``name``; its creator makes it if it does not exist or was left unfinished."""
    root = context.data_root
    folder = root.dataset_path(name)
    if _is_usable(name, context):
        log.info("Dataset '%s' already exists: %s", name, folder)
        return folder
    wanted = str(context.source["creator"]) if _is_sourced(name, context.source) else name
    creator = registry.lookup("dset_creator", wanted, "A plugin registers its own with register_dsetcreator.")
    with root.locked(f"DSET_{clean_name(name)}"):
        root.refresh()
        if _is_usable(name, context):
            return folder
        if folder.exists():
            if root.is_complete(name):
                log.info("No task has been described on dataset '%s' so far; it is recreated from its source.", name)
            else:
                log.warning("Dataset '%s' was left unfinished by an earlier run; it is recreated.", name)
            with writing(folder):
                shutil.rmtree(folder)
        with writing(folder), activated(context), DatasetUnderConstruction(folder):
            made = call_creator(creator, context)
            _check_made(made, folder, name)
    root.refresh()
    return folder


def _is_usable(name: str, context: CreationContext) -> bool:
    """Whether the dataset is complete; own data with a source and no task is not: the source may have been fixed since."""
    root, source = context.data_root, context.source
    if not root.is_complete(name):
        return False
    folder = root.dataset_path(name)
    if not _is_sourced(name, source) or not source.get("path") or not (folder / NOTES).is_file():
        return True
    if not Path(str(source["path"])).expanduser().exists():
        return True
    inside = folder.relative_to(root.path)
    return any(Path(path).parent == inside for stored in root.index().values() for path in stored.values())


def _check_made(made: Any, folder: Path, name: str) -> None:
    if not isinstance(made, Path) or made.absolute() != folder.absolute():
        raise DataError(f"The creator of dataset '{name}' must return its folder {folder}, it returned {made!r}.")
    if not any(path.name != "wip.txt" for path in folder.iterdir()):
        raise DataError(f"The creator of dataset '{name}' put nothing into {folder}.")


def create_task(name: str, context: CreationContext) -> Path:
    """The description of the task ``name``; its creator makes it if it does not exist.

    Its dataset (for a tagged variant, its base) must exist.
    """
    root = context.data_root
    if parse(name).tags:
        return ensure_task(root, name)
    if (found := _existing(root, name)) is not None:
        log.info("Task '%s' already exists: %s", name, found)
        return found
    entry = _task_entry(name, context.source)
    dataset = dataset_of_task(name, context.source)
    folder = root.dataset_path(dataset)
    with contextlib.ExitStack() as locks:
        if _is_sourced(name, context.source):  # so that no other process recreates its dataset meanwhile
            locks.enter_context(root.locked(f"DSET_{clean_name(dataset)}"))
        locks.enter_context(root.locked(f"TASK_{clean_name(name)}"))
        if not root.is_complete(dataset):
            raise DataError(
                f"Task '{name}' needs the dataset '{dataset}', which is missing or unfinished in {root.path}. Create the dataset first."
            )
        root.refresh()
        if (found := _existing(root, name)) is not None:
            return found
        with activated(context), writing(folder):
            made = entry(folder, context)
        if made is not None and not isinstance(made, Path):
            raise DataError(f"The creator of task '{name}' must return a path or None, it returned {made!r}.")
    root.refresh()
    if (found := _existing(root, name)) is None:
        raise DataError(f"The creator of task '{name}' ended, but described no task of this name in {folder}.")
    return found


def _existing(root: DataRoot, name: str) -> Path | None:
    relative = root.index().get(name, {}).get("none")
    return root.path / relative if relative is not None else None
