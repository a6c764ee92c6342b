"""Deterministic splits: balanced by stratum, with groups kept whole. Pure functions over positions.

Randomness is a function of the seed and the length alone, computed with SHAKE-128: the same on every machine and with every
version of every library.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from sys import byteorder
from typing import Any

from mml_ray.errors import DataError, MMLMisconfigurationException

Label = Hashable


def permutation(length: int, *key: Any) -> list[int]:
    """A permutation of ``range(length)`` that depends on ``length`` and the JSON-able ``key`` only."""
    digest = hashlib.shake_128(json.dumps([length, *key]).encode()).digest(8 * length)
    ranks = array("Q", digest)
    if byteorder == "big":
        ranks.byteswap()
    return sorted(range(length), key=ranks.__getitem__)


def fold_lengths(length: int, n_folds: int, fold_0_fraction: float | None = None) -> list[int]:
    """How many of ``length`` items each fold gets: ``round(fraction * length)`` the first, the others equal shares of the rest, where
    the earlier ones get the surplus. Without a fraction all folds get equal shares."""
    if fold_0_fraction is None:
        return [length // n_folds + (fold < length % n_folds) for fold in range(n_folds)]
    first = round(fold_0_fraction * length)
    return [first, *fold_lengths(length - first, n_folds - 1)]


def check_folds(n_folds: int, fold_0_fraction: float | None = None) -> None:
    """Raise if no split can have this shape."""
    if isinstance(n_folds, bool) or not isinstance(n_folds, int) or n_folds < 2:
        raise MMLMisconfigurationException(f"The number of folds must be an integer greater than 1, got {n_folds!r}.")
    if fold_0_fraction is not None and not 0 < fold_0_fraction < 1:
        raise MMLMisconfigurationException(f"fold_0_fraction must be greater than 0 and less than 1, got {fold_0_fraction}.")


def split_pools(
    pools: Mapping[Any, Sequence[int]], n_folds: int, *, fold_0_fraction: float | None = None, seed: int = 42
) -> list[list[int]]:
    """Each pool of positions is spread over the folds by :func:`fold_lengths`, then each fold is shuffled.

    Every fold gets of every pool its exact share; a pool too small to reach every fold raises :class:`DataError`.
    """
    check_folds(n_folds, fold_0_fraction)
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for name, pool in pools.items():
        lengths = fold_lengths(len(pool), n_folds, fold_0_fraction)
        if 0 in lengths:
            raise DataError(
                f"{name} has {len(pool)} sample(s), too few to have one in each of {n_folds} folds. "
                "Use fewer folds, merge or drop the class, or turn off balancing (ensure_balancing=false)."
            )
        order = permutation(len(pool), seed)
        start = 0
        for fold, length in zip(folds, lengths, strict=True):
            fold.extend(pool[position] for position in order[start : start + length])
            start += length
    return [[fold[i] for i in permutation(len(fold), 3 * (seed - 1) + number)] for number, fold in enumerate(folds)]


def split_stratified(
    labels: Sequence[Sequence[Label]],
    n_folds: int,
    *,
    groups: Sequence[Hashable] | None = None,
    fold_0_fraction: float | None = None,
    seed: int = 42,
) -> list[list[int]]:
    """Spread positions over folds so that every fold sees each label as often as its size asks for; ascending positions per fold.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the Stratification of Multi-Label Data, 2011), where a whole group
    (positions of equal ``groups``; ``None`` is a group of its own) is placed at once and counts with all its labels. Fewer groups than folds
    raise :class:`DataError`. Costs about 2 microseconds per position and fold.
    """
    check_folds(n_folds, fold_0_fraction)
    units = units_of(len(labels), groups)
    if len(units) < n_folds:
        what = "sample(s)" if len(units) == len(labels) else f"group(s) (of {len(labels)} samples)"
        raise DataError(f"{len(units)} {what} cannot fill {n_folds} folds. Use fewer folds or more data.")
    counts = [Counter(label for position in unit for label in set(labels[position])) for unit in units]
    shares = [length / len(labels) for length in _shares(len(labels), n_folds, fold_0_fraction)]
    chosen = _assign(units, counts, shares=shares, seed=seed)
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for unit, fold in zip(units, chosen, strict=True):
        folds[fold].extend(unit)
    return [sorted(fold) for fold in folds]


def _shares(length: int, n_folds: int, fold_0_fraction: float | None) -> list[float]:
    first = length / n_folds if fold_0_fraction is None else fold_0_fraction * length
    return [first] + [(length - first) / (n_folds - 1)] * (n_folds - 1)


def units_of(length: int, groups: Sequence[Hashable] | None) -> list[list[int]]:
    """The positions that are placed at once: those of equal ``groups``; one of its own where the group is ``None``."""
    if groups is None:
        return [[position] for position in range(length)]
    found: dict[Hashable, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        found[("alone", position) if group is None else ("group", group)].append(position)
    return list(found.values())


def _assign(units: Sequence[Sequence[int]], counts: Sequence[Counter[Label]], *, shares: Sequence[float], seed: int) -> list[int]:
    """The fold of each unit: the rarest label first, its largest units first, to the fold that misses the label most.

    Folds of unequal size are compared by what they miss of their share, or the small one would get what is left over.
    """
    order = permutation(len(units), seed)
    holders: dict[Label, list[int]] = defaultdict(list)
    total: Counter[Label] = Counter()
    for unit in order:
        total.update(counts[unit])
        for label in counts[unit]:
            holders[label].append(unit)
    wanted = {label: [share * total[label] for share in shares] for label in holders}
    capacity = [share * sum(map(len, units)) for share in shares]
    left = {label: len(found) for label, found in holders.items()}
    chosen = [-1] * len(units)
    sizes = [round(share / max(shares), 12) for share in shares]

    def place(unit: int, missing: Sequence[float]) -> None:
        fold = max(
            range(len(shares)),
            key=lambda number: (round(missing[number] / sizes[number], 9), round(capacity[number] / sizes[number], 9)),
        )
        chosen[unit] = fold
        capacity[fold] -= len(units[unit])
        for label, count in counts[unit].items():
            wanted[label][fold] -= count
            left[label] -= 1

    while left:
        rarest = min(left, key=lambda label: (left[label], str(label)))
        for unit in sorted(holders[rarest], key=lambda unit: -counts[unit][rarest]):
            if chosen[unit] < 0:
                place(unit, wanted[rarest])
        del left[rarest]
        left = {label: count for label, count in left.items() if count}
    for unit in sorted(order, key=lambda unit: -len(units[unit])):
        if chosen[unit] < 0:
            place(unit, capacity)
    return _fill_empty(units, chosen, len(shares))


def _fill_empty(units: Sequence[Sequence[int]], chosen: list[int], n_folds: int) -> list[int]:
    """Very uneven groups can starve a fold: it gets the smallest unit of the fold that has the most units."""
    for fold in set(range(n_folds)) - set(chosen):
        donor = Counter(chosen).most_common(1)[0][0]
        smallest = min((unit for unit, held in enumerate(chosen) if held == donor), key=lambda unit: len(units[unit]))
        chosen[smallest] = fold
    return chosen
