"""What is collected while an epoch runs."""

from __future__ import annotations

import pytest
import torch

from mml_ray.metrics.rows import pixel_counts
from mml_ray.models.meters import EpochMeter, batch_rows
from mml_ray.tasks.kinds import kind_of

torch.manual_seed(1)
SCORES = torch.randn(60, 4)
CLASSES = torch.randint(0, 4, (60,))


def test_a_meter_gives_the_same_after_its_state_went_through_a_checkpoint() -> None:
    whole, first, second = EpochMeter(), EpochMeter(), EpochMeter()
    kind = kind_of("classification")
    for index, part in enumerate(torch.split(torch.arange(60), 17)):
        for meter in (whole, first if index < 2 else second):
            meter.add_loss("a", SCORES[part].mean(), len(part))
            meter.add_rows("t", *batch_rows(kind, SCORES[part], CLASSES[part]))
        if index == 1:
            second.load(first.state())
    assert second.losses() == whole.losses()
    scores, targets = second.rows()["t"]
    assert (scores == SCORES.numpy()).all() and (targets == CLASSES.numpy()).all()
    assert whole.losses()["a"] == pytest.approx(float(SCORES.mean()), abs=1e-6)
    whole.reset()
    assert whole.losses() == {} and whole.rows() == {}


def test_masks_are_counted_where_they_are_and_alike() -> None:
    scores, masks = torch.randn(5, 3, 6, 6, dtype=torch.bfloat16), torch.randint(0, 3, (5, 6, 6))
    masks[0, :3] = 255
    counts, nothing = batch_rows(kind_of("semantic_segmentation"), scores, masks)
    assert counts.dtype == torch.int64 and counts.shape == (5, 3, 3) and not nothing.numel()
    assert (counts.numpy() == pixel_counts(scores.float().argmax(1).numpy(), masks.numpy(), 3)).all()
