"""Mixup and CutMix: what the targets say is what the images show."""

from __future__ import annotations

import pytest
import torch

from mml_ray.data.augment.mix import cutmix, mixup
from mml_ray.errors import MMLMisconfigurationException


def batch(count: int = 64, size: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Image n is constant n, its class is n modulo 4."""
    numbers = torch.arange(count, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 3, size, size + 4).clone(), torch.arange(count) % 4


def test_mixup_mixes_images_and_targets_alike() -> None:
    images, targets = batch()
    mixed, soft = mixup(images, targets, num_classes=4, seed=3)
    share = (mixed[:, 0, 0, 0] - images.flip(0)[:, 0, 0, 0]) / (images - images.flip(0))[:, 0, 0, 0]
    expected = torch.zeros(64, 4)
    for number in range(64):
        expected[number, targets[number]] += share[number]
        expected[number, targets[63 - number]] += 1 - share[number]
    assert torch.allclose(soft, expected, atol=1e-4) and torch.allclose(soft.sum(1), torch.ones(64), atol=1e-6)
    assert share.min() >= -1e-5 and share.max() <= 1 + 1e-5 and share.std() > 0.2, "each sample draws its own share"


@pytest.mark.parametrize("minmax", [None, (0.2, 0.6)])
def test_cutmix_targets_follow_the_area_that_was_really_pasted(minmax: tuple[float, float] | None) -> None:
    images, targets = batch()
    mixed, soft = cutmix(images, targets, num_classes=4, seed=3, minmax=minmax)
    own = (mixed == images).float().mean((1, 2, 3))
    for number in range(64):
        expected = torch.zeros(4)
        expected[targets[number]] += own[number]
        expected[targets[63 - number]] += 1 - own[number]
        assert torch.allclose(soft[number], expected, atol=1e-5)
        pasted = (mixed[number, 0] != images[number, 0]).nonzero()
        if len(pasted):
            (top, left), (bottom, right) = pasted.min(0).values.tolist(), pasted.max(0).values.tolist()
            assert len(pasted) == (bottom - top + 1) * (right - left + 1), "a box"
            assert bool((mixed[number, :, top : bottom + 1, left : right + 1] == 63 - number).all())
    assert 0.05 < float((1 - own).mean()) < 0.8 and len(own.unique()) > 10
    if minmax is not None:
        assert float((1 - own).max()) <= 0.6 * 0.6 + 0.05


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_they_are_functions_of_the_seed_and_take_soft_targets(mix: object) -> None:
    assert callable(mix)
    images, targets = batch()
    one, other = mix(images, targets, num_classes=4, seed=1), mix(images, targets, num_classes=4, seed=1)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(one[0], mix(images, targets, num_classes=4, seed=2)[0])
    soft = torch.nn.functional.one_hot(targets, 4).float()
    assert torch.allclose(mix(images, soft, num_classes=4, seed=1)[1], one[1])
    smoothed = mix(images, targets, num_classes=4, seed=1, label_smoothing=0.1)[1]
    assert torch.allclose(smoothed, one[1] * 0.9 + 0.025, atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    images, targets = batch()
    with pytest.raises(MMLMisconfigurationException, match="alpha"):
        mixup(images, targets, num_classes=4, seed=1, alpha=0)
    with pytest.raises(MMLMisconfigurationException, match="minmax"):
        cutmix(images, targets, num_classes=4, seed=1, minmax=(0.7, 0.2))
