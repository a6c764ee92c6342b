"""The vocabulary of tasks: modalities, task types, splits, and the small values a description holds.

All sets are open. A plugin adds to them before configuration is composed::

    Modality.register("ultrasound")
    TaskType.register("keypoint_detection", requires=[[Modality.KEYPOINTS, Modality.IMAGE]], target=Modality.KEYPOINTS, route="kp")
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from mml_ray.tasks.kinds import IGNORE_INDEX, TaskKind, add_kind, describe, kind_of, kinds_of
from mml_ray.tasks.open_enum import OpenEnum, member
from mml_ray.tasks.vocabulary import Keyword, License

__all__ = [
    "ALBUMENTATIONS_TARGETS", "CONFIGS_ROUTES", "EMPTY_MASK_TOKEN", "IGNORE_INDEX", "IMAGENET_MEAN", "IMAGENET_STD",
    "KORNIA_VALID_MODALITIES", "PATH_MODALITIES", "DataSplit", "Keyword", "License", "Modality", "OpenEnum",
    "RGBInfo", "Sizes", "TaskKind", "TaskType",
]  # fmt: skip

EMPTY_MASK_TOKEN = "EMPTY_MASK_TOKEN"


class Modality(OpenEnum):
    """What a sample can contain. Entry types: paths relative to the dataset folder (str) for image, mask and the reserved ones;
    raw class index (int); list of raw class indices; list of floats in [0, 1], one for each raw class index in ascending order;
    float."""

    IMAGE = member("image")
    MASK = member("mask")
    CLASS = member("class")
    CLASSES = member("classes")
    SOFT_CLASSES = member("soft_classes")
    VALUE = member("value")
    # reserved: a plugin provides loader, verifier and task kind
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
    """What is predicted; the facts about each are in :mod:`mml_ray.tasks.kinds`."""

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
        value: str | TaskKind,
        *,
        name: str | None = None,
        requires: Sequence[Sequence[Modality]] = (),
        target: Modality | Sequence[Modality] | None = None,
        route: str | None = None,
    ) -> Self:
        """Add a task type: with all its facts as one :class:`~mml_ray.tasks.kinds.TaskKind`, or with its value and those that are
        given: the modalities a sample must have (see :meth:`requires`), the one that is predicted (or several alternatives, the
        first present counts), and the configuration route of its losses and metrics."""
        if isinstance(value, TaskKind):
            for modality in {value.target, *(part for option in value.requires for part in option)} - {None}:
                Modality.register(str(modality))
            if value.target is not None and value.moves_as is not None:
                KORNIA_VALID_MODALITIES.add(Modality(value.target))
                ALBUMENTATIONS_TARGETS[value.target] = value.moves_as
            return super().register(add_kind(value).task_type, name=name)
        found = super().register(value, name=name)
        targets = [] if target is None else [target] if isinstance(target, str) else target
        options = [[Modality(part) for part in option] for option in requires]
        describe(found.value, requires=options, targets=[Modality(part) for part in targets], route=route)
        return found

    def requires(self) -> list[list[Modality]]:
        """The needed modalities: a sample must have all of one of the inner lists. ``[[]]`` if nothing is required."""
        options = dict.fromkeys(option for kind in kinds_of(self) for option in kind.requires)
        return [[Modality(part) for part in option] for option in options] or [[]]

    @property
    def target_modalities(self) -> tuple[Modality, ...]:
        """What is predicted: the first of these that a task has. Empty for unlabelled tasks."""
        return tuple(Modality(kind.target) for kind in kinds_of(self) if kind.target is not None)

    @property
    def route(self) -> str:
        """The key below ``loss`` and ``metrics`` in the configuration; raises if the type has none."""
        return kind_of(self).require_route()

    @property
    def has_classes(self) -> bool:
        """Whether the task needs at least two named classes."""
        return kind_of(self).has_classes


class _Routes(MutableMapping[TaskType, str]):
    """The routes of all kinds, as a mapping."""

    def __getitem__(self, task_type: TaskType) -> str:
        route = kind_of(task_type).route
        if route is None:
            raise KeyError(task_type)
        return route

    def __setitem__(self, task_type: TaskType, route: str) -> None:
        describe(str(task_type), route=route)

    def __delitem__(self, task_type: TaskType) -> None:
        for kind in kinds_of(task_type):
            add_kind(replace(kind, route=None))

    def __iter__(self) -> Iterator[TaskType]:
        return (found for found in list(TaskType) if kind_of(found).route is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


#: task type -> key below ``loss`` and ``metrics`` in the configuration; plugins may add theirs
CONFIGS_ROUTES = _Routes()
#: modalities that geometric augmentations must transform together with the image; plugins add theirs
KORNIA_VALID_MODALITIES: set[Modality] = {Modality.IMAGE, Modality.MASK, Modality.BBOX, Modality.KEYPOINTS}
#: those of them that albumentations can transform, and as what; plugins add theirs
ALBUMENTATIONS_TARGETS: dict[str, str] = {Modality.IMAGE: "image", Modality.MASK: "mask", Modality.KEYPOINTS: "keypoints"}
#: modalities whose entry is a file path relative to the dataset folder; plugins add theirs
PATH_MODALITIES: set[Modality] = {Modality.IMAGE, Modality.MASK, Modality.VIDEO_CLIP, Modality.THREE_D_IMAGE}


@dataclass(frozen=True)
class RGBInfo:
    """One number for each color channel, of images scaled to [0, 1]."""

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
