"""albumentations behind one small adapter: samples on the CPU, masks included.

Masks are sampled from the nearest pixel, and what an operation uncovers or cuts out is filled with 255 (ignore), so an
augmentation never invents a label.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np

from mml_ray.data.augment.base import Pipeline, check_pixels
from mml_ray.data.augment.fast import FastAffine, FastCoarseDropout
from mml_ray.data.augment.policies import POLICIES
from mml_ray.errors import DataError, MMLMisconfigurationException, UnknownNameError
from mml_ray.tasks.attributes import ALBUMENTATIONS_TARGETS, IGNORE_INDEX, KORNIA_VALID_MODALITIES

#: our own versions of some transforms
_FASTER: dict[str, Any] = {"Affine": FastAffine, "CoarseDropout": FastCoarseDropout}


class AlbumentationsPipeline:
    """Steps applied to one sample: ``uint8 [H, W, 3]`` image, ``[H, W]`` mask, ``float32 [K, 2]`` keypoints (x, y)."""

    def __init__(self, pipeline: Pipeline, modalities: Sequence[str] = ("image", "mask")) -> None:
        """Raises :class:`MMLMisconfigurationException` for unknown steps and arguments."""
        self._names = [str(step["name"]) for step in pipeline]
        self._targets = _targets(modalities)
        others = {name: kind for name, kind in self._targets.items() if name != kind}
        keypoints = "keypoints" in self._targets.values()
        self._compose = A.Compose(
            [build_step(step) for step in pipeline],
            additional_targets=others or None,
            keypoint_params=A.KeypointParams("xy", remove_invisible=False) if keypoints else None,
            mask_interpolation=cv2.INTER_NEAREST,
        )
        self._random = random.Random(0)
        self._bits = np.random.PCG64(0)
        self._compose.set_random_state(np.random.Generator(self._bits), self._random)

    def __call__(self, sample: dict[str, Any], seed: int) -> dict[str, Any]:
        """The augmented sample; modalities without an albumentations target are passed on."""
        self._reseed(seed)
        given = {name: sample[name] for name in self._targets if name in sample}
        try:
            made = self._run(given)
        except Exception as error:
            shapes = ", ".join(f"{name} {getattr(value, 'shape', '')}" for name, value in given.items())
            raise DataError(
                f"The augmentation {' > '.join(self._names)} failed on {shapes}: {error}. "
                "If the image is too small for a crop, choose a larger preprocessing or another augmentations option."
            ) from error
        if "image" in made:
            check_pixels(made["image"], self._names)
        return {**sample, **made}

    def _run(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._compose.processors:
            found: dict[str, Any] = self._compose(**data)
            return found
        for transform in self._compose.transforms:  # what Compose does for images and masks, less its checks of each call
            data = transform(**data)
        return data

    def _reseed(self, seed: int) -> None:
        """Both generators that albumentations draws from; ten times cheaper than its ``set_random_seed``."""
        self._random.seed(seed)
        # any 128 bit state is as good as another; odd multipliers spread the 63 bits of the key over it
        state = ((seed * 0x9E3779B97F4A7C15F39CC0605CEDC835) ^ (seed << 64)) & _MASK
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": _INCREMENT},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._bits.random_raw(2, output=False)


_MASK = (1 << 128) - 1
_INCREMENT = 0xDA3E39CB94B95BDB5851F42D4C957F2D | 1


class AlbumentationsPreprocessing:
    """The same steps without chance: equal samples give equal results, so the result can be stored."""

    def __init__(self, pipeline: Pipeline, modalities: Sequence[str] = ("image", "mask")) -> None:
        """As :class:`AlbumentationsPipeline`."""
        self._pipeline = AlbumentationsPipeline(pipeline, modalities)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The preprocessed sample."""
        return self._pipeline(sample, 0)


def build_step(step: Mapping[str, Any]) -> Any:
    """One albumentations object from ``{"name", **arguments}``; masks are filled with 255 unless ``fill_mask`` is given."""
    name, arguments = str(step["name"]), {key: _plain(value) for key, value in step.items() if key != "name"}
    if name in POLICIES:
        return _construct(name, POLICIES[name], arguments)
    cls = getattr(A, name, None)
    if not (isinstance(cls, type) and issubclass(cls, A.BasicTransform)):
        known = [key for key in dir(A) if inspect.isclass(getattr(A, key)) and issubclass(getattr(A, key), A.BasicTransform)]
        raise UnknownNameError.of("albumentations transform", name, [*known, *POLICIES])
    if name == "ShiftScaleRotate":
        return _construct(name, _shift_scale_rotate, arguments)
    cls = _FASTER.get(name, cls)
    if "fill_mask" in inspect.signature(cls).parameters:
        arguments.setdefault("fill_mask", IGNORE_INDEX)
    return _construct(name, cls, arguments)


def _construct(name: str, made: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return made(**arguments)
    except Exception as error:
        allowed = [key for key in inspect.signature(made).parameters if key not in ("self", "strict")]
        raise MMLMisconfigurationException(f"The augmentation '{name}': {error}. Its arguments: {', '.join(allowed)}.") from error


def _shift_scale_rotate(
    shift_limit: float = 0.0625, scale_limit: float = 0.1, rotate_limit: float = 45, p: float = 0.5, interpolation: int = 1
) -> Any:
    """The classic; one operation of albumentations' Affine."""
    return FastAffine(
        translate_percent=(-shift_limit, shift_limit),
        scale=(1 - scale_limit, 1 + scale_limit),
        rotate=(-rotate_limit, rotate_limit),
        interpolation=interpolation,
        fill_mask=IGNORE_INDEX,
        p=p,
    )


def _targets(modalities: Sequence[str]) -> dict[str, str]:
    known = {*KORNIA_VALID_MODALITIES, *ALBUMENTATIONS_TARGETS}
    geometric = [str(modality) for modality in modalities if modality in known]
    lost = [modality for modality in geometric if modality not in ALBUMENTATIONS_TARGETS]
    if lost:
        raise MMLMisconfigurationException(
            f"albumentations cannot transform {', '.join(lost)} together with the image. Choose augmentations=none, or "
            "add its albumentations target to mml_ray.tasks.attributes.ALBUMENTATIONS_TARGETS."
        )
    return {modality: ALBUMENTATIONS_TARGETS[modality] for modality in geometric}


def _plain(value: Any) -> Any:
    """Lists of a configuration as the tuples that albumentations expects."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(item) for item in value)
    return value
