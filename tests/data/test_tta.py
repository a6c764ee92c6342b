"""Test-time augmentation: exact inverses, for every kind of prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mml_ray.data.augment.tta import TestTimeAugmentation
from mml_ray.errors import MMLMisconfigurationException

CONFIGS = Path(__file__).parents[2] / "configs/tta"
IDS = ["a", "b", "c"]


def option(name: str) -> TestTimeAugmentation:
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text().replace("${tta.size}", "[32, 40]"))
    return TestTimeAugmentation(content["variations"], mode=content["mode"])


def images(height: int = 32, width: int = 40) -> torch.Tensor:
    """Smooth, so that resampling changes little."""
    rows, columns = torch.meshgrid(torch.linspace(0, 2, height), torch.linspace(0, 3, width), indexing="ij")
    return torch.stack([torch.stack([(rows + n).sin(), (columns - n).cos(), rows * columns / 6]) for n in range(3)])


def pixelwise(shown: torch.Tensor) -> torch.Tensor:
    """A network whose maps follow the image: two channels."""
    return torch.stack([shown[:, 0] * 2 + 1, shown[:, 1] - shown[:, 2]], dim=1)


def test_without_variations_it_is_the_prediction_itself() -> None:
    tta = option("none")
    assert not tta and torch.equal(tta(pixelwise, images(), sample_ids=IDS, dense=True), pixelwise(images()))


@pytest.mark.parametrize("shape", [(32, 40), (40, 40)])
def test_rotations_are_undone_exactly(shape: tuple[int, int]) -> None:
    tta, given = option("rotate"), images(*shape)
    names = []
    for name, shown, undo in tta.views(given, IDS):
        names.append(name)
        assert torch.equal(undo(shown), given) and (name == "identity") is (
            shown.shape == given.shape and torch.equal(shown, given)
        )
    assert names == ["identity", "rot90", "rot270", "hflip"]
    assert torch.allclose(tta(pixelwise, given, sample_ids=IDS, dense=True), pixelwise(given), atol=1e-6)


@pytest.mark.parametrize("name", ["rotate", "crop"])
@pytest.mark.parametrize("outputs", [(5,), (1,)])
def test_predictions_of_whole_images_are_averaged(name: str, outputs: tuple[int, ...]) -> None:
    """Classification, multi-label classification (logits) and regression (values)."""
    tta, seen = option(name), []

    def predict(shown: torch.Tensor) -> torch.Tensor:
        seen.append(shown)
        return shown.mean((1, 2, 3)).view(-1, 1).expand(-1, *outputs) * (len(seen))

    found = tta(predict, images(), sample_ids=IDS)
    assert len(seen) == 4 and found.shape == (3, *outputs)
    expected = sum(shown.mean((1, 2, 3)) * (n + 1) for n, shown in enumerate(seen)) / 4
    assert torch.allclose(found[:, 0], torch.as_tensor(expected))


def test_crops_count_only_where_they_saw_something() -> None:
    tta, given = option("crop"), images()
    crops = {name: (shown, undo) for name, shown, undo in tta.views(given, IDS)}
    for name in ("crop1", "crop2", "crop3"):
        shown, undo = crops[name]
        assert shown.shape == (3, 3, 32, 40)
        seen = undo(torch.ones(3, 1, 32, 40))
        assert (
            torch.allclose(seen, seen.round(), atol=1e-5)
            and set(seen.round().unique().tolist()) == {0.0, 1.0}
            and 0.0 < float(seen.mean()) < 1.0
        )
        assert (undo(shown) - given).abs()[seen.expand_as(given) > 0].max() < 0.12, "put back where it came from"
    assert not torch.equal(crops["crop1"][0], crops["crop2"][0])
    found = tta(pixelwise, given, sample_ids=IDS, dense=True)
    assert (found - pixelwise(given)).abs().max() < 0.12


def test_crops_are_keyed_by_sample() -> None:
    first = [shown for _, shown, _ in option("crop").views(images(), IDS)][1]
    again = [shown for _, shown, _ in option("crop").views(images()[[2, 0]], ["c", "a"])][1]
    assert torch.equal(again, first[[2, 0]])


def test_pixels_that_no_view_saw_come_from_the_image_itself() -> None:
    tta = TestTimeAugmentation({"crop": [{"name": "RandomResizedCrop", "size": [16, 16], "scale": [0.1, 0.2]}]})
    assert (tta(pixelwise, images(), sample_ids=IDS, dense=True) - pixelwise(images())).abs().max() < 0.3


def test_steps_follow_one_another_and_kornia_does_the_rest() -> None:
    flips = [
        {"name": "RandomHorizontalFlip"},
        {"name": "RandomVerticalFlip", "p": 1.0},
        {"name": "RandomRotation", "degrees": [90, 90]},
    ]
    tta = TestTimeAugmentation({"all": flips, "warp": [{"name": "RandomRotation", "degrees": [10, 10]}]})
    views = {name: (shown, undo) for name, shown, undo in tta.views(images(), IDS)}
    assert torch.equal(views["all"][1](views["all"][0]), images())
    back = views["warp"][1](views["warp"][0])
    assert float((back - images())[:, :, 10:-10, 10:-10].abs().max()) < 0.05 and not torch.allclose(
        views["warp"][0], images(), atol=0.1
    )


@pytest.mark.parametrize(
    ("variations", "said"),
    [
        ({"x": [{"name": "RandomHorizontalFlip", "p": 0.5}]}, "p=1"),
        ({"x": [{"name": "RandomResizedCrop"}]}, "size="),
        ({"x": [{"p": 1.0}]}, r"tta\.variations\.x"),
        ({"x": [{"name": "RandomFlop"}]}, "RandomFlop"),
    ],
)
def test_wrong_variations_are_refused(variations: dict[str, Any], said: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=said):
        TestTimeAugmentation(variations)
    with pytest.raises(MMLMisconfigurationException, match="mean"):
        TestTimeAugmentation({}, mode="median")
