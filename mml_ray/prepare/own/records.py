"""What tasks made without Python share: records of samples, classes of masks, and the way from both to a description."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.imaging import read_mask, write_png
from mml_ray.prepare.checks.masks import mask_values
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.folds import split_folds
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import IGNORE_INDEX, Keyword, License, Modality, TaskType

#: what was decided when the dataset was made, kept in its folder
NOTES = "source.json"
#: masks with more values than this rather number objects than name classes
_MANY_CLASSES = 64
SPLITS = {
    "train": ("train", "training", "training_data", "fit"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testing_data"),
    "unlabelled": ("unlabelled", "unlabeled", "unlabeled_data", "unlabelled_data"),
}


@dataclass(frozen=True)
class Record:
    """One sample and its split: ``train``, ``val``, ``test`` or ``unlabelled``."""

    sample: dict[Modality, Any]
    split: str = "train"


def split_name(text: str) -> str | None:
    """The split that a folder or table entry stands for, ``None`` if it is none."""
    return next((split for split, names in SPLITS.items() if text.strip().lower() in names), None)


def given_classes(context: CreationContext) -> dict[int, str] | None:
    """``source.classes`` as index -> name: a mapping, or a list of names; ``None`` if it is not given."""
    given = context.source.get("classes")
    if not given:
        return None
    try:
        pairs = given.items() if isinstance(given, Mapping) else enumerate(given)
        return {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        raise MMLMisconfigurationException(f"source.classes must be a list of names or {{index: name}}, got {given!r}.") from None


def normalize_mask_classes(masks: Sequence[Path], *, context: CreationContext, beside_images: bool = False) -> dict[int, str]:
    """The classes of these masks. Where 255 is a class (as in black and white masks), the masks are rewritten.

    Names come from ``source.classes`` (value in the mask -> name), else 0 is ``background`` and others are named by their value.
    Masks to be rewritten are replaced by PNG files of the same stem, or, if images may lie ``beside_images``, of another name that
    :func:`normalized_mask` finds.
    """
    given = given_classes(context)
    if given is None:
        found = set().union(*in_threads(lambda path: set(mask_values(read_mask(path), path)), masks, workers=context.workers))
        is_binary = found <= {0, IGNORE_INDEX} and IGNORE_INDEX in found
        values = sorted(found if is_binary else found - {IGNORE_INDEX})
        if len(values) > _MANY_CLASSES:
            warnings.warn(
                f"The masks hold {len(values)} values, and each becomes a class. Masks that number objects need to be made into "
                "masks of classes first; source.classes names the values that there should be.",
                stacklevel=2,
            )
        given = {value: "background" if value == 0 else f"class_{value}" for value in values}
        if is_binary:
            given[IGNORE_INDEX] = "foreground"
    if IGNORE_INDEX not in given:
        return dict(sorted(given.items()))
    new = {value: number for number, value in enumerate(sorted(given))}
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for value, number in new.items():
        table[value] = number

    def rewrite(pair: tuple[Path, Path]) -> None:
        path, target = pair
        mask = read_mask(path)
        unknown = [value for value in mask_values(mask, path) if value not in new]
        if unknown:
            raise DataError(f"The mask {path} holds the value {unknown[0]}, which source.classes does not name.")
        write_png(target, cv2.LUT(mask.astype(np.uint8), table))
        if target != path:
            path.unlink()

    in_threads(rewrite, _png_names(masks, beside_images=beside_images), workers=context.workers, what="masks")
    return {number: given[value] for value, number in new.items()}


def _png_names(masks: Sequence[Path], *, beside_images: bool) -> list[tuple[Path, Path]]:
    """Each mask and the name of its PNG file: ``a.png`` for ``a.bmp``; ``a.bmp.png`` where ``a.png`` is (or could be) another file."""
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for mask in masks:
        name = mask.with_suffix(".png")
        if name != mask and (beside_images or name in taken or name.exists()):
            name = mask.with_name(f"{mask.name}.png")
        names[mask] = name
        taken.add(name)
    return list(names.items())


def normalized_mask(mask: Path) -> Path:
    """Where :func:`normalize_mask_classes` left a mask that lies beside images."""
    return mask if mask.is_file() else mask.with_name(f"{mask.name}.png")


def save_notes(folder: Path, notes: Mapping[str, Any]) -> None:
    """Keep decisions in the dataset folder."""
    atomic.write_json(folder / NOTES, dict(notes))


def load_notes(folder: Path) -> dict[str, Any]:
    """The decisions that were made with the dataset."""
    try:
        found = json.loads((folder / NOTES).read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} was not made from own data, or its {NOTES} is damaged: {error}. Create the dataset again."
        ) from error
    return dict(found)


def describe(
    name: str,
    folder: Path,
    task_type: TaskType,
    *,
    records: Sequence[Record],
    idx_to_class: Mapping[int, str] | None,
    context: CreationContext,
) -> Path:
    """Verify, split and describe. ``source.test_fraction`` takes test samples from the training samples if there are no others;
    a validation split becomes fold 0, and the training samples are dealt into the other folds."""
    parts: dict[str, list[dict[Modality, Any]]] = {split: [] for split in SPLITS}
    for record in records:
        parts[record.split].append(record.sample)
    creator = _creator(name, folder, task_type, context)
    fraction = float(context.source.get("test_fraction") or 0)
    if fraction and not parts["test"]:
        parts["train"], parts["test"] = _take_test(parts["train"], fraction, task_type, idx_to_class or {})
    creator.find_data(
        train_iterator=[*parts["val"], *parts["train"]] or None,
        test_iterator=parts["test"] or None,
        unlabeled_iterator=parts["unlabelled"] or None,
        idx_to_class=idx_to_class,
    )
    if parts["val"] and parts["train"]:
        creator.use_existing_folds(_folds_with_validation(creator, parts["val"], context))
    return creator.auto_complete()


def _creator(name: str, folder: Path, task_type: TaskType, context: CreationContext) -> TaskCreator:
    source = context.source
    return TaskCreator(
        folder,
        name,
        task_type=task_type,
        desc=str(source.get("description") or f"Made from {Path(str(source.get('path', ''))).name}."),
        ref=str(source.get("reference") or ""),
        url=str(source.get("url") or ""),
        instr="own data",
        lic=License.register(str(source.get("license") or License.UNKNOWN)),
        release=str(source.get("release") or ""),
        keywords=[Keyword.register(str(keyword)) for keyword in source.get("keywords") or ()],
    )


def _take_test(
    train: list[dict[Modality, Any]], fraction: float, task_type: TaskType, idx_to_class: Mapping[int, str]
) -> tuple[list[dict[Modality, Any]], list[dict[Modality, Any]]]:
    """What is left to train on, and a share of each class (whole groups) to test on."""
    keyed = {sample[Modality.SAMPLE_ID]: {str(key): value for key, value in sample.items()} for sample in train}
    if not 0 < fraction < 1:
        raise MMLMisconfigurationException(f"source.test_fraction must lie between 0 and 1, got {fraction}.")
    try:
        test, rest = split_folds(keyed, task_type, idx_to_class=idx_to_class, n_folds=2, fold_0_fraction=fraction, seed=7)
    except DataError as error:
        raise DataError(f"source.test_fraction={fraction} is not possible: {error}") from error
    chosen = set(test)
    return (
        [sample for sample in train if sample[Modality.SAMPLE_ID] not in chosen],
        [sample for sample in train if sample[Modality.SAMPLE_ID] in chosen],
    )


def _folds_with_validation(
    creator: TaskCreator, validation: Sequence[Mapping[Modality, Any]], context: CreationContext
) -> list[list[str]]:
    first = {sample[Modality.SAMPLE_ID] for sample in validation}
    task = creator.task
    rest = {sample_id: sample for sample_id, sample in task.train_samples.items() if sample_id not in first}
    if context.n_folds < 3:
        others = [list(rest)]
    else:
        others = split_folds(
            rest,
            task.task_type,
            idx_to_class=task.idx_to_class,
            n_folds=context.n_folds - 1,
            ensure_balancing=context.ensure_balancing,
            mask_classes=task.mask_classes,
        )
    return [[sample_id for sample_id in task.train_samples if sample_id in first], *others]
