"""Test-time augmentation: several views of an image, one prediction.

Each variation is a list of kornia steps. Turns by 90 degrees, flips and crops are done here, exactly; anything else goes
through kornia and its inverse. Predictions for pixels are brought back to the image's geometry before they are averaged, and
a view counts only where it saw something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mml_ray.data.options import TtaOptions
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.seeding import keyed_seed

Predict = Callable[[Tensor], Tensor]


class Undo(Protocol):
    """Brings maps ``[N, C, h, w]`` back into the geometry before the step; what the step cut off is zero."""

    def __call__(self, maps: Tensor) -> Tensor:
        """The maps as they would lie in the image before the step."""


#: images and the seeds of the samples -> the changed images and how to undo the change
Step = Callable[[Tensor, Sequence[int]], tuple[Tensor, Undo]]


class TestTimeAugmentation:
    """Averages predictions over ``variations`` (``{name: [{"name", **arguments}, ...]}``; an empty list is the image itself)."""

    __test__ = False  # no test case, whatever its name begins with

    def __init__(self, variations: Mapping[str, Sequence[Mapping[str, Any]]], *, mode: str = "mean", seed: int = 0) -> None:
        """``mode``: mean. Raises :class:`MMLMisconfigurationException` for unknown modes, steps and arguments."""
        options = TtaOptions.of({"variations": dict(variations), "mode": mode})
        self._seed = seed
        self._views = {name: [_build(step, name) for step in steps] for name, steps in options.variations.items()}

    def __bool__(self) -> bool:
        return bool(self._views)

    def views(self, images: Tensor, sample_ids: Sequence[str]) -> Iterator[tuple[str, Tensor, Undo]]:
        """Each view of ``images [N, C, H, W]`` with its inverse; random crops are keyed by sample."""
        for name, steps in self._views.items():
            seeds = [keyed_seed(self._seed, "tta", name, sample_id) for sample_id in sample_ids]
            shown, undoings = images, []
            for step in steps:
                shown, undo = step(shown, seeds)
                undoings.append(undo)
            yield name, shown, _all_undone(undoings)

    def __call__(self, predict: Predict, images: Tensor, *, sample_ids: Sequence[str], dense: bool = False) -> Tensor:
        """The averaged ``predict(images)``: logits or values ``[N, ...]``; if ``dense``, maps ``[N, C, H, W]`` of their size.

        Without variations it is ``predict(images)`` itself.
        """
        if not self._views:
            return predict(images)
        if not dense:
            return torch.stack([predict(shown) for _, shown, _ in self.views(images, sample_ids)]).mean(0)
        return self._dense(predict, images, sample_ids)

    def _dense(self, predict: Predict, images: Tensor, sample_ids: Sequence[str]) -> Tensor:
        total: Tensor | None = None
        weight: Tensor | None = None
        for _, shown, undo in self.views(images, sample_ids):
            maps = predict(shown)
            seen = undo(torch.ones_like(maps[:, :1]))
            part = undo(maps)
            total = part if total is None else total + part
            weight = seen if weight is None else weight + seen
        assert total is not None and weight is not None
        if bool((weight <= 0).any()):  # no view saw these pixels
            unseen = (weight <= 0).to(total.dtype)
            total, weight = total + predict(images) * unseen, weight + unseen
        return total / weight


def _all_undone(undoings: Sequence[Undo]) -> Undo:
    def undo(maps: Tensor) -> Tensor:
        for one in reversed(undoings):
            maps = one(maps)
        return maps

    return undo


def _turn(times: int) -> Step:
    def step(images: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Undo]:
        return images.rot90(times, (2, 3)), lambda maps: maps.rot90(-times, (2, 3))

    return step


def _flip(axis: int) -> Step:
    def step(images: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Undo]:
        return images.flip(axis), lambda maps: maps.flip(axis)

    return step


def _crop(size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> Step:
    """A part of ``scale`` of the area with an aspect ``ratio``, brought to ``size``; as RandomResizedCrop."""

    def step(images: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Undo]:
        height, width = images.shape[2:]
        boxes = [_box(height, width, scale, ratio, seed) for seed in seeds]
        parts = [_resized(images[n : n + 1, :, y : y + h, x : x + w], size) for n, (y, x, h, w) in enumerate(boxes)]

        def undo(maps: Tensor) -> Tensor:
            result = maps.new_zeros((len(maps), maps.shape[1], height, width))
            for number, (y, x, h, w) in enumerate(boxes):
                result[number : number + 1, :, y : y + h, x : x + w] = _resized(maps[number : number + 1], (h, w))
            return result

        return torch.cat(parts), undo

    return step


def _box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part; the whole if none of ten fits."""
    random = np.random.default_rng(seed)
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = np.exp(random.uniform(np.log(ratio[0]), np.log(ratio[1])))
        h, w = round(float(np.sqrt(area / aspect))), round(float(np.sqrt(area * aspect)))
        if 0 < h <= height and 0 < w <= width:
            return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w
    return 0, 0, height, width


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=images.shape[-1] > size[1])


def _through_kornia(step: Mapping[str, Any]) -> Step:
    from mml_ray.data.augment.gpu import KorniaPipeline

    KorniaPipeline([step])  # a wrong step is refused before any prediction

    def made(images: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Undo]:
        pipeline = KorniaPipeline([step])
        # images are normalized here, so they must not be clipped: the sequence is called itself
        return pipeline.unclipped(images, keyed_seed(*seeds)), pipeline.inverse

    return made


def _build(given: Mapping[str, Any], variation: str) -> Step:
    step = dict(given)
    name, p = str(step.pop("name")), float(step.pop("p", 1.0))
    if p != 1.0:
        raise MMLMisconfigurationException(
            f"tta.variations.{variation}: '{name}' must have p=1, since views are not random, got {p}."
        )
    exact = _exact(name, step, variation)
    return exact or _through_kornia({"name": name, "p": 1.0, **step})


def _exact(name: str, arguments: dict[str, Any], variation: str) -> Step | None:
    if name in ("RandomHorizontalFlip", "RandomVerticalFlip") and not arguments:
        return _flip(3 if name == "RandomHorizontalFlip" else 2)
    if name == "RandomRotation90" and set(arguments) == {"times"} and len(set(arguments["times"])) == 1:
        return _turn(int(arguments["times"][0]))
    if name == "RandomRotation" and set(arguments) == {"degrees"} and isinstance(arguments["degrees"], Sequence):
        degrees = {float(value) for value in arguments["degrees"]}
        if len(degrees) == 1 and next(iter(degrees)) % 90 == 0:
            return _turn(round(next(iter(degrees)) / 90))
    if name == "RandomResizedCrop" and set(arguments) <= {"size", "scale", "ratio"}:
        size = arguments.get("size")
        pair = (size, size) if isinstance(size, int) else tuple(size or ())
        if len(pair) != 2:
            raise MMLMisconfigurationException(
                f"tta.variations.{variation}: RandomResizedCrop needs size=[height, width], got {size!r}."
            )
        scale, ratio = (
            tuple(arguments.get(key, default)) for key, default in (("scale", (0.08, 1.0)), ("ratio", (3 / 4, 4 / 3)))
        )
        return _crop((int(pair[0]), int(pair[1])), (scale[0], scale[1]), (ratio[0], ratio[1]))
    return None
