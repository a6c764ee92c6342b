"""Kinds of task: one object holds every fact that the program needs about one.

A kind is found by the task type of a description and, where a type has several (hard and soft multi-label classification),
by the target modality. It holds plain facts and keys of the registry, so that reading a description loads nothing else::

    kind_of("regression").losses                                   # ("huber",)
    kind_of("multilabel_classification", ["image", "soft_classes"]).target   # "soft_classes"

A plugin adds one with :meth:`mml_ray.tasks.attributes.TaskType.register`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mml_ray.errors import MMLMisconfigurationException

#: mask value that belongs to no class and takes part in no loss and no metric
IGNORE_INDEX = 255


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """One kind of task. The defaults are what an unknown kind of numbers gets: every field but the first may be left out."""

    #: the value in descriptions; kinds of one type differ in ``target``
    task_type: str
    #: the modality to predict; ``None``: not known, or nothing (``unlabelled``)
    target: str | None = None
    unlabelled: bool = False
    #: alternatives: a sample must have all modalities of one of them
    requires: tuple[tuple[str, ...], ...] = ()
    #: key below ``loss`` and ``metrics`` in the configuration; ``None``: cannot be trained
    route: str | None = None
    #: whether the task needs at least two named classes
    has_classes: bool = False
    #: whether each sample has exactly one class, so that classes are disjoint pools of samples
    exclusive_classes: bool = False

    # -- samples and batches ---------------------------------------------------------------------------------------
    #: how the labels of a sample are read and stratified, a key of :data:`mml_ray.tasks.classes.LABELS`
    labels: str = "labels"
    #: whether classes can only be counted by reading files (masks)
    labels_in_files: bool = False
    #: key of the registry: the loader of the target where the configuration names none; without it, it must
    loader: str | None = None
    #: what the target is for augmentations that move the pixels: ``mask`` or ``keypoints``; ``None``: it does not depend on places
    moves_as: Literal["mask", "keypoints"] | None = None
    #: of the targets of a batch; shape without the batch dimension, ``None``: whatever the loader gives
    target_dtype: str = "float32"
    target_shape: tuple[int | Literal["classes", "height", "width"], ...] | None = None
    #: label that takes part in no loss and no metric
    ignored_label: int | None = None
    #: whether ``sampling.balanced`` can draw all classes equally often, and mixup and cutmix can mix two samples
    balanceable: bool = False
    mixable: bool = False

    # -- models ----------------------------------------------------------------------------------------------------
    #: key of the registry; ``None``: the head is registered under the route
    head: str | None = None
    #: which features of an architecture the head needs
    features: Literal["pooled", "dense"] = "pooled"
    #: scores per sample (or pixel); ``None``: one for each class
    outputs: int | None = None
    #: from scores to probabilities; ``None``: scores are values
    activation: Literal["softmax", "sigmoid"] | None = None
    #: keys of the registry, used where the configuration names none; without them it must
    losses: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    #: what is collected for the metrics: the ``scores`` and targets of a sample, or ``pixel_counts`` [classes, 3] of its mask
    metric_rows: Literal["scores", "pixel_counts"] = "scores"
    #: how test-time augmentation averages: scores as they are, or maps after they were moved back; ``None``: it cannot
    views: Literal["scores", "maps"] | None = None

    # -- predictions and report ------------------------------------------------------------------------------------
    #: key of the registry: the columns of a prediction file and how they are encoded
    codec: str = "values"
    #: keys of the registry: what a report draws
    figures: tuple[str, ...] = ()

    def require_route(self) -> str:
        """The configuration route; raises if the kind has none."""
        if self.route is None:
            raise MMLMisconfigurationException(
                f"Task type '{self.task_type}' has no configuration route, it cannot be trained. Types that can: "
                f"{', '.join(sorted({kind.task_type for kind in all_kinds() if kind.route}))}. "
                "A plugin adds one with TaskType.register(..., route=...) or CONFIGS_ROUTES."
            )
        return self.route


_KINDS: dict[str, tuple[TaskKind, ...]] = {}


def add_kind(kind: TaskKind) -> TaskKind:
    """Make ``kind`` known; one of the same type and target is replaced."""
    others = tuple(known for known in _KINDS.get(kind.task_type, ()) if known.target not in (kind.target, None))
    _KINDS[kind.task_type] = (*others, kind)
    return kind


def all_kinds() -> Iterator[TaskKind]:
    """Every kind, in the order of registration."""
    return (kind for kinds in list(_KINDS.values()) for kind in kinds)


def kinds_of(task_type: str) -> tuple[TaskKind, ...]:
    """The kinds of a task type, at least one; a type without facts has neither target nor route."""
    return _KINDS.get(str(task_type)) or (TaskKind(task_type=str(task_type)),)


def kind_of(task_type: str, modalities: Collection[str] = ()) -> TaskKind:
    """The kind of a task: the first of its type whose target it has, else the first."""
    kinds = kinds_of(task_type)
    return next((kind for kind in kinds if kind.target in modalities), kinds[0])


def kind_of_route(route: str) -> TaskKind:
    """The first kind of a configuration route; one without facts if no kind has it."""
    return next((kind for kind in all_kinds() if kind.route == route), TaskKind(task_type="unknown", route=route))


def check_fact(kind: TaskKind, fact: str, *, what: str, task: str) -> None:
    """Raise unless the boolean ``fact`` holds for the kind of ``task``; ``what`` needs it and is the subject of the message."""
    if not getattr(kind, fact):
        able = dict.fromkeys(other.task_type for other in all_kinds() if getattr(other, fact))
        raise MMLMisconfigurationException(
            f"{what} works for {', '.join(able)} tasks only, but task '{task}' is of type {kind.task_type}."
        )


def check_views_of(kind: TaskKind, task: str) -> None:
    """Raise unless the predictions for variations of an image of ``task`` can be averaged."""
    if kind.views is None:
        raise MMLMisconfigurationException(
            f"Test-time augmentation rotates and crops images, and predictions of task '{task}' ({kind.task_type}) cannot be "
            "rotated back. Set tta=none."
        )


def describe(
    task_type: str, *, requires: Sequence[Sequence[str]] = (), targets: Sequence[str] = (), route: str | None = None
) -> None:
    """Set the facts that are given for every kind of ``task_type``; one kind for each of ``targets``, with those of ``requires`` that name
    its target (all if none does); what is not given stays."""
    made = kinds_of(task_type)
    if targets:
        made = tuple(replace(kind_of(task_type, [target]), target=target) for target in targets)
    if requires:
        options = tuple(map(tuple, requires))
        made = tuple(replace(kind, requires=tuple(o for o in options if kind.target in o) or options) for kind in made)
    if route is not None:
        made = tuple(replace(kind, route=route) for kind in made)
    _KINDS[task_type] = made


add_kind(
    TaskKind(
        task_type="classification",
        target="class",
        requires=(("class", "image"),),
        route="cls",
        has_classes=True,
        exclusive_classes=True,
        labels="class",
        loader="class",
        target_dtype="int64",
        target_shape=(),
        balanceable=True,
        mixable=True,
        head="pooled",
        activation="softmax",
        losses=("cross_entropy",),
        metrics=(
            "accuracy", "f1", "average_precision", "auroc", "matthews_corrcoef", "precision", "recall", "calibration_error",
        ),
        views="scores",
        codec="class",
        figures=("confusion_matrix", "reliability"),
    )
)  # fmt: skip
_HARD_LABELS = add_kind(
    TaskKind(
        task_type="multilabel_classification",
        target="classes",
        requires=(("classes", "image"),),
        route="mlcls",
        has_classes=True,
        loader="multi_label",
        target_shape=("classes",),
        balanceable=True,
        mixable=True,
        head="pooled",
        activation="sigmoid",
        losses=("bce_with_logits",),
        metrics=("multilabel_average_precision", "multilabel_ranking_average_precision", "multilabel_coverage_error"),
        views="scores",
        codec="labels",
        figures=("label_curves",),
    )
)
add_kind(replace(_HARD_LABELS, target="soft_classes", requires=(("soft_classes", "image"),), loader="soft_label"))
add_kind(
    TaskKind(
        task_type="semantic_segmentation",
        target="mask",
        requires=(("mask", "image"),),
        route="seg",
        has_classes=True,
        labels="mask",
        loader="opencv_mask",
        moves_as="mask",
        labels_in_files=True,
        target_dtype="int64",
        target_shape=("height", "width"),
        ignored_label=IGNORE_INDEX,
        head="dense",
        features="dense",
        activation="softmax",
        losses=("dice",),
        metrics=("dice",),
        metric_rows="pixel_counts",
        views="maps",
        codec="mask",
        figures=("mask_overlays",),
    )
)
add_kind(
    TaskKind(
        task_type="regression",
        target="value",
        requires=(("image", "value"),),
        route="reg",
        labels="value",
        loader="value",
        target_shape=(1,),
        head="pooled",
        outputs=1,
        losses=("huber",),
        metrics=("mean_squared_error", "spearman_corrcoef"),
        views="scores",
        codec="value",
        figures=("predicted_against_true",),
    )
)
add_kind(TaskKind(task_type="no_task", unlabelled=True, requires=(("image",),)))
