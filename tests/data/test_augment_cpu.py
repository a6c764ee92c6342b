"""CPU augmentations: keyed, harmless to masks, and strict about their configuration."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import yaml

from mml_ray.data.augment import build_cpu, build_preprocessing
from mml_ray.data.augment.fast import FastAffine, FastCoarseDropout
from mml_ray.data.augment.policies import COLOR, GEOMETRIC
from mml_ray.errors import DataError, MMLMisconfigurationException
from tests.data import made

CONFIGS = Path(__file__).parents[2] / "configs"
#: every option file whose pipeline runs on the CPU
OPTIONS = {
    path.stem: content["cpu"]
    for path in sorted((CONFIGS / "augmentations").glob("*.yaml"))
    if (content := yaml.safe_load(path.read_text())).get("cpu")
}
PREPROCESSING = {
    path.stem: yaml.safe_load(path.read_text())["pipeline"] for path in sorted((CONFIGS / "preprocessing").glob("*.yaml"))
}
LABELS = {0, 1, 2, 255}


def sample(number: int = 1, height: int = 500, width: int = 460) -> dict[str, Any]:
    """An image and a mask that cannot be written to, as they come out of a store."""
    labels = np.array([0, 1, 2, 2], np.uint8)
    rows, columns = np.mgrid[0:height, 0:width]
    found = {
        "image": made.image(number, height, width),
        "mask": labels[(rows // 60 + columns // 45) % 4],
        "sample_id": "x",
        "class": 3,
    }
    for name in ("image", "mask"):
        found[name].setflags(write=False)
    return found


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in ("image", "mask"))


def test_there_are_options_to_test() -> None:
    assert {"default", "basic", "baseline224", "base_rand", "randaugment", "load_imagenet_aa"} <= set(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_keeps_masks_exact_and_is_a_function_of_the_seed(option: str) -> None:
    augment, again = build_cpu(OPTIONS[option]), pickle.loads(pickle.dumps(build_cpu(OPTIONS[option])))
    assert augment is not None
    results = [augment(sample(), seed) for seed in range(25)]
    for seed in (24, 3, 0):
        assert equal(again(sample(), seed), results[seed]), "another object, other calls before: the same result"
    assert len({r["image"].tobytes() for r in results}) > (8 if option == "load_imagenet_aa" else 15)
    for result in results:
        assert result["image"].dtype == result["mask"].dtype == np.uint8 and result["image"].shape[:2] == result["mask"].shape
        assert set(np.unique(result["mask"]).tolist()) <= LABELS, "no new label values"
        assert result["class"] == 3 and result["sample_id"] == "x"
    if option not in ("baseline224", "baseline256", "baseline512"):
        assert any(255 in result["mask"] for result in results), "what is uncovered or cut out is ignored"


def test_masks_move_with_the_image() -> None:
    """Where nothing is filled in, a mask made from the image still fits it afterwards."""
    augment = build_cpu({"backend": "albumentations", "pipeline": [{"name": "RandomCrop", "height": 100, "width": 90},
                         {"name": "HorizontalFlip"}, {"name": "RandomRotate90", "p": 1.0}, {"name": "Transpose"}]})  # fmt: skip
    assert augment is not None
    image = made.image(3, 200, 200)
    for seed in range(10):
        found = augment({"image": image, "mask": image[..., 1]}, seed)
        assert np.array_equal(found["image"][..., 1], found["mask"])


@pytest.mark.parametrize("name", [*GEOMETRIC, *COLOR])
@pytest.mark.parametrize("magnitude", [1, 9])
def test_each_operation_of_randaugment(name: str, magnitude: int) -> None:
    table = {**GEOMETRIC, **COLOR}
    compose = A.Compose([table[name](magnitude / 9, 1.0)], seed=1)
    given = sample(2, 64, 60)
    found = compose(image=given["image"], mask=given["mask"])
    assert set(np.unique(found["mask"]).tolist()) <= LABELS
    moved = not np.array_equal(found["mask"], given["mask"])
    assert moved is (name in GEOMETRIC), "colours leave masks alone, geometry does not"
    assert not np.array_equal(found["image"], given["image"]) or (name, magnitude) in {
        ("Posterize", 1),
        ("AutoContrast", 1),
        ("AutoContrast", 9),
    }


def test_colour_mode_uses_every_colour_operation_and_no_other() -> None:
    def names(mode: str) -> int:
        step = {"name": "RandAugment", "number": 1, "magnitude": 5, "mode": mode}
        augment = build_cpu({"backend": "albumentations", "pipeline": [step]})
        assert augment is not None
        found = [augment(sample(2, 64, 60), seed) for seed in range(150)]
        inverted = any(np.array_equal(f["image"], 255 - sample(2, 64, 60)["image"]) for f in found)
        moved = any(not np.array_equal(f["mask"], sample(2, 64, 60)["mask"]) for f in found)
        return 2 * inverted + moved

    assert (names("color"), names("geo"), names("all")) == (2, 1, 3)


def test_keypoints_move_along() -> None:
    augment = build_cpu({"backend": "albumentations", "pipeline": [{"name": "HorizontalFlip", "p": 1.0}]}, ["image", "keypoints"])
    assert augment is not None
    found = augment({"image": made.image(0, 10, 20), "keypoints": np.array([[2.0, 3.0], [19.0, 0.0]], np.float32)}, 0)
    assert np.allclose(found["keypoints"], [[17.0, 3.0], [0.0, 0.0]])
    with pytest.raises(MMLMisconfigurationException, match="bbox.*ALBUMENTATIONS_TARGETS"):
        build_cpu({"backend": "albumentations", "pipeline": [{"name": "HorizontalFlip"}]}, ["image", "bbox"])


@pytest.mark.parametrize("option", PREPROCESSING)
def test_preprocessing_is_deterministic_and_exact(option: str) -> None:
    preprocess = build_preprocessing(PREPROCESSING[option])
    if preprocess is None:
        assert option == "none"
        return
    found, again = preprocess(sample()), pickle.loads(pickle.dumps(preprocess))(sample())
    assert equal(found, again)
    side = 256 if option in ("default", "example") else int(option.removeprefix("size"))
    assert found["image"].shape == (side, side, 3) and set(np.unique(found["mask"]).tolist()) == LABELS
    wide = preprocess({"image": sample()["image"], "mask": sample()["mask"].astype(np.uint16) * 300})
    assert set(np.unique(wide["mask"]).tolist()) <= {0, 300, 600, 255}, "16-bit masks survive too"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "CoarseDropout", "max_holes": 3}, "max_holes.*num_holes_range"),
        ({"name": "Affine", "cval_mask": 255}, "cval_mask.*fill_mask"),
        ({"name": "RandomCrop", "height": 10}, "width"),
        ({"name": "RandomCrop", "height": -1, "width": 3}, "RandomCrop"),
        ({"name": "HorizontalFilp"}, "Did you mean: .*HorizontalFlip"),
        ({"name": "Compose"}, "Unknown albumentations transform"),
        ({"name": "RandAugment", "mode": "colour"}, "geo, color, all"),
        ({"name": "RandAugment", "magnitude": 12}, "1 to 9"),
        ({"name": "AutoAlbument", "path": "/absent.json"}, "absent.json"),
        ({"height": 3}, "must be a mapping with a name"),
    ],
)
def test_wrong_steps_are_refused(step: dict[str, Any], said: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=said):
        build_cpu({"backend": "albumentations", "pipeline": [step]})


@pytest.mark.parametrize("name", ["Normalize", "ToFloat"])
def test_steps_that_leave_no_bytes_are_refused(name: str) -> None:
    augment = build_cpu({"backend": "albumentations", "pipeline": [{"name": name, "p": 1.0}]})
    assert augment is not None
    with pytest.raises(
        MMLMisconfigurationException, match=f"The steps {name} turn an image into .*augmentations.normalization says how"
    ):
        augment(sample(), 1)


def test_old_shift_scale_rotate_is_understood() -> None:
    step = {"name": "ShiftScaleRotate", "shift_limit": 0.05, "scale_limit": 0.05, "rotate_limit": 15, "p": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment = build_cpu({"backend": "albumentations", "pipeline": [step]})
    assert augment is not None and 255 in augment(sample(), 1)["mask"]


def test_a_stored_policy_is_loaded_and_fills_masks_with_ignore(tmp_path: Path) -> None:
    policy = A.Compose([A.OneOf([A.Affine(rotate=(30, 30), p=1.0), A.Rotate((40, 50), border_mode=0, p=1.0)], p=1.0)])
    (tmp_path / "policy.json").write_text(json.dumps(A.to_dict(policy)))
    augment = build_cpu(
        {"backend": "albumentations", "pipeline": [{"name": "AutoAlbument", "path": str(tmp_path / "policy.json")}]}
    )
    assert augment is not None
    masks = [augment(sample(), seed)["mask"] for seed in range(6)]
    assert all(255 in mask and set(np.unique(mask).tolist()) <= LABELS for mask in masks)


def test_a_crop_that_is_too_large_is_explained() -> None:
    augment = build_cpu({"backend": "albumentations", "pipeline": [{"name": "RandomCrop", "height": 600, "width": 10}]})
    assert augment is not None
    with pytest.raises(DataError, match="RandomCrop failed on image"):
        augment(sample(), 0)


def test_nothing_is_built_for_nothing() -> None:
    assert build_cpu({}) is None and build_cpu(None) is None and build_cpu({"backend": "albumentations", "pipeline": []}) is None
    with pytest.raises(MMLMisconfigurationException, match="has no option 'pipelines'; did you mean 'pipeline'"):
        build_cpu({"backend": "albumentations", "pipelines": []})
    with pytest.raises(MMLMisconfigurationException, match="backend"):
        build_cpu({"pipeline": [{"name": "HorizontalFlip"}]})


@pytest.mark.parametrize("border", [0, 1, 4])
@pytest.mark.parametrize("fill", [0, 200, (10, 20, 30)])
def test_the_faster_affine_gives_what_the_original_gives(border: int, fill: Any) -> None:
    arguments = {
        "rotate": (-30, 30),
        "scale": (0.8, 1.2),
        "shear": (-5, 5),
        "translate_percent": (-0.1, 0.1),
        "border_mode": border,
    }
    made_by = [cls(**arguments, fill=fill, p=1.0) for cls in (A.Affine, FastAffine)]
    for seed in range(8):
        results = []
        for transform in made_by:
            transform.set_random_seed(seed)
            results.append(transform(image=made.image(seed, 90, 120), mask=made.mask(seed, 90, 120)))
        assert np.array_equal(results[0]["mask"], results[1]["mask"])
        assert np.abs(results[0]["image"].astype(int) - results[1]["image"].astype(int)).max() <= 1


@pytest.mark.parametrize("fill", [0, 200, (10, 20, 30), "random", "random_uniform"])
@pytest.mark.parametrize("fill_mask", [255, None])
def test_the_faster_dropout_gives_what_the_original_gives(fill: Any, fill_mask: int | None) -> None:
    made_by = [cls(num_holes_range=(1, 4), fill=fill, fill_mask=fill_mask, p=1.0) for cls in (A.CoarseDropout, FastCoarseDropout)]
    for seed in range(4):
        results = []
        for transform in made_by:
            transform.set_random_seed(seed)
            results.append(transform(image=made.image(seed, 90, 120), mask=made.mask(seed, 90, 120)))
        assert equal(*results)
