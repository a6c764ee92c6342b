"""``tasks=from_folder``: a task from folders of images (or an archive of them), without Python.

::

    source.path=<folder or archive> source.name=<task>
        <class>/*.png                              classification
        train|val|test|unlabelled/<class>/*.png    classification with given splits
        images/*.png + masks/*.png                 segmentation; also within train|val|test
        *.png                                      no labels

Options: ``source.task_type``, ``source.classes`` (names in order; for masks {value: name}), ``source.test_fraction``,
``source.password``.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.imaging import is_image
from mml_ray.prepare.archives import DataKind, archive_suffixes, is_archive
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import get_iterator_from_segmentation_dataset, images_below
from mml_ray.prepare.own.records import (
    Record,
    describe,
    given_classes,
    load_notes,
    normalize_mask_classes,
    save_notes,
    split_name,
)
from mml_ray.prepare.registration import TaskEntry, register_dsetcreator
from mml_ray.registry import registry
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.kinds import kind_of

NAME = "from_folder"
_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "annotations", "segmentations")


@dataclass(frozen=True)
class Layout:
    """What the folders mean: the task type, and the folder of each split."""

    task_type: TaskType
    splits: dict[str, Path]


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Copy or unpack, and settle the classes of masks."""
    creator = DSetCreator(str(context.required("name", "a name for the task and its dataset")))
    path = context.required("path", "the folder of images, or an archive of it")
    where = Path(str(path)).expanduser()
    if where.is_file() and not is_archive(where):
        raise DataError(f"source.path must be a folder or an archive ({' '.join(archive_suffixes())}), got {where}.")
    creator.use_source(where, keep_top_level=False, password=context.source.get("password"))
    folder = creator.unpack_and_store()
    layout = find_layout(_root(folder), context.source.get("task_type"))
    notes: dict[str, object] = {"task_type": layout.task_type.value}
    if kind_of(layout.task_type).labels_in_files:
        masks = [mask for split in layout.splits.values() if (top := _sub(split, _MASKS)) for mask in images_below(top)]
        notes["classes"] = {str(index): name for index, name in normalize_mask_classes(masks, context=context).items()}
    save_notes(folder, notes)
    return folder


def create_task(dset_path: Path, context: CreationContext) -> Path:
    """Describe what the folders hold."""
    notes = load_notes(dset_path)
    layout = find_layout(_root(dset_path), notes["task_type"])
    records: list[Record] = []
    mapping: dict[int, str] | None = None
    if kind_of(layout.task_type).labels_in_files:
        mapping = {int(index): name for index, name in notes["classes"].items()}
        for split, folder in layout.splits.items():
            records += _segmentation(folder, split)
    elif kind_of(layout.task_type).exclusive_classes:
        mapping = given_classes(context) or dict(enumerate(_class_names(layout)))
        for split, folder in layout.splits.items():
            records += _classification(folder, split, mapping)
    else:
        records = _flat(_root(dset_path), "unlabelled")
    _warn_of_unused(_root(dset_path), records)
    name = str(context.required("name", "the name of the task"))
    return describe(name, dset_path, layout.task_type, records=records, idx_to_class=mapping, context=context)


registry.add("task_creator", NAME, TaskEntry(NAME, NAME, create_task, sourced=True))


def _warn_of_unused(root: Path, records: Sequence[Record]) -> None:
    """Warn of images that belong to no sample: a class that was not named, a file beside the folders."""
    used = {record.sample.get(modality) for record in records for modality in (Modality.IMAGE, Modality.MASK)}
    unused = [path.relative_to(root).as_posix() for path in images_below(root) if path not in used]
    if unused:
        warnings.warn(
            f"{len(unused)} image(s) were left out, since neither folder nor name assigns them to a class, a split or a mask: "
            f"{', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}.",
            UserWarning,
            stacklevel=2,
        )


def find_layout(root: Path, task_type: object = None) -> Layout:
    """Guess from the names of folders what they mean; ``task_type`` settles what is not clear."""
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    named = {split_name(name): path for name, path in folders.items() if split_name(name)}
    splits = {str(split): path for split, path in named.items()} if "train" in named else {"train": root}
    top = splits["train"]
    if _sub(top, _IMAGES) and _sub(top, _MASKS):
        guessed = TaskType.SEMANTIC_SEGMENTATION
    elif any(path.is_dir() and images_below(path) for path in top.iterdir()):
        guessed = TaskType.CLASSIFICATION
    elif images_below(root):
        guessed = TaskType.NO_TASK
    else:
        raise DataError(f"No images were found in {root}.")
    wanted = TaskType(str(task_type)) if task_type else guessed
    if wanted != guessed and not kind_of(wanted).unlabelled:
        raise MMLMisconfigurationException(
            f"The folders of {root} look like {guessed.value}, not {wanted.value}. Folders can hold classification (one folder "
            "for each class), semantic_segmentation (images and masks) or no_task; all else needs a table: tasks=from_table."
        )
    return Layout(wanted, splits)


def _root(folder: Path) -> Path:
    """The unpacked source, below folders that hold nothing but one other folder."""
    root = folder / DataKind.MIXED_DATA.value
    while True:
        inside = [path for path in root.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir() or any(is_image(path) for path in inside[0].iterdir()):
            return root
        root = inside[0]


def _sub(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in names), None)


def _class_names(layout: Layout) -> list[str]:
    found = {
        path.name
        for split, folder in layout.splits.items()
        if split != "unlabelled"
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    }
    return sorted(found)


def _classification(folder: Path, split: str, mapping: dict[int, str]) -> list[Record]:
    if split == "unlabelled":
        return _flat(folder, split)
    index = {name: number for number, name in mapping.items()}
    images = [(path, path.relative_to(folder)) for path in images_below(folder)]
    images = [(path, place) for path, place in images if len(place.parts) > 1 and place.parts[0] in index]
    stems = Counter(place.with_suffix("") for _, place in images)
    records = []
    for path, place in images:
        sample_id = (place.with_suffix("") if stems[place.with_suffix("")] == 1 else place).as_posix()
        sample = {
            Modality.SAMPLE_ID: f"{split}/{sample_id}" if split == "val" else sample_id,
            Modality.IMAGE: path,
            Modality.CLASS: index[place.parts[0]],
        }
        records.append(Record(sample, split))
    return records


def _segmentation(folder: Path, split: str) -> list[Record]:
    if split == "unlabelled":
        return _flat(folder, split)
    images, masks = _sub(folder, _IMAGES), _sub(folder, _MASKS)
    if images is None or masks is None:
        raise DataError(f"{folder} must contain a folder of images and one of masks.")
    samples = get_iterator_from_segmentation_dataset(images, masks)
    for sample in samples:
        if split == "val":
            sample[Modality.SAMPLE_ID] = f"{split}/{sample[Modality.SAMPLE_ID]}"
    return [Record(sample, split) for sample in samples]


def _flat(folder: Path, split: str) -> list[Record]:
    return [
        Record({Modality.SAMPLE_ID: path.relative_to(folder).as_posix(), Modality.IMAGE: path}, split)
        for path in images_below(folder)
    ]
