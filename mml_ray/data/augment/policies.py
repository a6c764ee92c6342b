"""RandAugment and AutoAugment out of albumentations' operations.

Operations and magnitudes follow Cubuk et al., "AutoAugment" (CVPR 2019) and "RandAugment" (NeurIPS 2020): magnitude 0 to 10
(here up to 9) is a share of each operation's largest strength. Sharpness below 1 is a Gaussian blur.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A

from mml_ray.data.augment.fast import FastAffine
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.attributes import IGNORE_INDEX

_STEPS = 9.0


def _affine(**arguments: Any) -> Any:
    return FastAffine(**arguments, fill=0, fill_mask=IGNORE_INDEX, p=1.0)


def _either(signs: Sequence[Any], p: float) -> Any:
    """One of two signs, with probability ``p``."""
    return A.OneOf(list(signs), p=p)


def _shear(axis: str) -> Callable[[float, float], Any]:
    def make(strength: float, p: float) -> Any:
        angle = math.degrees(math.atan(0.3 * strength))
        still = {"x": (0.0, 0.0), "y": (0.0, 0.0)}
        return _either([_affine(shear={**still, axis: (sign * angle, sign * angle)}) for sign in (1, -1)], p)

    return make


def _translate(axis: str) -> Callable[[float, float], Any]:
    def make(strength: float, p: float) -> Any:
        part = 150 / 331 * strength
        still = {"x": (0.0, 0.0), "y": (0.0, 0.0)}
        sides = [_affine(translate_percent={**still, axis: (sign * part, sign * part)}) for sign in (1, -1)]
        return _either(sides, p)

    return make


def _rotate(strength: float, p: float) -> Any:
    angle = 30 * strength
    return _either([_affine(rotate=(angle, angle)), _affine(rotate=(-angle, -angle))], p)


def _jitter(channel: str) -> Callable[[float, float], Any]:
    def make(strength: float, p: float) -> Any:
        still = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": (0.0, 0.0)}
        factors = (1 + 0.9 * strength, 1 - 0.9 * strength)
        return _either([A.ColorJitter(**{**still, channel: (factor, factor)}, p=1.0) for factor in factors], p)

    return make


def _sharpness(strength: float, p: float) -> Any:
    alpha = 0.9 * strength
    sharper = A.Sharpen(alpha=(alpha, alpha), lightness=(1.0, 1.0), p=1.0)
    sigma = 0.3 + strength
    return _either([sharper, A.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1.0)], p)


def _posterize(strength: float, p: float) -> Any:
    bits = 8 - round(4 * strength)
    return A.Posterize(num_bits=(bits, bits), p=p)


def _solarize(strength: float, p: float) -> Any:
    return A.Solarize(threshold_range=(1 - strength, 1 - strength), p=p)


#: name -> (strength 0 to 1, probability) -> transform
GEOMETRIC: dict[str, Callable[[float, float], Any]] = {
    "Rotate": _rotate,
    "ShearX": _shear("x"),
    "ShearY": _shear("y"),
    "TranslateX": _translate("x"),
    "TranslateY": _translate("y"),
}
COLOR: dict[str, Callable[[float, float], Any]] = {
    "Invert": lambda strength, p: A.InvertImg(p=p),
    "AutoContrast": lambda strength, p: A.AutoContrast(p=p),
    "Equalize": lambda strength, p: A.Equalize(p=p),
    "Solarize": _solarize,
    "Posterize": _posterize,
    "Color": _jitter("saturation"),
    "Contrast": _jitter("contrast"),
    "Brightness": _jitter("brightness"),
    "Sharpness": _sharpness,
}
_MODES = {"geo": GEOMETRIC, "color": COLOR, "all": {**GEOMETRIC, **COLOR}}


def rand_augment(number: int = 2, magnitude: int = 5, p: float = 1.0, mode: str = "all", cut_out: bool = False) -> Any:
    """``number`` operations, drawn uniformly with replacement, each applied with probability ``p``.

    ``magnitude`` 1 to 9; ``mode`` geo, color or all; ``cut_out`` adds one hole of a quarter of each side.
    """
    if mode not in _MODES:
        raise MMLMisconfigurationException(f"The mode of RandAugment must be one of {', '.join(_MODES)}, got '{mode}'.")
    if not 1 <= magnitude <= _STEPS or number < 1:
        raise MMLMisconfigurationException(
            f"RandAugment needs a magnitude from 1 to 9 and a number of at least 1, got {magnitude} and {number}."
        )
    steps: list[Any] = [A.RandomOrder([op(magnitude / _STEPS, p) for op in _MODES[mode].values()], n=number, replace=True, p=1.0)]
    if cut_out:
        side = (0.25, 0.25)
        steps.append(
            A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side, fill=0, fill_mask=IGNORE_INDEX, p=p
            )
        )
    return A.Sequential(steps, p=1.0)


def imagenet_auto_augment(p: float = 1.0) -> Any:
    """One of the sub-policies found on ImageNet (AutoAugment, table 9), two operations each."""
    operations = _MODES["all"]
    pairs = [
        A.Sequential([operations[name](magnitude / _STEPS, chance) for name, chance, magnitude in pair], p=1.0)
        for pair in _IMAGENET_POLICY
    ]
    return A.OneOf(pairs, p=p)


def stored_policy(path: str) -> Any:
    """A policy that albumentations (or AutoAlbument) serialised as JSON."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = A.from_dict(content)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise MMLMisconfigurationException(
            f"The policy {path} cannot be loaded: {error}. It must be the JSON of albumentations' to_dict."
        ) from error
    for transform in _leaves(found):
        if hasattr(transform, "fill_mask"):
            transform.fill_mask = IGNORE_INDEX
    return found


def _leaves(transform: Any) -> list[Any]:
    inner = getattr(transform, "transforms", None)
    return [transform] if inner is None else [leaf for part in inner for leaf in _leaves(part)]


#: names that a pipeline may use beside those of albumentations
POLICIES: dict[str, Callable[..., Any]] = {
    "RandAugment": rand_augment,
    "ImageNetAA": imagenet_auto_augment,
    "AutoAugment": imagenet_auto_augment,
    "AutoAlbument": stored_policy,
}

# (operation, probability, magnitude); the original lists four of the 25 pairs twice
_IMAGENET_POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)
