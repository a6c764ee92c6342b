"""torchvision's v2 transforms behind both contracts. They draw once for a whole input, so batches go sample by sample."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mml_ray.data.augment.base import Pipeline, check_name, check_pixels, refuse_all_but_masks
from mml_ray.data.augment.gpu import seeded
from mml_ray.errors import DataError, MMLMisconfigurationException, UnknownNameError
from mml_ray.imaging.torchvision import require_torchvision
from mml_ray.seeding import keyed_seed
from mml_ray.tasks.attributes import IGNORE_INDEX


class TorchvisionPipeline:
    """Augments batches: images float ``[N, C, H, W]`` in [0, 1], masks int64 ``[N, H, W]``; uncovered mask pixels become 255."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Raises :class:`MMLMisconfigurationException` for unknown steps and arguments, and if torchvision is missing."""
        require_torchvision("The augmentation backend 'torchvision'")
        from torchvision.transforms import v2

        self.names = [str(step["name"]) for step in pipeline]
        self._compose = v2.Compose([build_step(step) for step in pipeline])

    def __call__(self, images: Tensor, masks: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """The augmented batch; a function of the arguments alone."""
        made = [
            self.one(images[number], None if masks is None else masks[number], keyed_seed(seed, number))
            for number in range(len(images))
        ]
        return torch.stack([image for image, _ in made]), None if masks is None else torch.stack([mask for _, mask in made])

    def one(self, image: Tensor, mask: Tensor | None, seed: int) -> tuple[Tensor, Any]:
        """One image ``[C, H, W]`` of any type, and its mask ``[H, W]``."""
        from torchvision import tv_tensors

        with seeded(seed, image.device):
            try:
                if mask is None:
                    return self._compose(tv_tensors.Image(image)).as_subclass(Tensor), None
                moved, labels = self._compose(tv_tensors.Image(image), tv_tensors.Mask(mask))
            except Exception as error:
                raise DataError(f"The augmentation {' > '.join(self.names)} failed on {tuple(image.shape)}: {error}.") from error
        return moved.as_subclass(Tensor), labels.as_subclass(Tensor)


class TorchvisionSamples:
    """The same for single samples on the CPU: ``uint8 [H, W, 3]`` images, ``[H, W]`` masks."""

    def __init__(self, pipeline: Pipeline, modalities: Sequence[str] = ("image", "mask")) -> None:
        """Other geometric modalities than masks are refused."""
        refuse_all_but_masks(modalities, "torchvision")
        self._pipeline = TorchvisionPipeline(pipeline)

    def __call__(self, sample: dict[str, Any], seed: int) -> dict[str, Any]:
        """The augmented sample."""
        image = torch.from_numpy(np.array(sample["image"])).permute(2, 0, 1)
        mask = torch.from_numpy(np.array(sample["mask"])) if "mask" in sample else None
        moved, labels = self._pipeline.one(image, mask, seed)
        made = {**sample, "image": moved.permute(1, 2, 0).contiguous().numpy()}
        check_pixels(made["image"], self._pipeline.names)
        return made if labels is None else {**made, "mask": labels.numpy()}


def build_step(step: Mapping[str, Any]) -> Any:
    """One transform from ``{"name", **arguments}``; masks are filled with 255 unless ``fill`` is given."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    name = str(step["name"])
    arguments = {key: value for key, value in step.items() if key != "name"}
    check_name(name, mixes=name in ("MixUp", "CutMix"))
    cls = getattr(v2, name, None)
    if not (isinstance(cls, type) and issubclass(cls, v2.Transform)):
        known = [key for key in dir(v2) if isinstance(getattr(v2, key), type) and issubclass(getattr(v2, key), v2.Transform)]
        raise UnknownNameError.of("torchvision transform", name, known)
    if "fill" in inspect.signature(cls).parameters and name not in ("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"):
        arguments.setdefault("fill", {tv_tensors.Mask: IGNORE_INDEX, "others": 0})
    try:
        return cls(**arguments)
    except Exception as error:
        raise MMLMisconfigurationException(f"The augmentation '{name}' (torchvision): {error}") from error
