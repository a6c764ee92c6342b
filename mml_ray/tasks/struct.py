"""What commands, models and loaders know about a task: plain data that travels between processes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.attributes import Keyword, Modality, RGBInfo, Sizes, TaskType
from mml_ray.tasks.classes import class_names
from mml_ray.tasks.header import NO_PREPROCESSING, TaskHeader


@dataclass(kw_only=True)
class TaskStruct:
    """A task as seen by a run. ``paths`` and ``models`` grow while the run goes on; the rest is fixed."""

    name: str
    task_type: TaskType
    means: RGBInfo
    stds: RGBInfo
    sizes: Sizes
    class_occ: dict[str, int]
    keywords: list[Keyword]
    idx_to_class: dict[int, str]
    modalities: dict[Modality, str]
    #: dataset folder relative to the data root
    relative_root: str = ""
    preprocessed: str = NO_PREPROCESSING
    #: training samples, or unlabelled ones where there are no others
    num_samples: int = 0
    n_folds: int = 0
    paths: dict[str, Path] = field(default_factory=dict)
    models: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.task_type.target_modalities
        if options and not any(modality in self.modalities for modality in options):
            warnings.warn(
                f"Task '{self.name}' is a {self.task_type.value} task, but none of its samples has "
                f"{' or '.join(modality.value for modality in options)}.",
                UserWarning,
                stacklevel=3,
            )

    @classmethod
    def from_header(cls, header: TaskHeader, *, num_samples: int, n_folds: int, name: str | None = None) -> TaskStruct:
        """The struct of a stored task; ``name`` if it goes by another one (a duplicate)."""
        return cls(
            name=name or header.name,
            task_type=header.task_type,
            means=header.means,
            stds=header.stds,
            sizes=header.sizes,
            class_occ=dict(header.class_occ),
            keywords=list(header.keywords),
            idx_to_class=dict(header.idx_to_class),
            modalities=dict(header.modalities),
            relative_root=header.relative_root,
            preprocessed=header.preprocessed,
            num_samples=num_samples,
            n_folds=n_folds,
        )

    @property
    def class_names(self) -> list[str]:
        """The class names by final index."""
        return class_names(self.idx_to_class)

    @property
    def num_classes(self) -> int:
        """How many distinct classes there are."""
        return len(set(self.idx_to_class.values()))

    @property
    def target(self) -> Modality | None:
        """The modality to predict; ``None`` for unlabelled tasks; raises for a type that has none."""
        options = self.task_type.target_modalities
        if options:
            return next((modality for modality in options if modality in self.modalities), options[0])
        if self.task_type == TaskType.NO_TASK:
            return None
        raise MMLMisconfigurationException(
            f"Task '{self.name}' is of type '{self.task_type.value}', which has no target. A plugin adds one with TaskType.register."
        )

    def to_model_spec(self) -> dict[str, Any]:
        """What a model needs to know, as plain data."""
        target = self.target
        return {
            "task_type": self.task_type.value,
            "num_classes": self.num_classes,
            "target": target.value if target is not None else None,
            "class_occ": dict(self.class_occ),
            "means": self.means.to_list(),
            "stds": self.stds.to_list(),
        }
