"""Tags that change labels: ``confuse``, ``subclass``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.classes import class_names
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.modifiers.numbered import SEED, Numbered, fraction, whole_number
from mml_ray.tasks.splitting import permutation
from mml_ray.tasks.variant import Variant


def confuse(description: TaskDescription, share: str) -> Variant:
    """Give a random ``share`` of the training samples a random class (possibly the one they have); classification only."""
    part = fraction(share, "share")
    found = Numbered(description)
    found.require_exclusive_classes("confuse")
    target = str(found.kind.target)
    hit = sorted(permutation(found.n_train, SEED, "confuse")[: round(part * found.n_train)])
    classes = sorted(description.idx_to_class)
    drawn = permutation(len(hit) * len(classes), SEED, "class")
    new = {number: classes[drawn[position] % len(classes)] for position, number in enumerate(hit)}
    raws = [new.get(number, found.samples[number][target]) for number in range(found.n_train)]
    counted = Counter(description.idx_to_class[raw] for raw in raws)
    occurrences = {name: counted[name] for name in class_names(description.idx_to_class)}
    return found.variant(class_occ=occurrences, entries={target: new})


def subclass(description: TaskDescription, *classes: str) -> Variant:
    """Keep only these classes, given by final index; at least two, and the background of a segmentation stays anyway.

    Classification drops the samples of other classes. Multi-label samples lose the other labels. In masks, pixels of other classes
    become background. Soft labels and values are not supported.
    """
    names = class_names(description.idx_to_class)
    chosen = [whole_number(text, "class") for text in classes]
    found = Numbered(description)
    if (reduce := _REDUCTIONS.get(str(description.target))) is None:
        raise MMLMisconfigurationException(
            f"subclass cannot leave out classes of task '{description.name}' ({description.task_type.value}, "
            f"{description.target or 'no target'}); it can where the target is {', '.join(_REDUCTIONS)}."
        )
    kept = {names[index] for index in chosen if 0 <= index < len(names)}
    if found.kind.labels_in_files:
        kept.add(names[0])
    if len(kept) < 2 or not all(0 <= index < len(names) for index in chosen):
        listed = ", ".join(f"{index}={name}" for index, name in enumerate(names))
        raise MMLMisconfigurationException(
            f"subclass must keep at least two classes of task '{description.name}', given by index ({listed}); got {', '.join(classes) or 'none'}."
        )
    mapping = {raw: name for raw, name in description.idx_to_class.items() if name in kept}
    return replace(reduce(found, mapping), idx_to_class=mapping)


def _drop_samples(found: Numbered, mapping: dict[int, str]) -> Variant:
    """Samples of other classes are left out."""
    target = str(found.kind.target)
    folds = [[number for number in fold if found.samples[number][target] in mapping] for fold in found.folds()]
    if not all(folds):
        raise DataError(f"subclass leaves a fold of task '{found.description.name}' without any sample.")
    return found.variant(
        train_folds=folds,
        test=[number for number in found.test() if found.samples[number][target] in mapping],
        class_occ=found.count([number for fold in folds for number in fold], mapping),
    )


def _remove_labels(found: Numbered, mapping: dict[int, str]) -> Variant:
    """Samples lose the labels of other classes."""
    target, numbers = str(found.kind.target), found.training()
    labels = {number: [raw for raw in found.samples[number][target] if raw in mapping] for number in [*numbers, *found.test()]}
    counted = Counter(name for number in numbers for name in {mapping[raw] for raw in labels[number]})
    return found.variant(
        class_occ={name: counted[name] for name in class_names(mapping)},
        entries={target: {number: kept for number, kept in labels.items() if kept != found.samples[number][target]}},
    )


def _keep_samples(found: Numbered, mapping: dict[int, str]) -> Variant:
    """Files stay as they are: the loader takes raw values that have no class for background."""
    return found.variant(class_occ=found.count(found.training(), mapping))


#: target -> how a task is reduced to some of its classes; soft labels and values cannot be
_REDUCTIONS: dict[str, Callable[[Numbered, dict[int, str]], Variant]] = {
    "class": _drop_samples,
    "classes": _remove_labels,
    "mask": _keep_samples,
}
