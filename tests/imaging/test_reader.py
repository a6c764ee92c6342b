"""The reader: what it accepts, what it refuses by name; one answer for creations, checks and loaders."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mml_ray.data.loaders import build_loader
from mml_ray.errors import BrokenSampleError
from mml_ray.imaging import ImageBackend, Pixels, files, image_suffixes, is_image, read_image, read_mask, write_png
from mml_ray.prepare.checks.stats import ImageFacts
from mml_ray.prepare.verifiers import VerifierContext, verify_image, verify_mask
from mml_ray.registry import registry
from mml_ray.tasks.attributes import TaskType
from mml_ray.tasks.description import TaskDescription
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
    with pytest.raises(BrokenSampleError, match="color image.*transform_masks"):
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
    with pytest.raises(BrokenSampleError, match="it is truncated"):
        read_image(path)


def test_a_changed_byte_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.png", picture(4)).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BrokenSampleError, match="'IDAT' has a wrong checksum"):
        read_image(tmp_path / "a.png")


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_PIXELS", 16 * 20 - 1)
    for suffix in ("png", "jpg", "bmp"):
        with pytest.raises(BrokenSampleError, match="20 x 16 pixels"):
            read_image(write(tmp_path / f"a.{suffix}", picture(5)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "it is empty"),
        ("text.jpg", b"hello", "cannot be decoded"),
        ("text.npy", b"hello", "not a NumPy array"),
        ("html.png", b"<html>404</html>", "cannot be decoded"),
    ],
)
def test_other_files_are_not_images(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenSampleError, match=message):
        read_image(tmp_path / name)
    with pytest.raises(BrokenSampleError, match="missing.png does not exist"):
        read_image(tmp_path / "missing.png")


def test_arrays_with_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BrokenSampleError, match="cannot be read"):
        read_image(tmp_path / "evil.npy")


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
            facts = ImageFacts.of_file(path)
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


# -- one reader for all -------------------------------------------------------------------------------------------------------
ARRAYS = {
    "float": picture(1) / 255.0,
    "float32": (picture(1) / 255.0).astype(np.float32),
    "wide": picture(1).astype(np.uint16) * 257,
    "bool": picture(1)[:, :, 0] > 99,
    "alpha": picture(1)[:, :, :2],
    "bright": picture(1) * 2.0,
    "long": picture(1).astype(np.int64),
    "deep": np.zeros((2, 3, 4, 5), np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_creation_accepts_the_arrays_that_the_loader_reads(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ARRAYS[name])
    known = VerifierContext(tmp_path, TaskType.CLASSIFICATION, {})
    loader = build_loader("image", "numpy", TaskDescription(name="t", task_type=TaskType.CLASSIFICATION))
    if name in ("bright", "long", "deep"):
        with pytest.raises(BrokenSampleError, match="x.npy"):
            verify_image("x.npy", known)
        with pytest.raises(BrokenSampleError, match="x.npy"):
            loader.load("x.npy", str(tmp_path))
    else:
        assert verify_image("x.npy", known).image == ImageFacts.of(loader.load("x.npy", str(tmp_path)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int16, np.bool_])
def test_masks_of_any_integers_are_read_by_creation_and_loader(dtype: type, tmp_path: Path) -> None:
    mask = (picture(2)[:, :, 0] % 2).astype(dtype)
    np.save(tmp_path / "x.npy", mask)
    task = TaskDescription(name="t", task_type=TaskType.SEMANTIC_SEGMENTATION, idx_to_class={0: "no", 1: "yes"})
    assert verify_mask("x.npy", VerifierContext(tmp_path, task.task_type, task.idx_to_class)).present == (0, 1)
    assert (build_loader("mask", None, task).load("x.npy", str(tmp_path)) == mask).all()


def test_masks_keep_16_bits_and_refuse_what_is_not_a_class_index(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.array([[0, 40_000]], np.int64))
    assert read_mask(tmp_path / "wide.npy").dtype == np.uint16
    for number, array in enumerate(
        [np.array([[-1]], np.int16), np.array([[1 << 16]]), np.zeros((2, 2)), np.zeros((0, 3), np.uint8)]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(BrokenSampleError, match=f"{number}.npy"):
            read_mask(tmp_path / f"{number}.npy")


def test_every_suffix_of_a_backend_is_that_of_an_image() -> None:
    for name in registry.names("image_backend"):
        suffixes = registry.lookup("image_backend", name).suffixes
        assert suffixes <= set(image_suffixes()) and all(is_image(Path(f"a{suffix.upper()}")) for suffix in suffixes)
    assert not is_image(Path(".hidden.png")) and not is_image(Path("a.txt"))


class _Stripes(ImageBackend):
    """Files that hold a width and a height as text."""

    suffixes = frozenset({".stripes"})
    reads_masks = True

    def image(self, path: str) -> Pixels:
        width, height = Path(path).read_text().split()
        return np.tile(np.arange(int(width), dtype=np.uint16) * 256, (int(height), 1))

    def mask(self, path: str) -> Pixels:
        return self.image(path) // 256


def test_a_format_is_added_with_one_backend(tmp_path: Path) -> None:
    (tmp_path / "a.stripes").write_text("3 2")
    registry.add("image_backend", "stripes", _Stripes)
    try:
        assert is_image(tmp_path / "a.stripes")
        assert read_image(tmp_path / "a.stripes")[:, :, 1].tolist() == [[0, 1, 2], [0, 1, 2]]
        assert read_mask(tmp_path / "a.stripes").tolist() == [[0, 1, 2], [0, 1, 2]]
        (tmp_path / "b.stripes").write_text("three")
        with pytest.raises(BrokenSampleError, match="b.stripes cannot be read"):
            read_image(tmp_path / "b.stripes")
        with pytest.raises(BrokenSampleError, match=r"'opencv' does not read .stripes files: .*loaders=uni.*'stripes'"):
            read_image(tmp_path / "a.stripes", "opencv")
    finally:
        registry.remove("image_backend", "stripes")


def test_the_reader_imports_no_torch() -> None:
    code = "import sys, mml_ray.imaging; assert not {'torch', 'lightning', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
