"""From raw class indices to classes: the mapping, the counts, and the strata that splits keep in balance.

A description maps raw indices (as they stand in files) to names. Several indices may share a name and there may be gaps, so the
class a model sees is the *final* index: distinct names, ordered by their smallest raw index.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from mml_ray.errors import DataError
from mml_ray.tasks.attributes import Modality, TaskType

#: one sample: modality value -> entry (members of Modality work as keys, they are these strings)
Sample = dict[str, Any]


def class_names(idx_to_class: Mapping[int, str]) -> list[str]:
    """The class names by final index."""
    return list(dict.fromkeys(idx_to_class[raw] for raw in sorted(idx_to_class)))


def index_map(idx_to_class: Mapping[int, str]) -> dict[int, int]:
    """Raw index -> final index."""
    final = {name: index for index, name in enumerate(class_names(idx_to_class))}
    return {raw: final[idx_to_class[raw]] for raw in sorted(idx_to_class)}


def names_in(
    sample: Sample, task_type: TaskType, idx_to_class: Mapping[int, str], mask_classes: Sequence[int] | None = None
) -> dict[str, float]:
    """The classes of one sample with their weights (1, or the probability of a soft label)."""
    if task_type == TaskType.CLASSIFICATION:
        return {idx_to_class[sample[Modality.CLASS]]: 1}
    if task_type == TaskType.SEMANTIC_SEGMENTATION:
        return {idx_to_class[raw]: 1 for raw in mask_classes or () if raw in idx_to_class}
    if task_type == TaskType.REGRESSION:
        return {idx_to_class[int(value)]: 1 for value in [sample[Modality.VALUE]] if value in idx_to_class}
    if Modality.CLASSES in sample:
        return {idx_to_class[raw]: 1 for raw in sample[Modality.CLASSES]}
    if Modality.SOFT_CLASSES in sample:
        soft: dict[str, float] = dict.fromkeys(idx_to_class.values(), 0.0)
        for raw, probability in zip(sorted(idx_to_class), sample[Modality.SOFT_CLASSES], strict=True):
            soft[idx_to_class[raw]] += probability
        return soft
    return {}


def count_classes(
    samples: Mapping[str, Sample],
    task_type: TaskType,
    *,
    idx_to_class: Mapping[int, str],
    mask_classes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    """How many of ``samples`` show each class (0 is kept); soft labels are summed, then cut to integers.

    Segmentation counts masks that contain the class and needs ``mask_classes`` (sample id -> raw values in its mask).
    """
    totals: dict[str, float] = dict.fromkeys(class_names(idx_to_class), 0)
    if task_type == TaskType.SEMANTIC_SEGMENTATION and mask_classes is None:
        raise DataError("Classes of a segmentation task are counted in its masks, and none was read.")
    for sample_id, sample in samples.items():
        present = mask_classes.get(sample_id, ()) if mask_classes is not None else None
        for name, weight in names_in(sample, task_type, idx_to_class, present).items():
            totals[name] += weight
    return {name: int(round(total, 6)) for name, total in totals.items()}


def strata(
    samples: Mapping[str, Sample],
    task_type: TaskType,
    *,
    n_folds: int,
    idx_to_class: Mapping[int, str],
    mask_classes: Mapping[str, Sequence[int]] | None = None,
) -> list[tuple[Any, ...]]:
    """The labels of each sample that its split should balance: its raw class, its set of labels, the bin of its value.

    Without anything to balance (no labels, masks not read) every sample gets ``()``.
    """
    if task_type == TaskType.CLASSIFICATION:
        return [(sample[Modality.CLASS],) for sample in samples.values()]
    if task_type == TaskType.REGRESSION:
        return _value_bins([float(sample[Modality.VALUE]) for sample in samples.values()], n_folds)
    if task_type == TaskType.SEMANTIC_SEGMENTATION:
        known = mask_classes or {}
        return [tuple(sorted(known.get(sample_id, ()))) for sample_id in samples]
    return [_labels(sample) for sample in samples.values()]


def _labels(sample: Sample) -> tuple[int, ...]:
    if Modality.CLASSES in sample:
        return tuple(sorted(set(sample[Modality.CLASSES])))
    return tuple(i for i, probability in enumerate(sample.get(Modality.SOFT_CLASSES, ())) if probability >= 0.5)


def _value_bins(values: Sequence[float], n_folds: int) -> list[tuple[int]]:
    """Quantile bins (at most ten, each able to fill all folds); equal values share a bin."""
    bins = max(1, min(10, len(values) // max(n_folds, 1)))
    ordered = sorted(values)
    rank = {value: bisect_left(ordered, value) for value in set(values)}
    return [(rank[value] * bins // len(values),) for value in values]
