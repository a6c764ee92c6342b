"""A variant of a task: to which fold or split each of the base's samples belongs, and what else differs. Never the samples.

Samples of the base are numbered: its training samples in the order of the description, then its test samples, then its
unlabelled ones. A variant of 100,000 samples takes a quarter of a megabyte: ascending numbers, stored as differences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from mml_ray.errors import DataError
from mml_ray.tasks.header import VARIANT_KEY, VARIANT_OF, TaskMeta

if TYPE_CHECKING:
    from mml_ray.tasks.description import TaskDescription


@dataclass(kw_only=True)
class Variant:
    """What a tag changes. Index lists are ascending; a sample is in at most one of them."""

    train_folds: list[list[int]]
    test: list[int] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    #: class name -> count in the training data
    class_occ: dict[str, int]
    #: ``None``: as the base has it
    idx_to_class: dict[int, str] | None = None
    #: modality -> {sample number: entry that replaces the base's}
    entries: dict[str, dict[int, Any]] = field(default_factory=dict)
    #: appended to the creation protocol
    note: str = ""

    def meta_fields(self, base: TaskMeta, name: str) -> dict[str, Any]:
        """The header of the variant, called ``name``, as fields by name."""
        changed: dict[str, Any] = {
            "name": name,
            "class_occ": self.class_occ,
            "creation_protocol": base.creation_protocol + self.note,
        }
        if self.idx_to_class is not None:
            changed["idx_to_class"] = self.idx_to_class
        return base.meta_fields() | changed


def to_bytes(variant: Variant, base: TaskDescription, *, name: str, base_file: str) -> bytes:
    """The content of the variant's file: the whole header, then index lists that refer to ``base_file`` in the same folder."""
    content = TaskMeta(**variant.meta_fields(base, name)).header_json()
    content[VARIANT_OF] = base.name
    content[VARIANT_KEY] = {
        "base_file": base_file,
        "base_digest": content_digest(base),
        "train_folds": [_differences(fold) for fold in variant.train_folds],
        "test": _differences(variant.test),
        "unlabelled": _differences(variant.unlabelled),
        "entries": {
            modality: {"samples": _differences(sorted(found)), "values": [found[number] for number in sorted(found)]}
            for modality, found in variant.entries.items()
        },
    }
    return orjson.dumps(content)


def from_json(stored: Mapping[str, Any], path: Path) -> tuple[Variant, Path, str]:
    """The stored part, the file of its base, and the digest the base must have."""
    try:
        variant = Variant(
            train_folds=[list(accumulate(fold)) for fold in stored["train_folds"]],
            test=list(accumulate(stored["test"])),
            unlabelled=list(accumulate(stored["unlabelled"])),
            class_occ={},
            entries={
                modality: dict(zip(accumulate(found["samples"]), found["values"], strict=True))
                for modality, found in stored["entries"].items()
            },
        )
        return variant, path.parent / stored["base_file"], stored["base_digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The tagged variant {path} is damaged ({error!r}). Delete it; it is recreated when it is needed."
        ) from error


def complete(variant: Variant, base: TaskDescription, *, source: Path | str) -> dict[str, Any]:
    """The samples and folds that ``variant`` makes of ``base``: ``train_samples``, ``train_folds``, ``test_samples``, ``unlabeled_samples``."""
    numbered = [*base.train_samples.items(), *base.test_samples.items(), *base.unlabeled_samples.items()]
    for modality, replaced in variant.entries.items():
        for number, value in replaced.items():
            sample_id, sample = numbered[number]
            numbered[number] = (sample_id, {**sample, modality: value})
    try:
        train = dict(numbered[number] for number in sorted(number for fold in variant.train_folds for number in fold))
        folds = [[numbered[number][0] for number in fold] for fold in variant.train_folds]
        test = dict(numbered[number] for number in variant.test)
        unlabelled = dict(numbered[number] for number in variant.unlabelled)
    except IndexError as error:
        raise DataError(f"The tagged variant {source} refers to samples that '{base.name}' does not have. Delete it.") from error
    if len(train) < sum(map(len, folds)):
        raise DataError(f"{source} uses a sample id twice: '{base.name}' has a training and a test sample with the same id.")
    return {"train_samples": train, "train_folds": folds, "test_samples": test, "unlabeled_samples": unlabelled}


def content_digest(description: TaskDescription) -> str:
    """A digest of sample ids, folds and labels, but neither of files nor of statistics: equal for all preprocessings of a task."""
    digest = hashlib.blake2b(digest_size=16)
    for pool in (description.train_samples, description.test_samples, description.unlabeled_samples):
        digest.update(orjson.dumps(list(pool)))
    digest.update(orjson.dumps(description.train_folds))
    labels = {str(modality) for modality, suffixes in description.modalities.items() if not suffixes} | {"group"}
    for key in sorted(labels - {"image", "mask"}):
        for pool in (description.train_samples, description.test_samples):
            digest.update(orjson.dumps([key, [sample.get(key) for sample in pool.values()]]))
    return digest.hexdigest()


def _differences(ascending: Sequence[int]) -> list[int]:
    """First number, then steps; the inverse of :func:`itertools.accumulate`."""
    steps = [after - before for before, after in zip([0, *ascending], ascending, strict=False)]
    if any(step < 1 for step in steps[1:]):
        raise DataError("The sample numbers of a variant must be in ascending order.")
    return steps
