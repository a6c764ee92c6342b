"""From raw class indices to classes: the mapping, the counts, and the strata that splits balance.

A description maps raw indices (as they are in files) to names. Several indices may share a name and there may be gaps, so the
class a model sees is the *final* index: distinct names, ordered by their smallest raw index.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mml_ray.errors import DataError
from mml_ray.tasks.attributes import Modality
from mml_ray.tasks.kinds import kind_of

#: one sample: modality value -> entry (members of Modality work as keys, they are these strings)
Sample = dict[str, Any]


def class_names(idx_to_class: Mapping[int, str]) -> list[str]:
    """The class names by final index."""
    return list(dict.fromkeys(idx_to_class[raw] for raw in sorted(idx_to_class)))


def index_map(idx_to_class: Mapping[int, str]) -> dict[int, int]:
    """Raw index -> final index."""
    final = {name: index for index, name in enumerate(class_names(idx_to_class))}
    return {raw: final[idx_to_class[raw]] for raw in sorted(idx_to_class)}


def count_classes(
    samples: Mapping[str, Sample],
    task_type: str,
    *,
    idx_to_class: Mapping[int, str],
    mask_classes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, int]:
    """How many of ``samples`` show each class (0 is kept); soft labels are summed, then cut to integers.

    Segmentation counts masks that contain the class and needs ``mask_classes`` (sample id -> raw values in its mask).
    """
    kind = kind_of(task_type)
    if kind.labels_in_files and mask_classes is None:
        raise DataError("The classes of a segmentation task are counted in its masks, but no masks were read.")
    totals: dict[str, float] = dict.fromkeys(class_names(idx_to_class), 0)
    for sample_id, sample in samples.items():
        present = (mask_classes or {}).get(sample_id, ())
        for name, weight in LABELS[kind.labels].weights(sample, str(kind.target), idx_to_class, present).items():
            totals[name] += weight
    return {name: int(round(total, 6)) for name, total in totals.items()}


def strata(
    samples: Mapping[str, Sample],
    task_type: str,
    *,
    n_folds: int,
    idx_to_class: Mapping[int, str],
    mask_classes: Mapping[str, Sequence[int]] | None = None,
) -> list[tuple[Any, ...]]:
    """The labels of each sample that its split should balance: its raw class, its set of labels, the bin of its value.

    Without anything to balance (no labels, masks not read) every sample gets ``()``.
    """
    kind = kind_of(task_type)
    return LABELS[kind.labels].strata(samples, str(kind.target), n_folds, mask_classes or {})


class Labels(NamedTuple):
    """How the labels of a target are read."""

    #: (sample, target, raw index -> class, raw classes in its mask) -> the classes of the sample with their weights
    weights: Callable[[Sample, str, Mapping[int, str], Sequence[int]], dict[str, float]]
    #: (samples by id, target, number of folds, raw classes in the masks) -> the labels of each sample that splits balance
    strata: Callable[[Mapping[str, Sample], str, int, Mapping[str, Sequence[int]]], list[tuple[Any, ...]]]


def _set_weights(sample: Sample, target: str, idx_to_class: Mapping[int, str], _: Sequence[int]) -> dict[str, float]:
    if Modality.CLASSES in sample:
        return {idx_to_class[raw]: 1 for raw in sample[Modality.CLASSES]}
    soft: dict[str, float] = {}
    if Modality.SOFT_CLASSES in sample:
        for raw, probability in zip(sorted(idx_to_class), sample[Modality.SOFT_CLASSES], strict=True):
            soft[idx_to_class[raw]] = soft.get(idx_to_class[raw], 0.0) + probability
    return soft


def _label_set(sample: Sample) -> tuple[int, ...]:
    if Modality.CLASSES in sample:
        return tuple(sorted(set(sample[Modality.CLASSES])))
    return tuple(i for i, probability in enumerate(sample.get(Modality.SOFT_CLASSES, ())) if probability >= 0.5)


def _value_bins(values: Sequence[float], n_folds: int) -> list[tuple[int]]:
    """Quantile bins (at most ten, each able to fill all folds); equal values share a bin."""
    bins = max(1, min(10, len(values) // max(n_folds, 1)))
    ordered = sorted(values)
    rank = {value: bisect_left(ordered, value) for value in set(values)}
    return [(rank[value] * bins // len(values),) for value in values]


#: how labels are read, by the key that a :class:`~mml_ray.tasks.kinds.TaskKind` names in ``labels``; plugins may add theirs
LABELS: dict[str, Labels] = {
    "class": Labels(
        weights=lambda sample, target, names, _: {names[sample[target]]: 1},
        strata=lambda samples, target, n_folds, _: [(sample[target],) for sample in samples.values()],
    ),
    "labels": Labels(
        weights=_set_weights, strata=lambda samples, target, n_folds, _: [_label_set(sample) for sample in samples.values()]
    ),
    "mask": Labels(
        weights=lambda sample, target, names, present: {names[raw]: 1 for raw in present if raw in names},
        strata=lambda samples, target, n_folds, masks: [tuple(sorted(masks.get(name, ()))) for name in samples],
    ),
    "value": Labels(
        weights=lambda sample, target, names, _: {names[int(sample[target])]: 1} if sample[target] in names else {},
        strata=lambda samples, target, n_folds, _: _value_bins([float(s[target]) for s in samples.values()], n_folds),
    ),
}
