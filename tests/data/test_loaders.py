"""Loaders: every format ends as the same kind of array, and what is broken is named."""

from __future__ import annotations

import importlib.util
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mml_ray.data.loaders import build_loader
from mml_ray.errors import BrokenSampleError, DataError, MissingExtraError, MMLMisconfigurationException, UnknownNameError
from mml_ray.tasks.attributes import TaskType
from mml_ray.tasks.description import TaskDescription
from tests.data import made

TASK = TaskDescription(name="t", task_type=TaskType.CLASSIFICATION, idx_to_class=made.CLASSES)
IMAGE = made.image(1)


def loader(modality: str, name: str | None = None) -> Any:
    if name == "scikit":
        pytest.importorskip("skimage")
    return build_loader(modality, name, TASK)


IMAGE_LOADERS = ["opencv", "pillow", "pillow_acc", "scikit", "torchvision", "combined"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in IMAGE_LOADERS
        for kind in ("rgb", "grey", "rgba", "grey16", "palette", "jpeg")
        if (name, kind) != ("torchvision", "palette")  # it reads none
    ],
)
def test_images_become_rgb_bytes(name: str, kind: str, tmp_path: Path) -> None:
    path, expected = _file(tmp_path, kind)
    found = loader("image", name).load(path.name, str(tmp_path))
    assert found.dtype == np.uint8 and found.shape == (24, 32, 3) and found.flags.c_contiguous
    difference = np.abs(found.astype(int) - expected.astype(int)).max()
    assert difference <= (12 if kind == "jpeg" else 0)


def _file(folder: Path, kind: str) -> tuple[Path, Any]:
    path = folder / ("x.jpg" if kind == "jpeg" else "x.png")
    grey = IMAGE[..., 0]
    if kind == "palette":
        from PIL import Image

        Image.fromarray(IMAGE // 64 * 64).quantize(256).save(path)
        return path, np.asarray(Image.open(path).convert("RGB"))
    if kind == "jpeg":
        smooth = cv2.GaussianBlur(IMAGE, (9, 9), 4)
        cv2.imwrite(str(path), smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        return path, cv2.imread(str(path))[..., ::-1]
    pixels = {
        "rgb": IMAGE[..., ::-1],
        "grey": grey,
        "rgba": np.dstack([IMAGE[..., ::-1], grey // 2]),
        "grey16": grey.astype(np.uint16) * 256 + 77,
    }[kind]
    assert cv2.imwrite(str(path), pixels)
    return path, np.repeat(grey[..., None], 3, 2) if kind.startswith("grey") else IMAGE


@pytest.mark.parametrize("name", ["opencv", "pillow", "pillow_acc", "torchvision"])
def test_the_exif_orientation_is_followed(name: str, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(IMAGE).save(tmp_path / "x.jpg", exif=exif, quality=95)
    assert loader("image", name).load("x.jpg", str(tmp_path)).shape == (32, 24, 3)


@pytest.mark.parametrize("name", IMAGE_LOADERS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_cut_off_images_are_named(name: str, suffix: str, part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"x.{suffix}"
    assert cv2.imwrite(str(path), noise)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(BrokenSampleError, match=str(path)):
        loader("image", name).load(path.name, str(tmp_path))


@pytest.mark.parametrize("name", IMAGE_LOADERS)
def test_missing_and_foreign_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(BrokenSampleError, match=r"absent\.png does not exist"):
        loader("image", name).load("absent.png", str(tmp_path))
    with pytest.raises(BrokenSampleError, match=r"text\.png"):
        loader("image", name).load("text.png", str(tmp_path))
    with pytest.raises(DataError, match="17"):
        loader("image", name).load(17, str(tmp_path))


def test_arrays(tmp_path: Path) -> None:
    for number, (array, expected) in enumerate(
        [
            (IMAGE, IMAGE),
            (IMAGE[..., 0], np.repeat(IMAGE[..., :1], 3, 2)),
            (IMAGE.astype(np.uint16) * 257, IMAGE),
            (IMAGE / 255.0, IMAGE),
            (IMAGE[..., 0] > 100, np.repeat((IMAGE[..., :1] > 100) * np.uint8(255), 3, 2)),
        ]
    ):
        np.save(tmp_path / f"{number}.npy", array)
        assert np.array_equal(loader("image", "numpy").load(f"{number}.npy", str(tmp_path)), expected)
        assert np.array_equal(loader("image", "combined").load(f"{number}.npy", str(tmp_path)), expected)
    for number, (broken, said) in enumerate(
        [(IMAGE * 2.0, "outside"), (IMAGE.astype(np.int64), "int64"), (np.zeros((2, 3, 4, 5), np.uint8), "shape")]
    ):
        np.save(tmp_path / f"b{number}.npy", broken)
        with pytest.raises(BrokenSampleError, match=said):
            loader("image", "numpy").load(f"b{number}.npy", str(tmp_path))
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(BrokenSampleError, match="o.npy"):
        loader("image", "numpy").load("o.npy", str(tmp_path))


def test_the_loader_of_arrays_says_that_it_reads_nothing_else(tmp_path: Path) -> None:
    made.write(tmp_path / "a.png", made.image(0))
    with pytest.raises(BrokenSampleError, match=r"a.png is not a NumPy array.*choose loaders=uni"):
        build_loader("image", "numpy", TASK).load("a.png", str(tmp_path))


@pytest.mark.parametrize("name", ["opencv", "pillow", "scikit"])
def test_loaders_of_images_say_who_reads_arrays(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGE)
    with pytest.raises(BrokenSampleError, match=r"a.npy .*does not read .npy files: choose loaders=uni.*'numpy'"):
        loader("image", name).load("a.npy", str(tmp_path))


@pytest.mark.parametrize("name", ["opencv", "pillow", "scikit", "combined"])
def test_of_an_animation_the_first_picture_counts(name: str, tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (40, 200)]
    pictures[0].save(tmp_path / "x.gif", save_all=True, append_images=pictures[1:])
    assert (loader("image", name).load("x.gif", str(tmp_path)) == np.full((8, 8, 3), 40)).all()


def test_suffixes_decide_the_combined_loader(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("x.gif", "x.tga"):
        Image.fromarray(IMAGE // 128 * 128).save(tmp_path / name)
        assert loader("image", "combined").load(name, str(tmp_path)).shape == (24, 32, 3)
    made.write(tmp_path / "x.png", IMAGE)
    (tmp_path / "x.png").rename(tmp_path / "without")
    assert np.array_equal(loader("image", "combined").load("without", str(tmp_path)), IMAGE)  # by its content
    (tmp_path / "x.mp4").write_bytes(b"no image")
    with pytest.raises(BrokenSampleError, match="x.mp4 cannot be decoded"):
        loader("image", "combined").load("x.mp4", str(tmp_path))


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write(tmp_path / "x.png", IMAGE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    for name in ("scikit", "torchvision"):
        with pytest.raises(MissingExtraError, match="pip install"):
            build_loader("image", name, TASK).load("x.png", str(tmp_path))


# -- masks -------------------------------------------------------------------------------------------------------------
def test_masks_of_16_bit_are_looked_up_as_well(tmp_path: Path) -> None:
    task = TaskDescription(
        name="t", task_type=TaskType.SEMANTIC_SEGMENTATION, idx_to_class={0: "no", 300: "a", 40000: "b", 7: "a"}
    )
    raw = np.array([[0, 7, 300], [40000, 255, 301]], np.uint16)
    assert cv2.imwrite(str(tmp_path / "x.png"), raw)
    mask = build_loader("mask", "opencv", task)
    assert mask.load("x.png", str(tmp_path)).tolist() == [[0, 1, 1], [2, 255, 0]]
    assert np.array_equal(mask.raw("x.png", str(tmp_path)), raw) and mask.final(raw.astype(np.uint16)).dtype == np.uint8


def test_masks_have_one_channel(tmp_path: Path) -> None:
    mask = made.mask(0)
    for name, pixels in (
        ("g.png", mask),
        ("rgb.png", np.dstack([mask] * 3)),
        ("rgba.png", np.dstack([mask] * 3 + [mask * 0 + 9])),
    ):
        assert cv2.imwrite(str(tmp_path / name), pixels)
        assert np.array_equal(build_loader("mask", "raw_mask", TASK).load(name, str(tmp_path)), mask), name
    np.save(tmp_path / "x.npy", mask)
    assert np.array_equal(build_loader("mask", "raw_mask", TASK).load("x.npy", str(tmp_path)), mask)
    made.write(tmp_path / "colour.png", IMAGE)
    with pytest.raises(BrokenSampleError, match="colour.png is a color image"):
        loader("mask").load("colour.png", str(tmp_path))
    np.save(tmp_path / "f.npy", mask * 1.0)
    with pytest.raises(BrokenSampleError, match="float64"):
        loader("mask").load("f.npy", str(tmp_path))


def test_impossible_mask_classes_are_refused() -> None:
    with pytest.raises(MMLMisconfigurationException, match="70000"):
        build_loader("mask", None, TaskDescription(name="t", task_type=TaskType.UNKNOWN, idx_to_class={0: "a", 70000: "b"}))
    many = {n: f"c{n}" for n in range(300)}
    with pytest.raises(MMLMisconfigurationException, match="at most 255"):
        build_loader("mask", None, TaskDescription(name="t", task_type=TaskType.UNKNOWN, idx_to_class=many))


# -- labels ------------------------------------------------------------------------------------------------------------
def test_labels_are_mapped_from_sparse_raw_indices() -> None:
    assert [loader("class").load(raw, "") for raw in (0, 3, 7, 9)] == [0, 1, 1, 2]
    hot = loader("classes")
    assert hot.load([9, 3, 7], "").tolist() == [0, 1, 1] and hot.load([], "").tolist() == [0, 0, 0]
    assert hot.load([0], "").dtype == np.float32
    soft = loader("soft_classes").load([0.1, 0.2, 0.3, 0.4], "")
    assert np.allclose(soft, [0.1, 0.5, 0.4]) and soft.dtype == np.float32
    assert loader("value").load(3, "").tolist() == [3.0]


@pytest.mark.parametrize(
    ("modality", "entry", "said"),
    [
        ("class", 5, "5 is not a class index of the task. Allowed are 0, 3, 7, 9"),
        ("class", None, "None"),
        ("classes", [0, 5], "5 is not a class index"),
        ("classes", 3, "list"),
        ("soft_classes", [0.1, 0.9], "4 probabilities"),
        ("soft_classes", [0.1, 0.2, 0.3, 1.4], "between 0 and 1"),
        ("soft_classes", [0.1, 0.2, 0.3, float("nan")], "between 0 and 1"),
        ("value", "three", "number"),
        ("value", float("nan"), "finite"),
    ],
)
def test_labels_that_make_no_sense_are_named(modality: str, entry: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        loader(modality).load(entry, "")


def test_arrays_of_numbers_are_read_for_any_modality() -> None:
    array = loader("value", "array")
    assert array.load([[1, 2], [3, 4.5]], "").tolist() == [[1, 2], [3, 4.5]] and array.load(3, "").dtype == np.float32
    for wrong in ([[1], [2, 3]], ["a"], [float("nan")], None):
        with pytest.raises(DataError, match="must hold finite numbers"):
            array.load(wrong, "")


def test_unknown_loaders_and_modalities() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: pillow"):
        build_loader("image", "pilow", TASK)
    with pytest.raises(MMLMisconfigurationException, match=r"loaders\.keypoints"):
        build_loader("keypoints", None, TASK)


def test_real_images_decode_the_same_with_every_loader(tmp_path: Path) -> None:
    with zipfile.ZipFile(made.test_data("nuclei_dsb2018", "nuclei_dsb2018_small.zip")) as archive:
        images = [name for name in archive.namelist() if "images/" in name and name.endswith(".png")][:3]
        masks = [name.replace("images/", "masks/") for name in images]
        for name in (*images, *masks):
            archive.extract(name, tmp_path)
    for image, mask in zip(images, masks, strict=True):
        found = [
            build_loader("image", name, TASK).load(image, str(tmp_path))
            for name in ("opencv", "pillow", "pillow_acc", "combined")
        ]
        assert all(np.array_equal(found[0], other) for other in found[1:])
        raw = build_loader("mask", "raw_mask", TASK).load(mask, str(tmp_path))
        assert raw.dtype == np.uint16 and raw.shape == found[0].shape[:2] and raw.max() >= 1


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(
            (name, kind)
            for name in ("opencv", "pillow", "pillow_acc", "combined")
            for kind in ("png", "jpg", "bmp", "tif", "webp")
        ),
        ("combined", "npy"),
    ],
)
def test_damaged_files_are_read_or_named_never_worse(name: str, suffix: str, tmp_path: Path) -> None:
    """Bytes changed, cut out and put in, at seeded places."""
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, IMAGE)
    else:
        assert cv2.imwrite(str(path), IMAGE)
    whole, reader, refused = path.read_bytes(), loader("image", name), 0
    random = np.random.default_rng(len(name) + len(suffix))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow thinks of odd metadata
        for _ in range(60):
            path.write_bytes(_damaged(whole, random))
            try:
                found = reader.load(path.name, str(tmp_path))
                assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
            except BrokenSampleError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > 5


def _damaged(whole: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for _ in range(int(random.integers(1, 6))):
        place, kind = int(random.integers(len(data) or 1)), int(random.integers(3))
        if kind == 0 and data:
            data[place] = int(random.integers(256))
        elif kind == 1:
            del data[place : place + int(random.integers(1, 40))]
        else:
            data[place:place] = random.bytes(int(random.integers(1, 20)))
    return bytes(data)
