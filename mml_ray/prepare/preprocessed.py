"""Tasks whose images are stored preprocessed: what an id stands for, their descriptions, and whether these still hold.

``PREPROCESSED/<id>/_definition.yaml`` says which steps the id stands for; a description beside the images says that the task is
complete in this preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, TaskNotFoundError
from mml_ray.store.data_root import DATASET_PREFIX, DataRoot, writing
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.header import NO_PREPROCESSING
from mml_ray.tasks.tags import parse
from mml_ray.tasks.variant import content_digest

Pipeline = Sequence[Mapping[str, Any]]
#: what differs between the descriptions of a task in two preprocessings
_OWN_FIELDS = ("means", "stds", "sizes", "creation_protocol")


def check_preprocessed(root: DataRoot, names: Iterable[str], *, preprocessing: str, pipeline: Pipeline) -> None:
    """Whether a run that asks for ``preprocessing`` may use what is stored of these tasks (tags do not count).

    Raises:
        MMLMisconfigurationException: the id stands for other steps in the data root.
        DataError: a task was recreated after it was preprocessed.
    """
    index = root.index()
    stored = [base for base in dict.fromkeys(parse(name).base for name in names) if preprocessing in index.get(base, {})]
    if preprocessing == NO_PREPROCESSING or not stored:
        return
    check_definition(root, preprocessing, pipeline)
    for name in stored:
        if _has_changed(root, name, preprocessing):
            raise DataError(
                f"Task '{name}' was recreated after it was preprocessed with '{preprocessing}': its folds or labels there are "
                f"outdated. Run: mml-ray pp task_list=[{name}] preprocessing={preprocessing}"
            )


# -- what an id stands for ---------------------------------------------------------------------------------------------------
def check_definition(root: DataRoot, preprocessing: str, pipeline: Pipeline) -> None:
    """Raise if the data root knows the id with other steps. An id of which nothing is stored may change."""
    path = root.definition_path(preprocessing)
    stored = _read_definition(path)
    if stored is None or stored == _plain(pipeline) or not any(path.parent.glob(f"{DATASET_PREFIX}*")):
        return
    raise MMLMisconfigurationException(
        f"preprocessing={preprocessing} stands for other steps in the data root. {path} says: {_shown(stored)}. "
        f"The configuration says: {_shown(_plain(pipeline))}. Give the new steps an id (and file) of their own, or delete "
        f"{path.parent} and preprocess again."
    )


def write_definition(root: DataRoot, preprocessing: str, pipeline: Pipeline) -> None:
    """Say in the data root what the id stands for; raises as :func:`check_definition`."""
    check_definition(root, preprocessing, pipeline)
    path = root.definition_path(preprocessing)
    if _read_definition(path) == _plain(pipeline):
        return
    with writing(path):
        atomic.write_text(path, yaml.safe_dump({"id": preprocessing, "pipeline": _plain(pipeline)}, sort_keys=False))


def _read_definition(path: Path) -> list[dict[str, Any]] | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _plain(content["pipeline"] or ())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged ({error}). Delete {path.parent} and preprocess again.") from error


def _plain(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [{str(key): list(value) if isinstance(value, tuple) else value for key, value in step.items()} for step in pipeline]


def _shown(pipeline: Pipeline) -> str:
    steps = (
        f"{step.get('name')}({', '.join(f'{key}={value}' for key, value in step.items() if key != 'name')})" for step in pipeline
    )
    return " > ".join(steps) or "no steps"


# -- descriptions ------------------------------------------------------------------------------------------------------------
def raw_description(root: DataRoot, name: str) -> TaskDescription:
    """The description of the raw data of ``name``; :class:`TaskNotFoundError` where only preprocessed data is left."""
    relative = root.index().get(name, {}).get(NO_PREPROCESSING)
    if relative is None:
        raise TaskNotFoundError(f"Task '{name}' has no raw data in {root.path}, so it cannot be preprocessed. Create it again.")
    return TaskDescription.load(root.path / relative)


def is_described(root: DataRoot, name: str, preprocessing: str) -> bool:
    """Whether the task has a description in this preprocessing that fits the one of its raw data."""
    relative = root.index().get(name, {}).get(preprocessing)
    if relative is None:
        return False
    stored, raw = TaskDescription.load(root.path / relative), raw_description(root, name)
    own = {key: getattr(stored, key) for key in _OWN_FIELDS}
    return replace(raw, **own) == stored


def describe_preprocessed(
    root: DataRoot,
    name: str,
    *,
    preprocessing: str,
    image_of: Callable[[str], Any],
    workers: int | None = None,
) -> Path:
    """Describe the task in this preprocessing: its raw description, with sizes and statistics of the images as they are now.

    ``image_of`` gives the preprocessed image of an entry, ``[H, W, 3]`` uint8. All images must be there: from now on the task is
    taken to be complete. Tagged variants are made from this description when a run needs them.
    """
    from mml_ray.prepare.checks.stats import ImageFacts, in_threads, summarize  # loads OpenCV

    description = raw_description(root, name)
    pool = description.train_samples or description.unlabeled_samples or description.test_samples
    entries = [str(sample["image"]) for sample in pool.values() if "image" in sample]
    stats = summarize(in_threads(lambda entry: ImageFacts.of(image_of(entry)), entries, workers=workers, what="statistics"))
    description.means, description.stds, description.sizes = stats.means, stats.stds, stats.sizes
    description.creation_protocol += f"Preprocessed with {preprocessing} @ {datetime.now():%d/%m/%Y %H:%M:%S}; "
    dataset = str(root.header(name).relative_root).rpartition(DATASET_PREFIX)[2]
    path = root.new_description_path(name, dataset, preprocessing)
    with writing(path):
        description.save(path)
    root.refresh()
    return path


def _has_changed(root: DataRoot, name: str, preprocessing: str) -> bool:
    """Whether the raw description is newer and has other samples, folds or labels."""
    found = root.index()[name]
    if NO_PREPROCESSING not in found:
        return False
    raw, stored = root.path / found[NO_PREPROCESSING], root.path / found[preprocessing]
    if raw.stat().st_mtime_ns <= stored.stat().st_mtime_ns:
        return False
    return content_digest(TaskDescription.load(raw)) != content_digest(TaskDescription.load(stored))
