"""Tags that change labels: ``confuse``, ``subclass``."""

from __future__ import annotations

from collections import Counter

from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import TaskType
from mml_ray.tasks.classes import class_names
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.modifiers.numbered import SEED, Numbered, fraction, whole_number
from mml_ray.tasks.splitting import permutation
from mml_ray.tasks.variant import Variant


def confuse(description: TaskDescription, share: str) -> Variant:
    """A random ``share`` of the training samples gets a random class (which may be its own); classification only."""
    part = fraction(share, "share")
    if description.task_type != TaskType.CLASSIFICATION:
        raise MMLMisconfigurationException(f"confuse needs a classification task, '{description.name}' is not.")
    found = Numbered(description)
    hit = sorted(permutation(found.n_train, SEED, "confuse")[: round(part * found.n_train)])
    classes = sorted(description.idx_to_class)
    drawn = permutation(len(hit) * len(classes), SEED, "class")
    new = {number: classes[drawn[position] % len(classes)] for position, number in enumerate(hit)}
    raws = [new.get(number, found.samples[number]["class"]) for number in range(found.n_train)]
    counted = Counter(description.idx_to_class[raw] for raw in raws)
    return Variant(
        train_folds=found.folds(),
        test=found.test(),
        unlabelled=found.unlabelled(),
        class_occ={name: counted[name] for name in class_names(description.idx_to_class)},
        entries={"class": new},
    )


def subclass(description: TaskDescription, *classes: str) -> Variant:
    """Keep only these classes, given by final index; at least two, and the background of a segmentation stays anyway.

    Classification drops the samples of other classes. Multi-label samples lose the other labels. In masks, pixels of other classes
    become background. Soft labels and values cannot be reduced.
    """
    names = class_names(description.idx_to_class)
    chosen = [whole_number(text, "class") for text in classes]
    supported = (TaskType.CLASSIFICATION, TaskType.SEMANTIC_SEGMENTATION, TaskType.MULTILABEL_CLASSIFICATION)
    if description.task_type not in supported or "soft_classes" in description.modalities:
        raise MMLMisconfigurationException(f"subclass cannot reduce task '{description.name}' ({description.task_type.value}).")
    kept = {names[index] for index in chosen if 0 <= index < len(names)}
    if description.task_type == TaskType.SEMANTIC_SEGMENTATION:
        kept.add(names[0])
    if len(kept) < 2 or not all(0 <= index < len(names) for index in chosen):
        listed = ", ".join(f"{index}={name}" for index, name in enumerate(names))
        raise MMLMisconfigurationException(f"subclass needs at least two classes of '{description.name}' by index: {listed}.")
    return _reduced(Numbered(description), {raw: name for raw, name in description.idx_to_class.items() if name in kept})


def _reduced(found: Numbered, mapping: dict[int, str]) -> Variant:
    task_type = found.description.task_type
    folds, test = found.folds(), found.test()
    entries: dict[str, dict[int, object]] = {}
    if task_type == TaskType.CLASSIFICATION:
        folds = [[number for number in fold if found.samples[number]["class"] in mapping] for fold in folds]
        test = [number for number in test if found.samples[number]["class"] in mapping]
        if not all(folds):
            raise DataError(f"subclass leaves a fold of task '{found.description.name}' without any sample.")
    numbers = [number for fold in folds for number in fold]
    if task_type == TaskType.MULTILABEL_CLASSIFICATION:
        labels = {number: [raw for raw in found.samples[number]["classes"] if raw in mapping] for number in [*numbers, *test]}
        entries["classes"] = {number: kept for number, kept in labels.items() if kept != found.samples[number]["classes"]}
        counted = Counter(name for number in numbers for name in {mapping[raw] for raw in labels[number]})
        occurrences = {name: counted[name] for name in class_names(mapping)}
    else:
        occurrences = found.count(numbers, mapping)
    return Variant(
        train_folds=folds,
        test=test,
        unlabelled=found.unlabelled(),
        class_occ=occurrences,
        idx_to_class=mapping,
        entries=entries,
    )
