"""``tasks=from_table``: a task from a table of samples, without Python.

::

    source.path=<table, or an archive or folder with it> source.name=<task>

    image    file, relative to the table or to source.images (a folder or archive), or absolute and in one of both
    class    one class | classes: several, separated by ; | soft_classes: probabilities | mask: a file | value: a number
    split    train, val, test, unlabelled (default train; rows without a target are unlabelled)
    group    what must not be separated: a patient, a slide        id: default the image's path

Options: ``source.columns`` ({role: column} where a column is called otherwise, {role: null} to leave it out),
``source.class_columns`` (one 0/1 or probability column for each class), ``source.table`` (the table within an archive or folder),
``source.classes`` (names in order; for masks {value: name}), ``source.task_type``, ``source.test_fraction``, ``source.password``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.prepare.archives import DataKind, is_archive
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DatasetUnderConstruction, DSetCreator
from mml_ray.prepare.own.records import (
    Record,
    describe,
    given_classes,
    load_notes,
    normalize_mask_classes,
    normalized_mask,
    save_notes,
    split_name,
)
from mml_ray.prepare.own.table_files import TABLE_SUFFIXES, NamedFiles, Row, as_list, as_number, read_table
from mml_ray.prepare.registration import TaskEntry, register_dsetcreator
from mml_ray.registry import registry
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN, Modality, TaskType
from mml_ray.tasks.kinds import all_kinds, kind_of

NAME = "from_table"
ROLES = ("image", "mask", "class", "classes", "soft_classes", "value", "split", "group", "id")
#: the role of a target column, which is named as the modality -> task type
TARGETS: dict[str, TaskType] = {}
for _kind in all_kinds():
    if _kind.target in ROLES:
        TARGETS.setdefault(_kind.target, TaskType(_kind.task_type))
CLASS_COLUMNS = "class_columns"
TARGETS[CLASS_COLUMNS] = TARGETS["classes"]
_ZERO_ONE = {"0", "1", "0.0", "1.0", "False", "True"}


class Columns:
    """Which column plays which role."""

    def __init__(self, context: CreationContext, rows: Sequence[Row]) -> None:
        present = set(rows[0])
        given = {str(role): column for role, column in (context.source.get("columns") or {}).items()}
        named = {role: str(column) for role, column in given.items() if column is not None}
        unknown = set(given) - set(ROLES)
        if unknown:
            raise MMLMisconfigurationException(
                f"The keys of source.columns must be among {', '.join(ROLES)}, got {', '.join(sorted(unknown))}."
            )
        self.class_columns = [str(column) for column in context.source.get(CLASS_COLUMNS) or ()]
        missing = [column for column in [*named.values(), *self.class_columns] if column not in present]
        if missing:
            raise DataError(f"The table has no column '{missing[0]}'; it has: {', '.join(sorted(present))}.")
        played = {role: named.get(role, role) for role in ROLES if given.get(role, role) is not None}
        self.names = {role: column for role, column in played.items() if column in present}
        if "image" not in self.names:
            raise DataError(f"The table needs a column 'image' (source.columns.image=...); it has: {', '.join(sorted(present))}.")
        self.target = self._target(context)
        entries = (row[column] for row in rows for column in self.class_columns)
        self.is_hard = all(entry is None or str(entry) in _ZERO_ONE for entry in entries)

    def _target(self, context: CreationContext) -> str:
        found = [role for role in TARGETS if role in self.names] + ([CLASS_COLUMNS] if self.class_columns else [])
        wanted = context.source.get("task_type")
        if wanted:
            kind = TaskType(str(wanted))
            found = [role for role in found if TARGETS[role] == kind]
            if not found and not kind_of(kind).unlabelled:
                raise DataError(f"The table has no column for source.task_type={kind.value}; it has: {', '.join(self.names)}.")
        if len(found) > 1:
            way = f"leave one out with source.columns.{found[0]}=null" if wanted else "choose with source.task_type"
            raise MMLMisconfigurationException(f"The table has several targets ({', '.join(found)}); {way}.")
        return found[0] if found else ""

    @property
    def task_type(self) -> TaskType:
        """The task type of the target column."""
        return TARGETS[self.target] if self.target else TaskType.NO_TASK

    def get(self, row: Row, role: str) -> Any:
        """The entry of a role, ``None`` if there is no such column or nothing in it."""
        return row.get(self.names[role]) if role in self.names else None


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Copy the table and the files it names (of an archive: all of it), and settle the classes of masks."""
    name = str(context.required("name", "a name for the task and its dataset"))
    path = Path(str(context.required("path", "the table, or an archive or folder that holds it"))).expanduser()
    creator = DSetCreator(name)
    folder = context.data_root.dataset_path(name)
    with DatasetUnderConstruction(folder):
        root = folder / DataKind.MIXED_DATA.value
        if is_archive(path):
            creator.use_source(path, password=context.source.get("password"))
            creator.unpack_and_store()
            table = _table_within(root, context)
            files = NamedFiles(root, root, (table.parent,))
        else:
            source_table = _table_within(path, context) if path.is_dir() else path
            files = _copy_from_folders(creator, source_table, root, context=context)
            table = root / source_table.name
        rows = read_table(table)
        columns = Columns(context, rows)
        notes: dict[str, Any] = {"table": table.relative_to(folder).as_posix(), **files.notes(folder)}
        if columns.target == "mask":
            masks = sorted({files.stored(m) for row in rows if (m := columns.get(row, "mask")) not in (None, EMPTY_MASK_TOKEN)})
            notes["classes"] = {
                str(index): label
                for index, label in normalize_mask_classes(
                    [m for m in masks if m.is_file()], context=context, beside_images=True
                ).items()
            }
        save_notes(folder, notes)
    return folder


def _table_within(root: Path, context: CreationContext) -> Path:
    wanted = context.source.get("table")
    if wanted:
        found = [path for path in sorted(root.rglob(Path(str(wanted)).name)) if path.as_posix().endswith(str(wanted))]
    else:
        found = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in TABLE_SUFFIXES]
    if len(found) != 1:
        listed = ", ".join(path.relative_to(root).as_posix() for path in found[:8]) or "none"
        raise DataError(f"The source must contain one table, found: {listed}. Choose one with source.table=<file>.")
    return found[0]


def _copy_from_folders(creator: DSetCreator, table: Path, root: Path, *, context: CreationContext) -> NamedFiles:
    """Copy the table, and images and masks from the table's folder or ``source.images``; where they lie now."""
    rows = read_table(table)
    columns = Columns(context, rows)
    root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(table, root / table.name)
    images = Path(str(context.source.get("images") or table.parent)).expanduser()
    if is_archive(images):
        creator.use_source(images, data_kind=DataKind.TRAINING_DATA, password=context.source.get("password"))
        creator.unpack_and_store()
        unpacked = root.parent / DataKind.TRAINING_DATA.value
        return NamedFiles(unpacked, unpacked, (unpacked,))
    images = images.absolute()
    files = NamedFiles(root, images, (images, table.parent.absolute()))
    wanted = {
        (str(entry), number)
        for number, row in enumerate(rows, 2)
        for role in ("image", "mask")
        if (entry := columns.get(row, role)) not in (None, EMPTY_MASK_TOKEN)
    }
    jobs = sorted(dict(sorted(wanted, reverse=True)).items())
    in_threads(_copier(files, table, context), jobs, workers=context.workers, progress=context.progress, what="files")
    return files


def _copier(files: NamedFiles, table: Path, context: CreationContext) -> Callable[[tuple[str, int]], None]:
    def copy(job: tuple[str, int]) -> None:
        entry, line = job
        try:
            target = files.stored(entry)
        except DataError as error:
            raise DataError(f"Line {line} of {table}: {error} Choose the folder with source.images.") from error
        source = (files.root / target.relative_to(files.folder)).resolve()
        if not source.is_relative_to(files.root.resolve()):
            raise DataError(f"Line {line} of {table} names {entry}, a link that leads out of {files.root}.")
        if not source.is_file():
            if context.on_broken == "skip":
                return
            raise BrokenSampleError(
                f"Line {line} of {table} names {source}, which does not exist (mode.on_broken=skip leaves it out)."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    return copy


def create_task(dset_path: Path, context: CreationContext) -> Path:
    """Describe what the table says."""
    notes = load_notes(dset_path)
    files = NamedFiles.from_notes(notes, dset_path)
    rows = read_table(dset_path / notes["table"])
    columns = Columns(context, rows)
    mapping = _classes(columns, rows, context, notes)
    index = {label: number for number, label in (mapping or {}).items()}
    records = []
    for line, row in enumerate(rows, 2):
        try:
            records.append(_record(columns, row, files, index))
        except DataError as error:
            raise DataError(f"Line {line} of {notes['table']}: {error}") from error
    name = str(context.required("name", "the name of the task"))
    return describe(name, dset_path, columns.task_type, records=records, idx_to_class=mapping, context=context)


registry.add("task_creator", NAME, TaskEntry(NAME, NAME, create_task, sourced=True))


def _classes(columns: Columns, rows: Sequence[Row], context: CreationContext, notes: Mapping[str, Any]) -> dict[int, str] | None:
    """Index -> class name: as given, else the names in the table in order of the alphabet."""
    if columns.target == "mask":
        return {int(index): label for index, label in notes["classes"].items()}
    given = given_classes(context)
    if columns.target == CLASS_COLUMNS:
        return _named_columns(columns.class_columns, given)
    if columns.target in ("", "value"):
        return None
    if given is not None:
        return given
    if columns.target == "class":
        names = {_label(entry) for row in rows if (entry := columns.get(row, "class")) is not None}
    elif columns.target == "classes":
        names = {_label(label) for row in rows for label in as_list(columns.get(row, "classes"))}
    else:
        names = {f"class_{n}" for n in range(max(len(as_list(columns.get(row, "soft_classes"))) for row in rows))}
    return dict(enumerate(sorted(names, key=lambda label: (len(label), label) if label.isdigit() else (1 << 20, label))))


def _named_columns(columns: Sequence[str], given: Mapping[int, str] | None) -> dict[int, str]:
    """Classes called as their columns, or as ``source.classes`` says in the same order."""
    if given is None:
        return dict(enumerate(columns))
    if sorted(given) != list(range(len(columns))):
        raise MMLMisconfigurationException(
            f"source.classes names {len(given)} classes for the {len(columns)} columns {', '.join(columns)} of source.class_columns; "
            "it must be a list of as many names. It may be left out."
        )
    return dict(sorted(given.items()))


def _record(columns: Columns, row: Row, files: NamedFiles, index: Mapping[str, int]) -> Record:
    entry = columns.get(row, "image")
    if entry is None:
        raise DataError("the image is missing.")
    sample_id = columns.get(row, "id")
    sample: dict[Modality, Any] = {
        Modality.SAMPLE_ID: str(sample_id) if sample_id is not None else files.name(entry),
        Modality.IMAGE: files.stored(entry),
    }
    if (group := columns.get(row, "group")) is not None:
        sample[Modality.GROUP] = str(group)
    target = _target(columns, row, files, index)
    said = columns.get(row, "split")
    split = "train" if said is None else split_name(str(said))
    if split is None:
        raise DataError(f"'{said}' is not a split. Allowed are train, val, test and unlabelled.")
    if target is None:
        if said is not None and split != "unlabelled" and columns.target:
            hint = " ([] is none of the classes)" if columns.target == "classes" else ""
            raise DataError(f"the split is {said}, but there is no entry for {columns.target}{hint}.")
        split = "unlabelled"
    elif split != "unlabelled":
        sample |= target
    return Record(sample, split)


def _target(columns: Columns, row: Row, files: NamedFiles, index: Mapping[str, int]) -> dict[Modality, Any] | None:
    """The target entry of a row, ``None`` if there is nothing in it."""
    if columns.target == CLASS_COLUMNS:
        return _from_class_columns(columns, row)
    entry = columns.get(row, columns.target) if columns.target else None
    if entry is None:
        return None
    if columns.target == "class":
        return {Modality.CLASS: _class_index(_label(entry), index)}
    if columns.target == "classes":
        return {Modality.CLASSES: [_class_index(_label(label), index) for label in as_list(entry)]}
    if columns.target == "soft_classes":
        return {Modality.SOFT_CLASSES: [as_number(part) for part in as_list(entry)]}
    if columns.target == "value":
        return {Modality.VALUE: as_number(entry)}
    return {Modality.MASK: entry if entry == EMPTY_MASK_TOKEN else normalized_mask(files.stored(entry))}


def _from_class_columns(columns: Columns, row: Row) -> dict[Modality, Any] | None:
    """Hard labels where the whole table holds only 0 and 1 in these columns, else probabilities."""
    entries = [row[column] for column in columns.class_columns]
    if any(entry is None for entry in entries):
        return None
    numbers = [as_number(entry) for entry in entries]
    if columns.is_hard:
        return {Modality.CLASSES: [number for number, value in enumerate(numbers) if value == 1]}
    return {Modality.SOFT_CLASSES: numbers}


def _label(entry: Any) -> str:
    """The name of a class; whole numbers that a Parquet file keeps as floats (beside empty entries) are written as such."""
    return str(int(entry)) if isinstance(entry, float) and entry.is_integer() else str(entry)


def _class_index(label: str, index: Mapping[str, int]) -> int:
    if label in index:
        return index[label]
    raise DataError(f"'{label}' is not a class. Allowed are {', '.join(list(index)[:20])}.")
