"""``mednist6``: six kinds of medical image, 64x64, from an archive of MedNIST (``source.path=.../mednist6_300.zip``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.own.table_files import Row
from mml_ray.prepare.ready.tables import register_table_task, unpack_source
from mml_ray.prepare.registration import register_dsetcreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "mednist6"
CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Class folders and ``labels.csv`` (file, label, split), as they are in the archive."""
    return unpack_source(NAME, context, "mednist6_300.zip")


def _sample(row: Row, folder: Path) -> dict[Modality, Any]:
    return {
        Modality.SAMPLE_ID: row["file"].rpartition(".")[0],
        Modality.IMAGE: folder / row["file"],
        Modality.CLASS: CLASSES.index(row["label"]),
    }


register_table_task(
    NAME,
    dset_name=NAME,
    table="labels.csv",
    sample_of=_sample,
    task_type=TaskType.CLASSIFICATION,
    classes=CLASSES,
    about={
        "desc": "Tell six kinds of medical image apart. Slices of one patient can be in several splits. Not for clinical use.",
        "ref": "MedNIST, assembled from TCIA, the RSNA Bone Age Challenge and the NIH chest X-rays by B. J. Erickson (Mayo Clinic).",
        "url": "https://github.com/Project-MONAI/tutorials",
        "instr": "a selection of 1,800 unaltered files of MedNIST",
        "lic": License.CC_BY_SA_4_0,
        "release": "2019",
        "keywords": [Keyword.MEDICAL, Keyword.CT_SCAN, Keyword.MRI_SCAN, Keyword.X_RAY, Keyword.ANATOMICAL_STRUCTURES],
    },
)
