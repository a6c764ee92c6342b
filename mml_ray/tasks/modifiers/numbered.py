"""Shared by the tag functions: parsing arguments, numbering the base's samples, counting, splitting."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.classes import count_classes, strata
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.kinds import TaskKind, check_fact
from mml_ray.tasks.splitting import split_pools, split_stratified
from mml_ray.tasks.variant import Variant

SEED = 42


def whole_number(text: str, name: str) -> int:
    """Parse an integer argument of a tag."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):  # int() would read 1_5 as 15
        raise MMLMisconfigurationException(f"The argument {name} must be an integer, got {text!r}.")
    return int(text)


def fraction(text: str, name: str) -> float:
    """Parse an argument of a tag that is a number in [0, 1]; ``0_25`` is 0.25."""
    value = float(text.replace("_", ".")) if re.fullmatch(r"[0-9]+(_[0-9]+)?", text) else -1.0
    if not 0 <= value <= 1:
        raise MMLMisconfigurationException(f"The argument {name} must be between 0 and 1, such as 0_25, got {text!r}.")
    return value


class Numbered:
    """The training samples of a description by number (see :mod:`mml_ray.tasks.variant`)."""

    def __init__(self, description: TaskDescription) -> None:
        self.description = description
        self.ids = [*description.train_samples, *description.test_samples]
        self.samples = [*description.train_samples.values(), *description.test_samples.values()]
        self.number = {sample_id: number for number, sample_id in enumerate(description.train_samples)}

    @property
    def kind(self) -> TaskKind:
        return self.description.kind

    def require_exclusive_classes(self, tag: str) -> None:
        """Raise unless every sample has exactly one class."""
        check_fact(self.kind, "exclusive_classes", what=f"The tag {tag}", task=self.description.name)

    @property
    def n_train(self) -> int:
        """Test samples are numbered from here, unlabelled ones follow."""
        return len(self.number)

    def fold(self, fold: int) -> list[int]:
        """The numbers of a fold's samples, ascending."""
        return sorted(self.number[sample_id] for sample_id in self.description.train_folds[fold])

    def folds(self) -> list[list[int]]:
        return [self.fold(fold) for fold in range(self.description.n_folds)]

    def training(self) -> list[int]:
        """The numbers of the samples of all folds."""
        return [number for fold in self.folds() for number in fold]

    def test(self) -> list[int]:
        """The numbers of the test samples."""
        return list(range(self.n_train, len(self.ids)))

    def chosen(self, numbers: Iterable[int]) -> dict[str, Any]:
        """The samples of these numbers by id."""
        return {self.ids[number]: self.samples[number] for number in numbers}

    def variant(self, **changes: Any) -> Variant:
        """A variant with the folds and splits of the task, except for ``changes``; its classes are counted in its folds."""
        unlabelled = list(range(len(self.ids), len(self.ids) + len(self.description.unlabeled_samples)))
        fields: dict[str, Any] = {"train_folds": self.folds(), "test": self.test(), "unlabelled": unlabelled, **changes}
        if "class_occ" not in fields:
            fields["class_occ"] = self.count(number for fold in fields["train_folds"] for number in fold)
        return Variant(**fields)

    def groups(self, numbers: Sequence[int]) -> list[str | None] | None:
        """The group of each of these samples, or ``None`` if no sample has one."""
        found = [self.samples[number].get("group") for number in numbers]
        return found if any(group is not None for group in found) else None

    def count(self, numbers: Iterable[int], idx_to_class: dict[int, str] | None = None) -> dict[str, int]:
        """Class occurrences over these samples."""
        found = self.description
        mapping = found.idx_to_class if idx_to_class is None else idx_to_class
        chosen = self.chosen(numbers)
        return count_classes(chosen, found.task_type, idx_to_class=mapping, mask_classes=found.mask_classes)

    def pools(self, numbers: Sequence[int]) -> dict[str, list[int]]:
        """The samples by raw class where every sample has exactly one; one pool for any other task."""
        if not self.kind.exclusive_classes:
            return {"The task": list(numbers)}
        pools: dict[str, list[int]] = defaultdict(list)
        for number in numbers:
            raw = self.samples[number][str(self.kind.target)]
            pools[f"Class '{self.description.idx_to_class[raw]}' (index {raw})"].append(number)
        return dict(pools)

    def split(self, numbers: Sequence[int], n_folds: int) -> list[list[int]]:
        """New folds of these samples: stratified, groups whole; ascending numbers."""
        found = self.description
        chosen = self.chosen(numbers)
        groups = self.groups(numbers)
        pools = self.pools(numbers)
        if self.kind.exclusive_classes and groups is None and min(map(len, pools.values())) >= n_folds:
            return [sorted(fold) for fold in split_pools(pools, n_folds, seed=SEED)]
        labels = strata(
            chosen, found.task_type, n_folds=n_folds, idx_to_class=found.idx_to_class, mask_classes=found.mask_classes
        )
        folds = split_stratified(labels, n_folds, groups=groups, seed=SEED)
        return [sorted(numbers[position] for position in fold) for fold in folds]
