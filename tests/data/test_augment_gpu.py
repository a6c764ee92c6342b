"""Augmentation of batches (kornia, torchvision): keyed, exact for masks, and the same pictures on every device."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mml_ray.data.augment import BatchAugmentation, build_cpu, build_gpu
from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.errors import DataError, MMLMisconfigurationException
from tests.data import made

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIONS = {
    path.stem: content["gpu"]
    for path in sorted((CONFIGS / "augmentations").glob("*.yaml"))
    if (content := yaml.safe_load(path.read_text())).get("gpu")
}
LABELS = {0, 1, 2, 255}


def batch(count: int = 3, size: int = 240) -> tuple[torch.Tensor, torch.Tensor]:
    images = np.stack([made.image(number, size, size) for number in range(count)])
    rows, columns = np.mgrid[0:size, 0:size]
    masks = np.stack([((rows // 40 + columns // 30 + number) % 3) for number in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(masks).long()


def built(option: str) -> BatchAugmentation:
    found = build_gpu(OPTIONS[option])
    assert found is not None
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_keeps_masks_exact_and_is_a_function_of_the_seed(option: str) -> None:
    augment, again = built(option), built(option)
    images, masks = batch()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    results = [augment(images, masks, seed) for seed in range(3)]
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is as it was"
    moved, labels = again(images, masks, 2)
    assert labels is not None and torch.equal(moved, results[2][0]) and torch.equal(labels, results[2][1])  # type: ignore[arg-type]
    assert not torch.equal(results[0][0], results[1][0])
    found = set()
    for moved, labels in results:
        assert (
            labels is not None
            and labels.dtype == torch.int64
            and moved.shape == (3, 3, 224, 224)
            and labels.shape == (3, 224, 224)
        )
        assert 0.0 <= float(moved.min()) and float(moved.max()) <= 1.0
        found |= set(labels.unique().tolist())
    assert found <= LABELS and {0, 1, 2} <= found
    alone, none = augment(images, None, 4)
    assert none is None and alone.shape == (3, 3, 224, 224)


def test_uncovered_pixels_are_ignored_and_masks_move_with_the_image() -> None:
    step = {"name": "RandomAffine", "degrees": [30, 30], "p": 1.0, "resample": "nearest"}
    augment = build_gpu({"backend": "kornia", "pipeline": [{"name": "RandomHorizontalFlip"}, step]})
    assert augment is not None
    images, masks = batch()
    images = masks.unsqueeze(1).expand(-1, 3, -1, -1) / 2.0 * 0.5 + 0.5  # never 0, so that what is filled in shows
    moved, labels = augment(images, masks, 3)
    assert labels is not None
    covered = labels != 255
    assert 0.02 < 1 - float(covered.float().mean()) < 0.5
    assert torch.allclose(moved[:, 0][covered], labels[covered] / 2.0 * 0.5 + 0.5, atol=1e-4)
    assert float(moved[:, 0][~covered].max()) == 0.0


@pytest.mark.parametrize("backend", ["kornia", "torchvision"])
def test_as_cpu_backends_for_samples(backend: str) -> None:
    turn = {"name": "RandomRotation", "degrees": [40, 40]} | ({"p": 1.0} if backend == "kornia" else {})
    pipeline = [{"name": "RandomHorizontalFlip", "p": 0.5}, turn]
    augment = build_cpu({"backend": backend, "pipeline": pipeline})
    assert augment is not None
    sample: dict[str, Any] = {"image": made.image(1, 60, 60), "mask": (made.image(1, 60, 60)[..., 0] // 100), "class": 1}
    for array in (sample["image"], sample["mask"]):
        array.setflags(write=False)
    found = [augment(sample, seed) for seed in range(8)]
    again = pickle.loads(pickle.dumps(augment))
    assert all(np.array_equal(again(sample, seed)["image"], found[seed]["image"]) for seed in (7, 0))
    assert all(f["image"].dtype == np.uint8 and f["mask"].dtype == np.uint8 and f["image"].shape == (60, 60, 3) for f in found)
    assert {value for f in found for value in np.unique(f["mask"]).tolist()} == LABELS
    assert len({f["image"].tobytes() for f in found}) == 2
    with pytest.raises(MMLMisconfigurationException, match="keypoints"):
        build_cpu({"backend": backend, "pipeline": pipeline}, ["image", "keypoints"])


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "RandomHorizontalFilp"}, "Did you mean: .*RandomHorizontalFlip"),
        ({"name": "RandomHorizontalFlip", "q": 1}, "q"),
        ({"name": "RandomMixUpV2"}, "callbacks=mixup"),
        ({"name": "Module"}, "Unknown kornia augmentation"),
        ({"name": "Normalize", "mean": [0.5] * 3, "std": [0.2] * 3}, "augmentations.normalization says how"),
    ],
)
def test_wrong_steps_are_refused(step: dict[str, Any], said: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=said):
        build_gpu({"backend": "kornia", "pipeline": [step]})


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugment", "AutoAugment"])
def test_policies_of_kornia(name: str) -> None:
    arguments = {"n": 2, "m": 6} if name == "RandAugment" else {}
    augment = build_gpu({"backend": "kornia", "pipeline": [{"name": name, **arguments}]})
    assert augment is not None
    images, masks = batch(4, 48)
    moved, labels = augment(images, masks, 1)
    assert labels is not None and moved.shape == images.shape and set(labels.unique().tolist()) <= LABELS


@pytest.mark.parametrize(
    "step",
    [
        {"name": "RandomCrop", "size": [80, 80], "pad_if_needed": True, "fill": 1.0},
        {"name": "RandomCrop", "size": [64, 64], "padding": 20, "fill": 0.5},
        {"name": "PadTo", "size": [80, 80], "pad_value": 1.0},
    ],
)
def test_padding_of_masks_is_ignored_whatever_images_are_filled_with(step: dict[str, Any]) -> None:
    augment = build_gpu({"backend": "kornia", "pipeline": [step]})
    assert augment is not None
    images, masks = augment(torch.full((2, 3, 64, 64), 0.25), torch.full((2, 64, 64), 7), 3)
    assert masks is not None and set(masks.unique().tolist()) == {7, 255}
    assert torch.equal(masks == 255, images[:, 0] != 0.25)


@pytest.mark.parametrize("size", [[80, 80], [80, 32]])
def test_a_crop_of_kornia_that_is_too_large_does_not_blend_labels(size: list[int]) -> None:
    augment = build_gpu({"backend": "kornia", "pipeline": [{"name": "RandomCrop", "size": size}]})
    assert augment is not None
    with pytest.raises(DataError, match=r"crop size .* exceeds \(64, 64\).*larger preprocessing"):
        augment(torch.zeros(2, 3, 64, 64), torch.randint(0, 200, (2, 64, 64)), 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_data_module_the_batch_augmentation_is_keyed_and_before_the_normalisation(workers: int, tmp_path: Path) -> None:
    pipeline = [{"name": "RandomHorizontalFlip", "p": 0.5}, {"name": "RandomCrop", "size": [16, 16]}]
    augmentations = {"normalization": "task", "gpu": {"backend": "kornia", "pipeline": pipeline}}
    seen = []
    for _ in range(2):
        given = made.options(augmentations=augmentations, workers=workers)
        module = MultiTaskDataModule([made.data_task("segmentation", tmp_path)], options=given)
        loader = module.train_dataloader()
        seen.append([batch["made_segmentation"] for _ in range(2) for batch in loader])
        val = next(iter(module.val_dataloader()))["made_segmentation"]
        module.close()
    assert val["image"].shape == (4, 3, 24, 32), "only training is augmented"
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["targets"], other["targets"])
        assert one["image"].shape == (4, 3, 16, 16) and one["targets"].shape == (4, 16, 16) and "augmentation_seed" not in one
        unit = one["image"] * torch.tensor([0.25, 0.5, 0.125]).view(3, 1, 1) + torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
        assert -1e-3 < float(unit.min()) and float(unit.max()) < 1 + 1e-3
    by_epoch = {fields["sample_id"][0] + str(number) for number, fields in enumerate(seen[0])}
    assert len(by_epoch) == 4 and not torch.equal(seen[0][0]["image"], seen[0][2]["image"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("option", [name for name in OPTIONS if OPTIONS[name]["backend"] == "kornia"])
def test_on_a_gpu(option: str) -> None:
    augment = built(option)
    images, masks = (tensor.cuda() for tensor in batch())
    before = torch.cuda.get_rng_state()
    results = [augment(images, masks, 7) for _ in range(2)]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert results[0][0].is_cuda and torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None and set(results[0][1].unique().tolist()) <= LABELS
