"""The vocabulary of tasks: modalities, task types, splits, and the small values a description holds.

All sets are open. A plugin adds to them before configuration is composed::

    Modality.register("ultrasound")
    TaskType.register("keypoint_detection", requires=[[Modality.KEYPOINTS, Modality.IMAGE]], target=Modality.KEYPOINTS, route="kp")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.open_enum import OpenEnum, member
from mml_ray.tasks.vocabulary import Keyword, License

__all__ = [
    "ALBUMENTATIONS_TARGETS", "CONFIGS_ROUTES", "EMPTY_MASK_TOKEN", "IGNORE_INDEX", "IMAGENET_MEAN", "IMAGENET_STD",
    "KORNIA_VALID_MODALITIES", "PATH_MODALITIES", "DataSplit", "Keyword", "LearningPhase", "License", "Modality", "OpenEnum",
    "RGBInfo", "Sizes", "TaskType",
]  # fmt: skip

EMPTY_MASK_TOKEN = "EMPTY_MASK_TOKEN"
#: mask value that belongs to no class and takes part in no loss and no metric
IGNORE_INDEX = 255


class Modality(OpenEnum):
    """What a sample can hold. Entry types: paths relative to the dataset folder (str) for image, mask and the reserved ones;
    raw class index (int); list of raw class indices; list of floats in [0, 1], one for each raw class index in ascending order;
    float."""

    IMAGE = member("image")
    MASK = member("mask")
    CLASS = member("class")
    CLASSES = member("classes")
    SOFT_CLASSES = member("soft_classes")
    VALUE = member("value")
    # reserved: a plugin brings loader, verifier and task type
    BBOX = member("bbox")
    KEYPOINTS = member("keypoints")
    VIDEO_CLIP = member("video_clip")
    THREE_D_IMAGE = member("three_d_image")
    # about the sample itself
    TASK = member("task")
    SAMPLE_ID = member("sample_id")
    GROUP = member("group")


class DataSplit(OpenEnum):
    """Which samples: TRAIN is every fold but one, VAL that one, FULL_TRAIN all folds."""

    TRAIN = member("TRAIN")
    FULL_TRAIN = member("FULL_TRAIN")
    VAL = member("VAL")
    TEST = member("TEST")
    UNLABELLED = member("UNLABELLED")


class LearningPhase(OpenEnum):
    """What a batch is used for."""

    TRAIN = member("train")
    VAL = member("val")
    TEST = member("test")


class TaskType(OpenEnum):
    """What is to be learned."""

    CLASSIFICATION = member("classification")
    REGRESSION = member("regression")
    SEMANTIC_SEGMENTATION = member("semantic_segmentation")
    MULTILABEL_CLASSIFICATION = member("multilabel_classification")
    NO_TASK = member("no_task")
    DETECTION = member("detection")
    VIDEO_CLASS = member("video_classification")
    UNKNOWN = member("unknown")
    DEFAULT = member("unknown")

    @classmethod
    def register(
        cls,
        value: str,
        *,
        name: str | None = None,
        requires: Sequence[Sequence[Modality]] = (),
        target: Modality | Sequence[Modality] | None = None,
        route: str | None = None,
    ) -> Self:
        """Add a task type with the modalities a sample must have (see :meth:`requires`), the one that is predicted (or several
        alternatives, the first present counts), and the configuration route of its losses and metrics."""
        found = super().register(value, name=name)
        if requires:
            _REQUIRES[found] = [[Modality(part) for part in option] for option in requires]
        if target is not None:
            targets = (target,) if isinstance(target, str) else target
            _TARGETS[found] = tuple(Modality(part) for part in targets)
        if route is not None:
            CONFIGS_ROUTES[found] = route
        return found

    def requires(self) -> list[list[Modality]]:
        """The needed modalities: one of the outer lists has to be complete. ``[[]]`` if nothing is required."""
        return [list(option) for option in _REQUIRES.get(self, [[]])]

    @property
    def target_modalities(self) -> tuple[Modality, ...]:
        """What is predicted: the first of these that a task has. Empty for unlabelled tasks."""
        return _TARGETS.get(self, ())

    @property
    def route(self) -> str:
        """The key below ``loss`` and ``metrics`` in the configuration; raises if the type has none."""
        if self not in CONFIGS_ROUTES:
            raise MMLMisconfigurationException(
                f"Task type '{self.value}' has no configuration route, it cannot be trained. Types that can: "
                f"{', '.join(sorted(CONFIGS_ROUTES))}. A plugin adds one with TaskType.register(..., route=...) or CONFIGS_ROUTES."
            )
        return CONFIGS_ROUTES[self]

    @property
    def has_classes(self) -> bool:
        """Whether the task needs at least two named classes."""
        return self in _CLASS_BASED


_REQUIRES: dict[TaskType, list[list[Modality]]] = {
    TaskType.CLASSIFICATION: [[Modality.CLASS, Modality.IMAGE]],
    TaskType.SEMANTIC_SEGMENTATION: [[Modality.MASK, Modality.IMAGE]],
    TaskType.MULTILABEL_CLASSIFICATION: [[Modality.CLASSES, Modality.IMAGE], [Modality.SOFT_CLASSES, Modality.IMAGE]],
    TaskType.NO_TASK: [[Modality.IMAGE]],
    TaskType.REGRESSION: [[Modality.IMAGE, Modality.VALUE]],
}
_TARGETS: dict[TaskType, tuple[Modality, ...]] = {
    TaskType.CLASSIFICATION: (Modality.CLASS,),
    TaskType.SEMANTIC_SEGMENTATION: (Modality.MASK,),
    TaskType.MULTILABEL_CLASSIFICATION: (Modality.CLASSES, Modality.SOFT_CLASSES),
    TaskType.REGRESSION: (Modality.VALUE,),
}
_CLASS_BASED = {TaskType.CLASSIFICATION, TaskType.SEMANTIC_SEGMENTATION, TaskType.MULTILABEL_CLASSIFICATION}

#: task type -> key below ``loss`` and ``metrics`` in the configuration; plugins add theirs
CONFIGS_ROUTES: dict[TaskType, str] = {
    TaskType.CLASSIFICATION: "cls",
    TaskType.MULTILABEL_CLASSIFICATION: "mlcls",
    TaskType.SEMANTIC_SEGMENTATION: "seg",
    TaskType.REGRESSION: "reg",
}
#: modalities that geometric augmentations have to transform together with the image; plugins add theirs
KORNIA_VALID_MODALITIES: set[Modality] = {Modality.IMAGE, Modality.MASK, Modality.BBOX, Modality.KEYPOINTS}
#: those of them that albumentations can transform, and what it takes them for; plugins add theirs
ALBUMENTATIONS_TARGETS: dict[str, str] = {Modality.IMAGE: "image", Modality.MASK: "mask", Modality.KEYPOINTS: "keypoints"}
#: modalities whose entry is a file path relative to the dataset folder; plugins add theirs
PATH_MODALITIES: set[Modality] = {Modality.IMAGE, Modality.MASK, Modality.VIDEO_CLIP, Modality.THREE_D_IMAGE}


@dataclass(frozen=True)
class RGBInfo:
    """One number for each colour channel, of images scaled to [0, 1]."""

    r: float = 0.0
    g: float = 0.0
    b: float = 0.0

    def to_list(self) -> list[float]:
        """``[r, g, b]``."""
        return [self.r, self.g, self.b]

    get_rgb = to_list


@dataclass(frozen=True)
class Sizes:
    """The smallest and largest image sides of a task, in pixels."""

    min_height: int = 0
    max_height: int = 0
    min_width: int = 0
    max_width: int = 0

    def to_list(self) -> list[int]:
        """``[min_height, max_height, min_width, max_width]``."""
        return [self.min_height, self.max_height, self.min_width, self.max_width]


IMAGENET_MEAN = RGBInfo(0.485, 0.456, 0.406)
IMAGENET_STD = RGBInfo(0.229, 0.224, 0.225)
