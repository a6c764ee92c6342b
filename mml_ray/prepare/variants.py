"""Tagged tasks, created when a run needs them."""

from __future__ import annotations

import logging
from pathlib import Path

from mml_ray import atomic
from mml_ray.errors import DataError, TaskNotFoundError
from mml_ray.prepare.checks.facts import load_facts, save_facts
from mml_ray.store.data_root import DataRoot, writing
from mml_ray.tasks import tags
from mml_ray.tasks.description import TaskDescription, clean_name, description_file_name
from mml_ray.tasks.header import NO_PREPROCESSING
from mml_ray.tasks.struct import TaskStruct
from mml_ray.tasks.variant import to_bytes

log = logging.getLogger(__name__)


def ensure_task(data_root: DataRoot, name: str, preprocessing: str = NO_PREPROCESSING) -> Path:
    """The description of ``name`` in this preprocessing (raw, if its base has none); a tagged variant is made if need be.

    Each tag is applied to what stands before it, and every step is stored, so the longest prefix that exists is built upon. A
    variant of an older version of its base is recreated. Runs that need the same variant at once wait for one another.
    """
    prefixes = tags.check(name).prefixes()
    data_root.description_path(prefixes[0], preprocessing)  # raises if the base is not there
    for base, variant in zip(prefixes, prefixes[1:], strict=False):
        _ensure(data_root, base, variant)
        if preprocessing in data_root.index().get(prefixes[0], {}) and preprocessing != NO_PREPROCESSING:
            _ensure(data_root, base, variant, preprocessing=preprocessing)
    return data_root.description_path(prefixes[-1], preprocessing)


def derived(data_root: DataRoot, name: str, preprocessing: str = NO_PREPROCESSING) -> TaskDescription:
    """A task with its tags applied in memory; nothing is written. Masks are not read, so a segmentation has no count of classes, and one
    whose classes cannot be balanced is found when the variant is made.

    Raises:
        MMLMisconfigurationException, DataError: a tag whose arguments do not fit.
    """
    wanted = tags.parse(tags.check(name).data_name)
    description = data_root.description(wanted.base, preprocessing)
    if description.kind.labels_in_files:
        description.mask_classes = {}
    for tag in wanted.tags:
        description = tags.derive(description, tag)
    return description


def planned_struct(data_root: DataRoot, name: str, preprocessing: str = NO_PREPROCESSING) -> TaskStruct:
    """The struct of a task, also of a variant that will be made when the run begins."""
    if tags.strip_duplicate(name) in data_root.index():
        return data_root.struct(name, preprocessing)
    description = derived(data_root, name, preprocessing)
    return TaskStruct.from_header(
        description.header(), num_samples=description.num_samples, n_folds=description.n_folds, name=name
    )


def _ensure(root: DataRoot, base: str, variant: str, *, preprocessing: str = NO_PREPROCESSING) -> None:
    if _is_current(root, base, variant, preprocessing):
        return
    with root.locked(f"TASK_{clean_name(variant)}"):
        root.refresh()
        if not _is_current(root, base, variant, preprocessing):
            _make(root, base, variant, preprocessing=preprocessing)
            root.refresh()


def _stored(root: DataRoot, name: str, preprocessing: str) -> Path | None:
    relative = root.index().get(name, {}).get(preprocessing)
    return root.path / relative if relative is not None else None


def _is_current(root: DataRoot, base: str, variant: str, preprocessing: str) -> bool:
    """Whether the variant exists and still fits its base (a full copy, as others store them, always does)."""
    path, base_path = _stored(root, variant, preprocessing), _stored(root, base, preprocessing)
    if path is None or not path.exists():
        return False
    if base_path is None or not root.header(variant, preprocessing).base:
        return True
    try:
        if path.stat().st_mtime_ns > base_path.stat().st_mtime_ns:
            return True
        TaskDescription.load(path)
    except (DataError, OSError):
        return False
    return True


def _make(root: DataRoot, base: str, variant: str, *, preprocessing: str) -> None:
    base_path = _stored(root, base, preprocessing)
    if base_path is None:
        raise TaskNotFoundError(
            f"'{variant}' is derived from raw data, but '{base}' is only stored preprocessed. Create '{base}' again."
        )
    description = TaskDescription.load(base_path)
    if description.kind.labels_in_files:
        description.mask_classes = _mask_classes(root, base)
    tag = tags.parse(variant).tags[-1]
    content = to_bytes(tags.modify(description, tag), description, name=variant, base_file=base_path.name)
    path = base_path.parent / description_file_name(variant)
    with writing(path):
        atomic.write_bytes(path, content)
    log.info("Made the variant %s: %s", variant, path)


def _mask_classes(root: DataRoot, name: str) -> dict[str, list[int]]:
    """Which values are in the masks of a task; read once for each untagged task, then remembered beside it."""
    from mml_ray.prepare.checks.masks import classes_in_masks  # loads OpenCV, which most variants do not need

    origin = tags.parse(name).base
    path = root.description_path(origin)
    description = TaskDescription.load(path)
    known: dict[str, list[int]] | None = load_facts(path, description).get("mask_classes")
    labelled = {**description.test_samples, **description.train_samples}
    if known is None or not labelled.keys() <= known.keys():
        found = classes_in_masks(labelled, path.parent)
        known = {
            sample_id: [value for value in values if value in description.idx_to_class] for sample_id, values in found.items()
        }
        save_facts(path, description, mask_classes=known, integrity=load_facts(path, description).get("integrity"))
    return known
