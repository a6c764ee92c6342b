from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.imaging import read_mask, write_png
from mml_ray.prepare.checks.masks import classes_in_masks, mask_values, transform_masks
from tests.prepare.makers import write

RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def test_values_of_masks() -> None:
    assert mask_values(np.array([[0, 3], [255, 3]], np.uint8), "m") == (0, 3, 255)
    assert mask_values(np.array([[0, 200]], np.uint16), "m") == (0, 200)
    assert mask_values(np.array([[True, False]]), "m") == (0, 1)
    for wrong in (np.array([[0, 256]], np.uint16), np.array([[0.5]])):
        with pytest.raises(BrokenSampleError, match="class numbers are 0 to 254"):
            mask_values(wrong, "m")


def test_classes_in_masks_leave_out_ignored_pixels(tmp_path: Path) -> None:
    write(tmp_path / "m.png", np.array([[0, 2, 255]], np.uint8))
    samples = {"a": {"mask": "m.png"}, "b": {"mask": "EMPTY_MASK_TOKEN"}, "c": {"mask": "m.png"}, "d": {"image": "x.png"}}
    assert classes_in_masks(samples, tmp_path) == {"a": [0, 2], "b": [0], "c": [0, 2]}


def test_colors_become_classes(tmp_path: Path) -> None:
    labels = tmp_path / "training_labels"
    colors = np.array([[RED, GREEN], [BLACK, WHITE]], np.uint8)
    path = labels / "deep" / "x.bmp"
    write(path, colors)
    new = transform_masks([path], {BLACK: 0, RED: 1, GREEN: 2}, labels_folder=labels, ignore=[WHITE])
    assert new == [labels / "transformed_masks" / "deep" / "x.png"]
    assert read_mask(new[0]).tolist() == [[1, 2], [0, 255]]


def test_grey_values_become_classes(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_png(path, np.array([[0, 100, 200]], np.uint8))
    new = transform_masks([path], {(0,): 0, (100,): 1, (200,): 1}, labels_folder=tmp_path, load="grayscale")
    assert read_mask(new[0]).tolist() == [[0, 1, 1]]


def test_unknown_colors_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.png", np.array([[RED, GREEN]], np.uint8))
    with pytest.raises(DataError, match=r"x.png has the color \(0, 255, 0\)"):
        transform_masks([path], {RED: 1}, labels_folder=tmp_path)


@pytest.mark.parametrize(
    ("transform", "load", "message"),
    [
        ({RED: 255}, "rgb", "0 to 254, got 255"),
        ({RED: True}, "rgb", "got True"),
        ({(1, 2): 1}, "rgb", "A color must be 3 integer"),
        ({(1, 2, 300): 1}, "rgb", "A color must be 3 integer"),
        ({(1,): 1}, "hsv", "rgb or grayscale"),
    ],
)
def test_wrong_transforms(tmp_path: Path, transform: dict[tuple[int, ...], int], load: str, message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        transform_masks([], transform, labels_folder=tmp_path, load=load)
