"""Datasets and tasks that ship with the package. Importing this module registers all of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mml_ray.imaging import Pixels, write_png
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.iterators import (
    get_iterator_and_mapping_from_image_dataset,
    get_iterator_from_unlabeled_dataset,
)
from mml_ray.prepare.own import from_folder, from_table
from mml_ray.prepare.ready import bccd, mednist6, nuclei
from mml_ray.prepare.registration import register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.seeding import keyed_seed
from mml_ray.tasks.attributes import Keyword, License, RGBInfo, Sizes, TaskType
from mml_ray.tasks.splitting import permutation

__all__ = ["bccd", "from_folder", "from_table", "mednist6", "nuclei"]

FAKE_COUNTS = {DataKind.TRAINING_DATA: 1000, DataKind.TESTING_DATA: 500, DataKind.UNLABELED_DATA: 300}
FAKE_CLASSES = "ABCDEFGHIJ"
FAKE_SIDE = 224
DIGITS_SIDE = 64


# -- digits ------------------------------------------------------------------------------------------------------------
@register_dsetcreator("digits")
def create_digits_dataset(context: CreationContext) -> Path:
    """scikit-learn's 1,797 scans of digits (8x8, 17 gray values), enlarged to 64x64; every fifth of a class is a test image."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images: dict[str, Pixels] = {}
    for digit in range(10):
        numbers = np.flatnonzero(labels == digit)
        tests = set(permutation(len(numbers), "digits", digit)[: round(len(numbers) / 5)])
        for position, number in enumerate(numbers):
            small = (scans[number].reshape(8, 8) * (255 / 16)).astype(np.float32)
            large = cv2.resize(small, (DIGITS_SIDE, DIGITS_SIDE), interpolation=cv2.INTER_CUBIC)
            kind = DataKind.TESTING_DATA if position in tests else DataKind.TRAINING_DATA
            images[f"{kind.value}/{digit}/{number:04d}.png"] = np.clip(np.rint(large), 0, 255).astype(np.uint8)
    folder = context.data_root.dataset_path("digits")

    def write(item: tuple[str, Pixels]) -> None:
        write_png(folder / item[0], item[1], compression=1)

    in_threads(write, list(images.items()), workers=context.workers, progress=context.progress, what="images")
    return folder


@register_taskcreator("digits", dset_name="digits")
def create_digits_task(dset_path: Path) -> Path:
    """Ten classes."""
    creator = TaskCreator(
        dset_path,
        "digits",
        task_type=TaskType.CLASSIFICATION,
        desc="1,797 scans of handwritten digits, enlarged from 8x8 to 64x64 pixels.",
        ref="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        instr="part of scikit-learn",
        lic=License.CC_BY_4_0,
        release="1998",
        keywords=[Keyword.HANDWRITINGS, Keyword.CHARS_DIGITS],
    )
    train, mapping = get_iterator_and_mapping_from_image_dataset(dset_path / DataKind.TRAINING_DATA.value)
    test, _ = get_iterator_and_mapping_from_image_dataset(dset_path / DataKind.TESTING_DATA.value)
    creator.find_data(train_iterator=train, test_iterator=test, idx_to_class=mapping)
    return creator.auto_complete()


# -- the fake task -----------------------------------------------------------------------------------------------------
@register_dsetcreator("mml_fake_dataset")
def create_fake_dataset(context: CreationContext) -> Path:
    """1,000 training, 500 test and 300 unlabelled images of random 8x8 blocks, 224x224, classes A to J in turn."""
    folder = context.data_root.dataset_path("mml_fake_dataset")

    def write(item: tuple[DataKind, int]) -> None:
        kind, number = item
        side = FAKE_SIDE // 8
        blocks = np.random.default_rng(keyed_seed("fake", kind.value, number)).integers(0, 256, (side, side, 3), dtype=np.uint8)
        image = cv2.resize(blocks, (FAKE_SIDE, FAKE_SIDE), interpolation=cv2.INTER_NEAREST)
        name = f"{number:06d}.png"
        labelled = kind != DataKind.UNLABELED_DATA
        write_png(folder / kind.value / (f"{FAKE_CLASSES[number % 10]}/{name}" if labelled else name), image, compression=1)

    items = [(kind, number) for kind, count in FAKE_COUNTS.items() for number in range(count)]
    in_threads(write, items, workers=context.workers, progress=context.progress, what="images")
    return folder


@register_taskcreator("mml_fake_task", dset_name="mml_fake_dataset")
def create_fake_task(dset_path: Path) -> Path:
    """Ten classes that have nothing to do with the images."""
    creator = TaskCreator(
        dset_path,
        "mml_fake_task",
        task_type=TaskType.CLASSIFICATION,
        desc="Random images with random classes; nothing can be learned.",
        ref="none",
        url="none",
        instr="generated",
        lic=License.CC_0_1_0,
        release="1",
        keywords=[Keyword.ARTIFICIAL],
    )
    train, mapping = get_iterator_and_mapping_from_image_dataset(dset_path / "training_data", classes=list(FAKE_CLASSES))
    test, _ = get_iterator_and_mapping_from_image_dataset(dset_path / "testing_data", classes=list(FAKE_CLASSES))
    unlabelled = get_iterator_from_unlabeled_dataset(dset_path / "unlabeled_data")
    creator.find_data(train_iterator=train, test_iterator=test, unlabeled_iterator=unlabelled, idx_to_class=mapping)
    creator.split_folds()
    half, spread = RGBInfo(0.5, 0.5, 0.5), RGBInfo(0.29, 0.29, 0.29)
    creator.set_stats(means=half, stds=spread, sizes=Sizes(FAKE_SIDE, FAKE_SIDE, FAKE_SIDE, FAKE_SIDE))
    return creator.push_and_test()
