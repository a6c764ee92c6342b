from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_ray.errors import BrokenSampleError
from mml_ray.prepare import images
from mml_ray.prepare.checks.stats import infer_stats, summarize
from mml_ray.prepare.images import look_at, read_image, read_mask, write_png
from tests.prepare.makers import picture, write
from tests.prepare.test_archives_fuzz import mutate

PER_FORMAT = 120


def test_images_are_rgb_whatever_they_were(tmp_path: Path) -> None:
    rgb = picture(1)
    assert (read_image(write(tmp_path / "a.png", rgb)) == rgb).all()
    grey = rgb[:, :, 0].copy()
    assert (read_image(write(tmp_path / "grey.png", grey)) == grey[:, :, None]).all()
    alpha = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha)
    assert (read_image(tmp_path / "alpha.png") == rgb).all()
    np.save(tmp_path / "array.npy", rgb)
    np.save(tmp_path / "flat.npy", grey)
    assert (read_image(tmp_path / "array.npy") == rgb).all() and read_image(tmp_path / "flat.npy").shape == rgb.shape


def test_masks_keep_their_values(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (read_mask(write(tmp_path / "m.png", mask)) == mask).all()
    wide = mask.astype(np.uint16) * 200
    assert (read_mask(write(tmp_path / "wide.png", wide)) == wide).all()
    assert (read_mask(write(tmp_path / "rgb.png", np.repeat(mask[:, :, None], 3, axis=2))) == mask).all()
    with pytest.raises(BrokenSampleError, match="coloured.*transform_masks"):
        read_mask(write(tmp_path / "colour.png", picture(2)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_cut_anywhere_is_named(tmp_path: Path, suffix: str) -> None:
    whole = write(tmp_path / f"whole.{suffix}", picture(3)).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in range(0, len(whole) - (1 if suffix == "png" else 2), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BrokenSampleError, match=str(path)):
            read_image(path)
    path.write_bytes(whole + b"trailing bytes of a camera")
    assert read_image(path).shape == (16, 20, 3)


def test_structure_is_checked_even_where_the_decoder_is_generous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole.jpg", picture(3, size=(64, 64))).read_bytes()
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: np.zeros((64, 64, 3), np.uint8))
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenSampleError, match="it is cut off"):
        read_image(path)


def test_a_changed_byte_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.png", picture(4)).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BrokenSampleError, match="wrong checksum in its part 'IDAT'"):
        read_image(tmp_path / "a.png")


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 16 * 20 - 1)
    for suffix in ("png", "jpg", "bmp"):
        with pytest.raises(BrokenSampleError, match="20 x 16 pixels"):
            read_image(write(tmp_path / f"a.{suffix}", picture(5)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "it is empty"),
        ("text.jpg", b"hello", "cannot be decoded"),
        ("text.npy", b"hello", "cannot be read"),
        ("html.png", b"<html>404</html>", "cannot be decoded"),
    ],
)
def test_other_files_are_no_images(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenSampleError, match=message):
        read_image(tmp_path / name)
    with pytest.raises(BrokenSampleError, match="cannot be read"):
        read_image(tmp_path / "missing.png")


def test_arrays_with_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenSampleError, match="cannot be read"):
        read_image(tmp_path / "evil.npy")
    np.save(tmp_path / "float.npy", np.zeros((4, 4, 3)))
    with pytest.raises(BrokenSampleError, match="float64"):
        read_image(tmp_path / "float.npy")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "npy"])
def test_damaged_images_are_named_or_decoded(tmp_path: Path, suffix: str) -> None:
    original = tmp_path / f"original.{suffix}"
    if suffix == "npy":
        np.save(original, picture(6))
    else:
        write(original, picture(6))
    data, rng = original.read_bytes(), random.Random(f"images {suffix}")
    path = tmp_path / f"trial.{suffix}"
    broken = 0
    for _ in range(PER_FORMAT):
        path.write_bytes(mutate(data, rng))
        try:
            facts = look_at(path)
            assert facts.height > 0 and facts.width > 0 and all(0 <= value <= 1 for value in facts.mean)
        except BrokenSampleError as error:
            broken += 1
            assert str(path) in str(error)
    assert broken > PER_FORMAT // 10


def test_writing_keeps_pixels(tmp_path: Path) -> None:
    write_png(tmp_path / "new" / "a.png", picture(7), compression=0)
    assert (read_image(tmp_path / "new" / "a.png") == picture(7)).all()
    with pytest.raises(BrokenSampleError, match="cannot be written"):
        write_png(tmp_path / "b.png", np.zeros((0, 0), np.uint8))


# -- statistics ------------------------------------------------------------------------------------------------------------
def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    stack = [picture(n, size=(12 + n, 30 - n)) for n in range(6)]
    stats = infer_stats([write(tmp_path / f"{n}.png", image) for n, image in enumerate(stack)], workers=2)
    scaled = [image.astype(np.float64) / 255 for image in stack]
    means = np.mean([image.mean(axis=(0, 1)) for image in scaled], axis=0)
    squares = np.sum([(image**2).mean(axis=(0, 1)) for image in scaled], axis=0)
    assert np.allclose(stats.means.to_list(), means, atol=1e-9)
    assert np.allclose(stats.stds.to_list(), np.sqrt((squares - 6 * means**2) / 5), atol=1e-9)
    assert stats.sizes.to_list() == [12, 17, 25, 30]


def test_channels_are_not_swapped(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 255
    stats = summarize([look_at(write(tmp_path / "red.png", red))])
    assert stats.means.to_list() == [1, 0, 0] and stats.stds.to_list() == [0, 0, 0]


def test_digests_tell_pixels_not_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.png", picture(8)), write(tmp_path / "b.bmp", picture(8))
    third = write(tmp_path / "c.png", picture(9))
    turned = write(tmp_path / "d.png", np.ascontiguousarray(picture(8).reshape(20, 16, 3)))
    digests = [look_at(path).digest for path in (first, second, third, turned)]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_broken_image_ends_the_scan_with_its_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.png", picture(n)) for n in range(20)]
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    with pytest.raises(BrokenSampleError, match="7.png"):
        infer_stats(paths, workers=2)
