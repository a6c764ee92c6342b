"""``mednist6``: six kinds of medical image, 64x64, from an archive of MedNIST (``source.path=.../mednist6_300.zip``)."""

from __future__ import annotations

import csv
from pathlib import Path

from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import SampleList
from mml_ray.prepare.registration import register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "mednist6"
CLASSES = ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Class folders and ``labels.csv`` (file, label, split), as they are in the archive."""
    creator = DSetCreator(NAME)
    creator.use_source(context.required("path", "the archive mednist6_300.zip, or the folder it was unpacked to"))
    return creator.unpack_and_store()


@register_taskcreator(NAME, dset_name=NAME)
def create_task(dset_path: Path) -> Path:
    """The files listed as train and val are split into folds; those listed as test are the test split."""
    root = dset_path / DataKind.MIXED_DATA.value
    table = next(iter(sorted(root.rglob("labels.csv"))), root / "labels.csv")
    splits: dict[str, SampleList] = {"train": [], "test": []}
    with table.open(newline="") as stream:
        for row in csv.DictReader(stream):
            splits["test" if row["split"] == "test" else "train"].append(
                {
                    Modality.SAMPLE_ID: row["file"].rpartition(".")[0],
                    Modality.IMAGE: table.parent / row["file"],
                    Modality.CLASS: CLASSES.index(row["label"]),
                }
            )
    creator = TaskCreator(
        dset_path,
        NAME,
        task_type=TaskType.CLASSIFICATION,
        desc="Tell six kinds of medical image apart. Slices of one patient can be in several splits. Not for clinical use.",
        ref="MedNIST, assembled from TCIA, the RSNA Bone Age Challenge and the NIH chest X-rays by B. J. Erickson (Mayo Clinic).",
        url="https://github.com/Project-MONAI/tutorials",
        instr="a selection of 1,800 unaltered files of MedNIST",
        lic=License.CC_BY_SA_4_0,
        release="2019",
        keywords=[Keyword.MEDICAL, Keyword.CT_SCAN, Keyword.MRI_SCAN, Keyword.X_RAY, Keyword.ANATOMICAL_STRUCTURES],
    )
    creator.find_data(train_iterator=splits["train"], test_iterator=splits["test"], idx_to_class=dict(enumerate(CLASSES)))
    return creator.auto_complete()
