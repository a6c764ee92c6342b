from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mml_ray.errors import BrokenSampleError
from mml_ray.prepare.checks.stats import ImageFacts, scan_images, summarize
from tests.prepare.makers import picture, write


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    stack = [picture(n, size=(12 + n, 30 - n)) for n in range(6)]
    paths = [write(tmp_path / f"{n}.png", image) for n, image in enumerate(stack)]
    stats = summarize(scan_images(paths, workers=2))
    scaled = [image.astype(np.float64) / 255 for image in stack]
    means = np.mean([image.mean(axis=(0, 1)) for image in scaled], axis=0)
    squares = np.sum([(image**2).mean(axis=(0, 1)) for image in scaled], axis=0)
    assert np.allclose(stats.means.to_list(), means, atol=1e-9)
    assert np.allclose(stats.stds.to_list(), np.sqrt((squares - 6 * means**2) / 5), atol=1e-9)
    assert stats.sizes.to_list() == [12, 17, 25, 30]


def test_channels_are_not_swapped(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 255
    stats = summarize([ImageFacts.of_file(write(tmp_path / "red.png", red))])
    assert stats.means.to_list() == [1, 0, 0] and stats.stds.to_list() == [0, 0, 0]


def test_digests_tell_pixels_not_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.png", picture(8)), write(tmp_path / "b.bmp", picture(8))
    third = write(tmp_path / "c.png", picture(9))
    turned = write(tmp_path / "d.png", np.ascontiguousarray(picture(8).reshape(20, 16, 3)))
    digests = [ImageFacts.of_file(path).digest for path in (first, second, third, turned)]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_broken_image_ends_the_scan_with_its_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.png", picture(n)) for n in range(20)]
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    with pytest.raises(BrokenSampleError, match="7.png"):
        scan_images(paths, workers=2)
