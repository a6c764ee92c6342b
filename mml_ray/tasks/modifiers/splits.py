"""Tags that move samples between splits: ``identity``, ``nested``, ``redistribute_splits``."""

from __future__ import annotations

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.modifiers.numbered import SEED, Numbered, fraction, whole_number
from mml_ray.tasks.splitting import check_folds, permutation, units_of
from mml_ray.tasks.variant import Variant


def identity(description: TaskDescription, *label: str) -> Variant:
    """The same task under another name; any arguments tell copies apart."""
    return Numbered(description).variant(class_occ=dict(description.class_occ))


def nested(description: TaskDescription, fold: str, new_folds: str = "") -> Variant:
    """Fold ``fold`` becomes the test split; the other folds are split again into ``new_folds`` (default: as many as before).

    The old test split is dropped, unlabelled samples stay. Groups are kept whole; the new folds are stratified by class, set of
    labels, bin of the value, or classes in the mask. A class without samples counts 0.
    """
    count = description.n_folds
    chosen = whole_number(fold, "fold")
    if not 0 <= chosen < count:
        raise MMLMisconfigurationException(
            f"Task '{description.name}' cannot be nested on fold {fold}. It has {count} fold(s), numbered from 0."
        )
    wanted = whole_number(new_folds, "new_folds") if new_folds else count
    check_folds(wanted)
    found = Numbered(description)
    rest = sorted(number for other in range(count) if other != chosen for number in found.fold(other))
    try:
        folds = found.split(rest, wanted)
    except DataError as error:
        raise DataError(
            f"Task '{description.name}' cannot be nested on fold {chosen} with {wanted} new folds: {error}"
        ) from error
    return found.variant(train_folds=folds, test=found.fold(chosen))


def redistribute_splits(description: TaskDescription, train: str, val: str = "", test: str = "") -> Variant:
    """Redistribute the samples to fold 1 (train), fold 0 (validation) and the test split, stratified for classification.

    One fraction: of the training data (all folds), ``train`` is trained on and the rest validates; the test split stays.
    Two fractions ``train``, ``val``: of the training data; what they leave is dropped; the test split stays.
    Three fractions: of training and test data together; what they leave is dropped.
    """
    found = Numbered(description)
    parts = [fraction(text, name) for text, name in ((train, "train"), (val, "val"), (test, "test")) if text]
    if len(parts) == 1:
        if not 0 < parts[0] < 1:
            raise MMLMisconfigurationException(
                f"redistribute_splits?{train}: a single fraction must be greater than 0 and less than 1; the rest is used for validation."
            )
        parts.append(1 - parts[0])
    if sum(parts) > 1 + 1e-9 or min(parts[:2]) <= 0:
        raise MMLMisconfigurationException(
            f"redistribute_splits: fractions must be positive and sum to at most 1, got {', '.join(t for t in (train, val, test) if t)}."
        )
    numbers = [*range(found.n_train), *(found.test() if len(parts) == 3 else [])]
    dealt = _deal(found, numbers, parts)
    if not dealt[0] or not dealt[1]:
        raise DataError(
            f"redistribute_splits leaves no sample to train or to validate on: task '{description.name}' has {len(numbers)} samples."
        )
    return found.variant(train_folds=[dealt[1], dealt[0]], **({"test": dealt[2]} if len(parts) == 3 else {}))


def _deal(found: Numbered, numbers: list[int], parts: list[float]) -> list[list[int]]:
    """Disjoint random parts of ``numbers`` with these fractions; whole groups, every class alike where nothing is grouped."""
    dealt: list[list[int]] = [[] for _ in parts]
    groups = found.groups(numbers)
    if groups is not None:
        ordered = [[numbers[position] for position in unit] for unit in units_of(len(numbers), groups)]
        limits = _limits(parts, len(numbers))
        taken = 0
        for position in permutation(len(ordered), SEED):
            part = next((part for part, limit in enumerate(limits) if taken < limit), None)
            taken += len(ordered[position])
            if part is not None:
                dealt[part].extend(ordered[position])
    else:
        for pool in found.pools(numbers).values():
            order = [pool[position] for position in permutation(len(pool), SEED)]
            for part, (start, end) in enumerate(zip([0, *_limits(parts, len(pool))], _limits(parts, len(pool)), strict=False)):
                dealt[part].extend(order[start:end])
    return [sorted(part) for part in dealt]


def _limits(parts: list[float], length: int) -> list[int]:
    """The end of each part in a sequence of ``length`` items."""
    return [round(sum(parts[: count + 1]) * length) for count in range(len(parts))]
