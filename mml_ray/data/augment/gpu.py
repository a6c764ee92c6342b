"""kornia behind the contract of batches: on the GPU, or on the CPU as a second backend for samples.

Masks are sampled from the nearest pixel. What a warp uncovers or an erasing removes becomes 255 (ignore): labels travel one
higher, so that the zeros which kornia fills in can be told from class 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from kornia.augmentation import auto
from kornia.constants import DataKey, Resample
from torch import Tensor

from mml_ray.data.augment.base import Pipeline, check_name, refuse_all_but_masks
from mml_ray.errors import DataError, MMLMisconfigurationException, UnknownNameError
from mml_ray.tasks.attributes import IGNORE_INDEX

_AUTO = ("AutoAugment", "RandAugment", "TrivialAugment")
_REMOVED = ("RandomMixUpV2", "RandomCutMixV2", "RandomMosaic", "RandomJigsaw", "RandomTransplantation")
#: for masks: the nearest pixel; paddings are filled with the number that stands for 255, whatever they are filled with in images
_MASK_ARGUMENTS = {DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": None, "fill": 0.0, "pad_value": 0.0}}


class _Crop(K.RandomCrop):  # type: ignore[misc]
    """A crop that is larger than the image is refused: kornia would stretch the image, and blend the labels of its mask."""

    def forward_parameters(self, batch_shape: Any) -> Any:
        """As kornia's, for an image that is large enough."""
        left, right, top, bottom = self.compute_padding(tuple(batch_shape))
        found, wanted = (int(batch_shape[-2]) + top + bottom, int(batch_shape[-1]) + left + right), self.flags["size"]
        if wanted[0] > found[0] or wanted[1] > found[1]:
            raise ValueError(f"crop size (height, width) {tuple(wanted)} exceeds {found}")
        return super().forward_parameters(batch_shape)


class KorniaPipeline:
    """Augments batches: images float ``[N, C, H, W]`` in [0, 1], masks int64 ``[N, H, W]``; each sample by itself."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Raises :class:`MMLMisconfigurationException` for unknown steps and arguments."""
        self._names = [str(step["name"]) for step in pipeline]
        self._sequence = K.AugmentationSequential(
            *[build_step(step) for step in pipeline], data_keys=["input"], same_on_batch=False, extra_args=_MASK_ARGUMENTS
        )

    def __call__(self, images: Tensor, masks: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """The augmented batch, clipped to [0, 1]; a function of the arguments alone."""
        with seeded(seed, images.device):
            try:
                if masks is None:
                    return self._sequence(images, data_keys=["input"]).clamp_(0.0, 1.0), None
                moved, shifted = self._sequence(images, masks.unsqueeze(1).float() + 1.0, data_keys=["input", "mask"])
            except Exception as error:
                raise DataError(
                    f"The augmentation {' > '.join(self._names)} failed on images {tuple(images.shape)}: {error}. If they are "
                    "too small for a crop, choose a larger preprocessing or another augmentations option."
                ) from error
        labels = shifted.squeeze(1).round().long() - 1
        return moved.clamp_(0.0, 1.0), torch.where(labels < 0, IGNORE_INDEX, labels)

    def unclipped(self, images: Tensor, seed: int) -> Tensor:
        """The augmented images, also if they are not in [0, 1]."""
        with seeded(seed, images.device):
            return self._sequence(images, data_keys=["input"])  # type: ignore[no-any-return]

    def inverse(self, maps: Tensor) -> Tensor:
        """Undo the geometry of the last call on ``maps [N, C, H, W]``; what it cut off is zero."""
        return self._sequence.inverse(maps, data_keys=["input"])  # type: ignore[no-any-return]


class KorniaSamples:
    """The same for single samples on the CPU: ``uint8 [H, W, 3]`` images, ``[H, W]`` masks."""

    def __init__(self, pipeline: Pipeline, modalities: Sequence[str] = ("image", "mask")) -> None:
        """Other geometric modalities than masks are refused."""
        refuse_all_but_masks(modalities, "kornia")
        self._pipeline = KorniaPipeline(pipeline)

    def __call__(self, sample: dict[str, Any], seed: int) -> dict[str, Any]:
        """The augmented sample."""
        image = torch.from_numpy(np.array(sample["image"])).permute(2, 0, 1).unsqueeze(0).float().div_(255.0)
        mask = torch.from_numpy(np.array(sample["mask"])).unsqueeze(0).long() if "mask" in sample else None
        images, masks = self._pipeline(image, mask, seed)
        pixels = images.squeeze(0).mul(255.0).round_().to(torch.uint8).permute(1, 2, 0).contiguous()
        made = {**sample, "image": pixels.numpy()}
        return made if masks is None else {**made, "mask": masks.squeeze(0).to(torch.uint8).numpy()}


def build_step(step: Mapping[str, Any]) -> Any:
    """One kornia augmentation from ``{"name", **arguments}``."""
    name = str(step["name"])
    arguments = {key: _plain(value) for key, value in step.items() if key != "name"}
    check_name(name, mixes=name in _REMOVED or "MixUp" in name or "CutMix" in name)
    cls = getattr(auto if name in _AUTO else K, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)) or name.endswith(("Base2D", "Base3D", "3D")):
        raise UnknownNameError.of("kornia augmentation", name, [*known_names(), *_AUTO])
    try:
        return (_Crop if cls is K.RandomCrop else cls)(**arguments)
    except Exception as error:
        raise MMLMisconfigurationException(f"The augmentation '{name}' (kornia): {error}") from error


def known_names() -> list[str]:
    """The augmentations of kornia that act on single images."""
    return [name for name in dir(K) if name.startswith("Random") and not name.endswith("3D") and name not in _REMOVED]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators, seeded inside and as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value
