"""Folds of training samples: split here, or taken over."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mml_ray.errors import DataError
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.classes import Sample, strata
from mml_ray.tasks.kinds import kind_of
from mml_ray.tasks.splitting import check_folds, split_pools, split_stratified


def split_folds(
    samples: Mapping[str, Sample],
    task_type: TaskType,
    *,
    idx_to_class: Mapping[int, str],
    n_folds: int = 5,
    ensure_balancing: bool = True,
    fold_0_fraction: float | None = None,
    seed: int = 42,
    mask_classes: Mapping[str, Sequence[int]] | None = None,
) -> list[list[str]]:
    """Split sample ids into folds, deterministically.

    Samples of one group stay together. With ``ensure_balancing`` every fold gets its share of each class (exactly, for
    ungrouped classification; a class with fewer samples than folds raises :class:`DataError`), of the sets of labels, of
    quantiles of the value, of the classes in the masks. ``fold_0_fraction`` sets the size of the first fold, the others share
    the rest alike.
    """
    check_folds(n_folds, fold_0_fraction)
    ids = list(samples)
    groups = [sample.get(Modality.GROUP) for sample in samples.values()]
    grouped = any(group is not None for group in groups)
    kind = kind_of(task_type)
    if ensure_balancing and kind.exclusive_classes:
        pools = _class_pools(samples, str(kind.target), idx_to_class)
        _check_classes(pools, n_folds)
    else:
        pools = {"The task": list(range(len(ids)))}
    if not grouped and (kind.exclusive_classes or not ensure_balancing):
        folds = split_pools(pools, n_folds, fold_0_fraction=fold_0_fraction, seed=seed)
    else:
        labels = (
            strata(
                samples, task_type, n_folds=_parts(n_folds, fold_0_fraction), idx_to_class=idx_to_class, mask_classes=mask_classes
            )
            if ensure_balancing
            else [()] * len(ids)
        )
        folds = split_stratified(labels, n_folds, groups=groups, fold_0_fraction=fold_0_fraction, seed=seed)
    return [[ids[position] for position in fold] for fold in folds]


def _parts(n_folds: int, fold_0_fraction: float | None) -> int:
    """Into how many parts of the size of the smallest fold the samples could be dealt."""
    if fold_0_fraction is None:
        return n_folds
    return math.ceil(1 / min(fold_0_fraction, (1 - fold_0_fraction) / (n_folds - 1)) - 1e-9)


def _class_pools(samples: Mapping[str, Sample], target: str, idx_to_class: Mapping[int, str]) -> dict[str, list[int]]:
    pools: dict[str, list[int]] = defaultdict(list)
    for position, sample in enumerate(samples.values()):
        raw = sample[target]
        pools[f"Class '{idx_to_class[raw]}' (index {raw})"].append(position)
    return dict(pools)


def _check_classes(pools: Mapping[str, Sequence[int]], n_folds: int) -> None:
    """All classes that are too small, at once."""
    small = {name: len(pool) for name, pool in pools.items() if len(pool) < n_folds}
    if small:
        listed = ", ".join(f"{name}: {count}" for name, count in small.items())
        raise DataError(
            f"Each class must have at least {n_folds} training samples, one per fold, but: {listed}. Use fewer folds (mode.n_folds), "
            "merge or leave out these classes, or switch off balancing (mode.ensure_balancing=false)."
        )


def check_existing_folds(folds: Sequence[Sequence[str]], samples: Mapping[str, Sample]) -> list[list[str]]:
    """The folds as lists; raises unless they are two or more, not empty, disjoint, and cover the training samples exactly."""
    if len(folds) < 2:
        raise DataError(f"A task needs at least two folds, got {len(folds)}.")
    empty = [number for number, fold in enumerate(folds) if not fold]
    if empty:
        raise DataError(f"Fold {empty[0]} has no samples.")
    counts = Counter(sample_id for fold in folds for sample_id in fold)
    twice = [sample_id for sample_id, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} sample(s) occur twice in the folds, such as '{twice[0]}'.")
    unknown = [sample_id for sample_id in counts if sample_id not in samples]
    if unknown:
        raise DataError(f"{len(unknown)} sample(s) of the folds are not training samples, such as '{unknown[0]}'.")
    unused = [sample_id for sample_id in samples if sample_id not in counts]
    if unused:
        raise DataError(f"{len(unused)} training sample(s) are in no fold, such as '{unused[0]}'.")
    _warn_of_torn_groups(folds, samples)
    return [list(fold) for fold in folds]


def _warn_of_torn_groups(folds: Sequence[Sequence[str]], samples: Mapping[str, Sample]) -> None:
    places: dict[str, set[int]] = defaultdict(set)
    for number, fold in enumerate(folds):
        for sample_id in fold:
            if (group := samples[sample_id].get(Modality.GROUP)) is not None:
                places[group].add(number)
    torn = [group for group, found in places.items() if len(found) > 1]
    if torn:
        warnings.warn(f"The given folds split {len(torn)} group(s), such as '{torn[0]}'.", UserWarning, stacklevel=4)
