"""What commands, models and loaders know about a task: plain data that travels between processes."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.attributes import Modality
from mml_ray.tasks.classes import class_names
from mml_ray.tasks.header import TaskHeader


@dataclass(kw_only=True)
class TaskStruct(TaskHeader):
    """A task as seen by a run. ``paths`` and ``models`` grow during the run; the rest is fixed."""

    #: training samples, or unlabelled ones if there are none
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
        fields = {key: copy(value) for key, value in vars(header).items()}  # headers are cached, a mode may change its struct
        return cls(**fields | {"name": name or header.name, "num_samples": num_samples, "n_folds": n_folds})

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
        if self.kind.target is None and not self.kind.unlabelled:
            raise MMLMisconfigurationException(
                f"Task '{self.name}' is of type '{self.task_type.value}', which has no target. A plugin adds one with TaskType.register."
            )
        return super().target

    def to_model_spec(self) -> dict[str, Any]:
        """What a model needs to know, as plain data."""
        return {
            "task_type": self.task_type.value,
            "num_classes": self.num_classes,
            "target": str(self.target) if self.target is not None else None,
            "class_occ": dict(self.class_occ),
            "means": self.means.to_list(),
            "stds": self.stds.to_list(),
        }
