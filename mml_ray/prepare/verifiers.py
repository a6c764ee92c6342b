"""Verifiers look at one entry of one sample before it becomes part of a task. Registered as kind ``verifier``, by modality."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mml_ray.errors import BrokenSampleError, DataError
from mml_ray.imaging import read_mask
from mml_ray.prepare.checks.masks import mask_values
from mml_ray.prepare.checks.stats import ImageFacts
from mml_ray.registry import registry
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN, IGNORE_INDEX, Modality, TaskType


@dataclass(frozen=True)
class VerifierContext:
    """What a verifier may want to know of the task."""

    dset_path: Path
    task_type: TaskType
    idx_to_class: Mapping[int, str]

    def relative(self, value: Any, what: str) -> str:
        """The path of a file of the dataset, relative to its folder; raises if it lies outside or is not there."""
        if not isinstance(value, str | Path):
            raise DataError(f"A {what} must be a path, got {value!r}.")
        path = self.dset_path / value
        try:
            relative = path.relative_to(self.dset_path)
        except ValueError:
            raise DataError(f"The {what} {path} must lie within its dataset {self.dset_path}.") from None
        if ".." in relative.parts:
            raise DataError(f"The {what} {path} must lie within its dataset {self.dset_path}.")
        if not path.is_file():
            raise BrokenSampleError(f"The {what} {path} does not exist.")
        return relative.as_posix()


@dataclass(frozen=True)
class Verified:
    """An entry as it is stored, and what was learned on the way."""

    entry: Any
    #: [height, width] of what is as large as the image has to be
    size: tuple[int, int] | None = None
    image: ImageFacts | None = None
    #: values in a mask
    present: tuple[int, ...] | None = None


Verifier = Callable[[Any, VerifierContext], Verified]


def verify_image(value: Any, context: VerifierContext) -> Verified:
    """A file of the dataset that can be decoded whole."""
    entry = context.relative(value, "image")
    facts = ImageFacts.of_file(context.dset_path / entry)
    return Verified(entry, size=(facts.height, facts.width), image=facts)


def verify_mask(value: Any, context: VerifierContext) -> Verified:
    """A gray file in which every value but 255 has a class; or the token of an empty mask."""
    if value == EMPTY_MASK_TOKEN:
        return Verified(EMPTY_MASK_TOKEN, present=(0,))
    entry = context.relative(value, "mask")
    path = context.dset_path / entry
    mask = read_mask(path)
    present = tuple(found for found in mask_values(mask, path) if found != IGNORE_INDEX)
    unknown = [found for found in present if found not in context.idx_to_class]
    if unknown:
        raise BrokenSampleError(
            f"The mask {path} holds the value {unknown[0]}, which is not a class index. Allowed are "
            f"{_listed(context.idx_to_class)}, and 255 for pixels to ignore."
        )
    return Verified(entry, size=(mask.shape[0], mask.shape[1]), present=present)


def verify_class(value: Any, context: VerifierContext) -> Verified:
    """A raw class index."""
    return Verified(_index(value, context))


def verify_classes(value: Any, context: VerifierContext) -> Verified:
    """Any number of raw class indices."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise DataError(f"Classes must be a list of indices, got {value!r}.")
    return Verified(sorted({_index(part, context) for part in value}))


def verify_soft_classes(value: Any, context: VerifierContext) -> Verified:
    """One probability for each raw class index, in ascending order of the indices."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        raise DataError(f"Soft classes must be a list of probabilities, got {value!r}.")
    found = [_number(part) for part in value]
    if len(found) != len(context.idx_to_class):
        raise DataError(f"Soft classes must be {len(context.idx_to_class)} probabilities, one for each class, got {len(found)}.")
    if not all(0 <= part <= 1 for part in found):
        raise DataError(f"Soft classes must lie between 0 and 1, got {found}.")
    return Verified(found)


def verify_value(value: Any, context: VerifierContext) -> Verified:
    """A finite number; between the smallest and the largest key of ``idx_to_class`` if there is one."""
    number = _number(value)
    if not math.isfinite(number):
        raise DataError(f"A value must be a finite number, got {value!r}.")
    keys = context.idx_to_class
    if keys and not min(keys) <= number <= max(keys):
        raise DataError(f"A value must lie between {min(keys)} and {max(keys)}, the range of idx_to_class, got {number}.")
    return Verified(number)


def verify_group(value: Any, context: VerifierContext) -> Verified:
    """What a sample must not be separated from: a patient, a video, a slide."""
    if value is None or not str(value):
        raise DataError("A group must be a non-empty text. Leave it out for a sample without a group.")
    return Verified(str(value))


def _index(value: Any, context: VerifierContext) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) not in context.idx_to_class:
        raise DataError(f"{value!r} is not a class index. Allowed are {_listed(context.idx_to_class)}.")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise DataError(f"{value!r} is not a number.")
    return float(value)


def _listed(idx_to_class: Mapping[int, str]) -> str:
    shown = [f"{index}={name}" for index, name in list(idx_to_class.items())[:20]]
    return ", ".join(shown) + (", ..." if len(idx_to_class) > 20 else "")


for _modality, _verifier in {
    Modality.IMAGE: verify_image,
    Modality.MASK: verify_mask,
    Modality.CLASS: verify_class,
    Modality.CLASSES: verify_classes,
    Modality.SOFT_CLASSES: verify_soft_classes,
    Modality.VALUE: verify_value,
    Modality.GROUP: verify_group,
}.items():
    registry.add("verifier", _modality.value, _verifier)


class _VerifierMap(MutableMapping[Modality, Verifier]):
    """The registry's kind ``verifier`` as a mapping from modalities."""

    def __getitem__(self, modality: Modality) -> Verifier:
        found: Verifier | None = registry.find("verifier", str(modality))
        if found is None:
            raise KeyError(modality)
        return found

    def __setitem__(self, modality: Modality, verifier: Verifier) -> None:
        registry.add("verifier", Modality(modality).value, verifier, force=True)

    def __delitem__(self, modality: Modality) -> None:
        if registry.remove("verifier", str(modality)) is None:
            raise KeyError(modality)

    def __iter__(self) -> Iterator[Modality]:
        return (Modality(name) for name in registry.names("verifier"))

    def __len__(self) -> int:
        return len(registry.names("verifier"))


#: modality -> verifier; assign to it to add a modality
MODALITY_VERIFIER_MAP: MutableMapping[Modality, Verifier] = _VerifierMap()
