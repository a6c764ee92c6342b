"""A dataset to try it with: three colored dots on gray noise, whose centers are the landmarks."""

import json
from pathlib import Path

import cv2
import numpy as np
from mml_ray_buzz.keypoints import LANDMARK_DETECTION, LANDMARKS

from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.images import write_png
from mml_ray.prepare.registration import register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import Keyword, License, Modality

NAMES = {0: "red", 1: "green", 2: "blue"}
HEIGHT, WIDTH = 64, 96


@register_dsetcreator("three_dots")
def create_dataset(context: CreationContext) -> Path:
    """60 images and a file that says where their dots are."""
    folder, random, found = context.data_root.dataset_path("three_dots"), np.random.default_rng(7), {}
    for number in range(60):
        image = random.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        points = random.uniform(0.25, 0.75, (3, 2)) * (WIDTH, HEIGHT)
        for color, point in zip(np.eye(3) * 255, points.round(), strict=True):
            cv2.circle(image, (int(point[0]), int(point[1])), 3, color.tolist(), -1)
        write_png(folder / f"{number:03d}.png", image)
        found[f"{number:03d}"] = points.round().tolist()
    (folder / "dots.json").write_text(json.dumps(found))
    return folder


@register_taskcreator("three_dots", dset_name="three_dots")
def create_task(dset_path: Path) -> Path:
    """Find the dots."""
    creator = TaskCreator(dset_path, "three_dots", task_type=LANDMARK_DETECTION, lic=License.CC_0_1_0, keywords=[Keyword.ARTIFICIAL])
    found = json.loads((dset_path / "dots.json").read_text())
    samples = [{Modality.SAMPLE_ID: name, Modality.IMAGE: f"{name}.png", LANDMARKS: points} for name, points in found.items()]
    creator.find_data(train_iterator=samples[:50], test_iterator=samples[50:], idx_to_class=NAMES)
    return creator.auto_complete()
