"""Small descriptions of every task type, built by hand."""

from __future__ import annotations

from typing import Any

from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.classes import count_classes
from mml_ray.tasks.description import TaskDescription

LETTERS = "ABCDEFGHIJ"


def describe(
    task_type: TaskType,
    train: dict[str, dict[str, Any]],
    *,
    n_folds: int = 5,
    idx_to_class: dict[int, str] | None = None,
    test: dict[str, dict[str, Any]] | None = None,
    unlabelled: dict[str, dict[str, Any]] | None = None,
    mask_classes: dict[str, list[int]] | None = None,
) -> TaskDescription:
    """A description whose folds take turns over ``train``."""
    ids = list(train)
    mapping = idx_to_class or {}
    keys = {key for sample in train.values() for key in sample} - {"group"}
    return TaskDescription(
        name="toy",
        task_type=task_type,
        modalities={Modality(key): "png; " if key in ("image", "mask") else "" for key in sorted(keys)},
        idx_to_class=mapping,
        class_occ=count_classes(train, task_type, idx_to_class=mapping, mask_classes=mask_classes),
        train_folds=[ids[fold::n_folds] for fold in range(n_folds)],
        train_samples=train,
        test_samples=test or {},
        unlabeled_samples=unlabelled or {},
        mask_classes=mask_classes,
    )


def classification(count: int = 100, *, n_classes: int = 2, n_folds: int = 5, groups: int = 0) -> TaskDescription:
    """``count`` training samples with classes in turn (samples 0, 1, ... -> A, B, ...), 10 test and 4 unlabelled samples."""
    train = {f"s{i:04d}": {"image": f"training_data/{i}.png", "class": (i // n_folds) % n_classes} for i in range(count)}
    if groups:
        for i, sample in enumerate(train.values()):
            sample["group"] = f"patient{(i * 7) % groups}"
    return describe(
        TaskType.CLASSIFICATION,
        train,
        n_folds=n_folds,
        idx_to_class=dict(enumerate(LETTERS[:n_classes])),
        test={f"t{i}": {"image": f"testing_data/{i}.png", "class": i % n_classes} for i in range(10)},
        unlabelled={f"u{i}": {"image": f"unlabeled_data/{i}.png"} for i in range(4)},
    )


def segmentation(count: int = 60) -> TaskDescription:
    """Classes background, A (in every second mask), B (in every sixth)."""
    train = {f"s{i}": {"image": f"i/{i}.png", "mask": f"m/{i}.png"} for i in range(count)}
    present = {f"s{i}": [0, *([1] if i % 2 else []), *([2] if i % 6 == 0 else [])] for i in range(count)}
    return describe(TaskType.SEMANTIC_SEGMENTATION, train, idx_to_class={0: "background", 1: "A", 2: "B"}, mask_classes=present)


def multilabel(count: int = 60) -> TaskDescription:
    """Labels A (every second), B (every third), C (every tenth)."""
    train = {
        f"s{i}": {"image": f"i/{i}.png", "classes": [raw for raw, every in ((0, 2), (1, 3), (2, 10)) if i % every == 0]}
        for i in range(count)
    }
    return describe(TaskType.MULTILABEL_CLASSIFICATION, train, idx_to_class={0: "A", 1: "B", 2: "C"})


def soft(count: int = 40) -> TaskDescription:
    """Soft labels of two classes."""
    train = {f"s{i}": {"image": f"i/{i}.png", "soft_classes": [i / count, 1 - i / count]} for i in range(count)}
    return describe(TaskType.MULTILABEL_CLASSIFICATION, train, idx_to_class={0: "A", 1: "B"})


def regression(count: int = 100) -> TaskDescription:
    """Values 0 to 1."""
    train = {f"s{i}": {"image": f"i/{i}.png", "value": (i * 37 % count) / count} for i in range(count)}
    return describe(TaskType.REGRESSION, train)
