"""Tags that leave samples out: ``subset``, ``shrink_train``, ``shrink_equal``."""

from __future__ import annotations

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.modifiers.numbered import SEED, Numbered, fraction, whole_number
from mml_ray.tasks.splitting import permutation
from mml_ray.tasks.variant import Variant

#: shrink_train leaves at least this many samples of a class in a fold (or all it has)
MIN_PER_CLASS = 5


def subset(description: TaskDescription, share: str) -> Variant:
    """Keep a random ``share`` of each fold, rounded, whatever the classes; a class may vanish and then counts 0."""
    part = fraction(share, "share")
    found = Numbered(description)
    folds = [_random(fold, round(part * len(fold)), SEED) for fold in found.folds()]
    if not all(folds):
        raise DataError(f"subset?{share} leaves no sample in a fold of task '{description.name}'. Use a larger share.")
    return found.variant(train_folds=folds)


def shrink_train(description: TaskDescription, total: str, seed: str = "42") -> Variant:
    """Keep ``total`` samples of folds 1 and up, of every class its share, but at least five of each class in each fold.

    Fold 0, on which the first model validates, stays as it is and is not counted in ``class_occ``.
    """
    wanted, chosen_seed = whole_number(total, "total"), whole_number(seed, "seed")
    found = Numbered(description)
    folds = found.folds()
    available = sum(map(len, folds[1:]))
    if not 0 < wanted <= available:
        raise MMLMisconfigurationException(
            f"shrink_train?{total}: the total must be from 1 to {available}, the number of samples in folds 1 and up of task "
            f"'{description.name}'."
        )
    kept = [folds[0]]
    for fold in folds[1:]:
        share = wanted * len(fold) / available
        pools = found.pools(fold)
        lengths = _shares(share, {name: len(pool) for name, pool in pools.items()})
        least = MIN_PER_CLASS if found.kind.exclusive_classes else 1
        kept.append(
            sorted(
                number
                for name, pool in pools.items()
                for number in _random(pool, max(lengths[name], min(least, len(pool))), chosen_seed)
            )
        )
    return found.variant(train_folds=kept, class_occ=found.count([number for fold in kept[1:] for number in fold]))


def shrink_equal(description: TaskDescription, per_class: str, seed: str = "42") -> Variant:
    """Keep ``per_class`` samples of each class over all folds and split them into as many new folds; classification only."""
    wanted, chosen_seed = whole_number(per_class, "per_class"), whole_number(seed, "seed")
    found = Numbered(description)
    found.require_exclusive_classes("shrink_equal")
    pools = found.pools(sorted(found.training()))
    short = {name: len(pool) for name, pool in pools.items() if len(pool) < wanted}
    if wanted < description.n_folds or short:
        raise DataError(
            f"shrink_equal?{per_class}: samples per class must be from {description.n_folds} (one for each fold) to "
            f"{min(map(len, pools.values()))} (the smallest class of task '{description.name}')."
        )
    kept = sorted(number for pool in pools.values() for number in _random(pool, wanted, chosen_seed))
    return found.variant(train_folds=found.split(kept, description.n_folds))


def _random(numbers: list[int], length: int, seed: int) -> list[int]:
    """``length`` of ``numbers``, ascending."""
    return sorted(numbers[position] for position in permutation(len(numbers), seed)[:length])


def _shares(total: float, sizes: dict[str, int]) -> dict[str, int]:
    """Whole numbers in proportion to ``sizes`` that sum to ``round(total)`` (largest remainders first)."""
    whole = sum(sizes.values())
    exact = {name: total * size / whole for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: round(total) - sum(shares.values())]:
        shares[name] += 1
    return shares
