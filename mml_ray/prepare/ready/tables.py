"""Datasets that are an archive with a table of samples, and the tasks described on them.

A row becomes a sample by a function of ``(row, folder of the table)``; rows whose column ``split`` is ``test`` form the test split, all others the
training split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_ray.errors import DataError
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import SampleList
from mml_ray.prepare.own.table_files import Row, read_table
from mml_ray.prepare.registration import register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import Modality, TaskType


def find_table(dataset: Path, name: str) -> Path:
    """The table of an unpacked archive: at its top, or in a folder around everything."""
    found = sorted((dataset / DataKind.MIXED_DATA.value).rglob(name))
    if not found:
        raise DataError(f"{dataset} has no {name}. Create the dataset from its own archive (source.path).")
    return found[0]


def unpack_source(name: str, context: CreationContext, archive: str) -> Path:
    """Unpack the archive that ``source.path`` names into the dataset ``name``."""
    creator = DSetCreator(name)
    creator.use_source(context.required("path", f"the archive {archive}, or the folder it was unpacked to"))
    return creator.unpack_and_store()


def register_table_task(
    name: str,
    *,
    dset_name: str,
    table: str,
    sample_of: Callable[[Row, Path], dict[Modality, Any]],
    task_type: TaskType,
    classes: Sequence[str] = (),
    about: Mapping[str, Any],
) -> None:
    """Register the creator of a task; ``about`` is what else :class:`TaskCreator` is told (description, reference, license)."""

    @register_taskcreator(name, dset_name=dset_name)
    def create(dset_path: Path) -> Path:
        path = find_table(dset_path, table)
        train: SampleList = []
        test: SampleList = []
        for row in read_table(path):
            (test if row["split"] == "test" else train).append(sample_of(row, path.parent))
        creator = TaskCreator(dset_path, name, task_type=task_type, **about)
        creator.find_data(train_iterator=train, test_iterator=test, idx_to_class=dict(enumerate(classes)))
        return creator.auto_complete()
