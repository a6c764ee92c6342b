"""The two contracts of augmentation, and how a configuration picks a backend.

``cpu/<backend>`` (registry kind ``augmentation``) is built as ``factory(pipeline, modalities)`` and called with one sample
and its seed. ``gpu/<backend>`` is built as ``factory(pipeline)`` and called with a batch and its seed. A pipeline is a flat
list of ``{"name": ..., **arguments}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from mml_ray.data.options import PipelineOptions
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import build
from mml_ray.registry import registry
from mml_ray.tasks.attributes import ALBUMENTATIONS_TARGETS, KORNIA_VALID_MODALITIES, Modality

Pipeline = Sequence[Mapping[str, Any]]
#: changes image and mask of a sample alike; a function of the sample and the seed alone
SampleAugmentation = Callable[[dict[str, Any], int], dict[str, Any]]


class BatchAugmentation(Protocol):
    """Augments batches on whatever device they are."""

    def __call__(self, images: Tensor, masks: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """``images`` float ``[N, C, H, W]`` in [0, 1] and ``masks`` int64 ``[N, H, W]``; global generators stay untouched."""


def build_cpu(
    given: PipelineOptions | Mapping[str, Any] | None, modalities: Sequence[str] = ("image", "mask")
) -> SampleAugmentation | None:
    """The augmentation of samples of ``modalities``; ``None``: there are no steps."""
    options = _options(given, "cpu")
    if not options.pipeline:
        return None
    found: SampleAugmentation = registry.lookup("augmentation", f"cpu/{options.backend}")(options.pipeline, modalities)
    return found


def build_gpu(given: PipelineOptions | Mapping[str, Any] | None) -> BatchAugmentation | None:
    """As :func:`build_cpu`, for batches."""
    options = _options(given, "gpu")
    if not options.pipeline:
        return None
    found: BatchAugmentation = registry.lookup("augmentation", f"gpu/{options.backend}")(options.pipeline)
    return found


def _options(given: PipelineOptions | Mapping[str, Any] | None, side: str) -> PipelineOptions:
    return given if isinstance(given, PipelineOptions) else build(PipelineOptions, f"augmentations.{side}", given or {})


def refuse_all_but_masks(modalities: Sequence[str], backend: str) -> None:
    """Raise if a sample holds anything beside a mask that would have to move along with the image."""
    moving = {*KORNIA_VALID_MODALITIES, *ALBUMENTATIONS_TARGETS} - {Modality.IMAGE, Modality.MASK}
    lost = sorted(str(modality) for modality in modalities if modality in moving)
    if lost:
        raise MMLMisconfigurationException(
            f"The augmentation backend {backend} cannot transform {', '.join(lost)} together with the image. Choose "
            "albumentations on the CPU (augmentations=default)."
        )


#: what a pipeline need not, and must not do
NORMALIZING = (
    "Leave out Normalize, ToFloat, ToTensorV2 and the like: augmentations.normalization says how images are normalized, and "
    "batches are tensors anyway."
)


def check_pixels(image: Any, names: Sequence[str]) -> None:
    """Raise unless the steps ``names`` left an image of bytes: floats would pass the normalization unnoticed."""
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3:
        raise MMLMisconfigurationException(
            f"The steps {' > '.join(names)} turn an image into {getattr(image, 'dtype', '')} {tuple(image.shape)}; it must stay "
            f"uint8 [height, width, channels]. {NORMALIZING}"
        )


def check_name(name: str, *, mixes: bool) -> None:
    """Raise for a step that mixes samples, or that takes images out of [0, 1]."""
    if mixes:
        raise MMLMisconfigurationException(
            f"'{name}' mixes samples and their targets: choose callbacks=mixup or callbacks=cutmix."
        )
    if name in ("Normalize", "Denormalize"):
        raise MMLMisconfigurationException(f"'{name}' takes images out of [0, 1], where augmentations must stay. {NORMALIZING}")
