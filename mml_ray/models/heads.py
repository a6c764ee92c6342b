"""Heads: from an architecture's features to the scores (logits) of one task.

A plugin registers a head under the key that its :class:`~mml_ray.tasks.kinds.TaskKind` names (``head``, by default the route):
``registry.add("head", "kp", KeypointHead)``. It is called with ``(architecture, spec, drop_rate)``; its ``forward`` gets the
features and the size of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.architectures.base import Architecture, Features
from mml_ray.registry import registry
from mml_ray.tasks.attributes import TaskType
from mml_ray.tasks.kinds import TaskKind, kind_of


@dataclass(frozen=True)
class TaskSpec:
    """What a model needs to know about a task; ``class_occ`` is in the order of the final class indices."""

    name: str
    task_type: str
    num_classes: int
    weight: float = 1.0
    target: str | None = None
    class_occ: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> TaskSpec:
        """From plain data; raises if the type is missing, the weight is not positive, or the type cannot be trained."""
        known = {key: given[key] for key in cls.__dataclass_fields__ if key in given and key != "name" and given[key] is not None}
        if "task_type" not in known:
            raise MMLMisconfigurationException(
                f"Task '{name}' of a model needs a 'task_type', got {', '.join(sorted(given)) or 'nothing'}."
            )
        known["task_type"] = TaskType(str(known["task_type"])).value
        spec = cls(name=name, **{"num_classes": 0, **known})
        if not spec.weight > 0:
            raise MMLMisconfigurationException(f"The weight of task '{name}' must be greater than 0, got {spec.weight}.")
        if spec.kind.has_classes and spec.num_classes < 1:
            raise MMLMisconfigurationException(
                f"Task '{name}' ({spec.task_type}) must have at least one class, got {spec.num_classes}."
            )
        return spec

    @property
    def kind(self) -> TaskKind:
        return kind_of(self.task_type, [self.target] if self.target else [])

    @property
    def route(self) -> str:
        """The key below ``losses`` and ``metrics``."""
        return self.kind.require_route()

    @property
    def outputs(self) -> int:
        """The number of scores per sample (or pixel)."""
        return self.num_classes if self.kind.outputs is None else self.kind.outputs


def create_head(architecture: Architecture, spec: TaskSpec, drop_rate: float = 0.0) -> nn.Module:
    """The head for a task; raises if the architecture does not support its type."""
    if not 0 <= drop_rate < 1:
        raise MMLMisconfigurationException(f"arch.drop_rate must be at least 0 and less than 1, got {drop_rate}.")
    if not architecture.supports(spec.route):
        raise MMLMisconfigurationException(
            f"The architecture '{architecture.name}' does not support {spec.task_type} (task '{spec.name}'). "
            "Segmentation needs an encoder-decoder: arch.name=basic_unet, or arch=smp."
        )
    head: nn.Module = registry.lookup("head", spec.kind.head or spec.route)(architecture, spec, drop_rate)
    return head


class PooledHead(nn.Module):
    """Dropout and one linear layer on the pooled features: [N, outputs]."""

    def __init__(self, architecture: Architecture, spec: TaskSpec, drop_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(architecture.pooled_dim, spec.outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Scores of each image."""
        scores: Tensor = self.linear(self.dropout(features.pooled))
        return scores


class DenseHead(nn.Module):
    """Dropout and a 1x1 convolution on the dense features, brought to the size of the images: [N, outputs, H, W]."""

    def __init__(self, architecture: Architecture, spec: TaskSpec, drop_rate: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv = nn.Conv2d(architecture.dense_dim, spec.outputs, kernel_size=1)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # None only with bias=False

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Scores of each pixel."""
        scores: Tensor = self.conv(self.dropout(features.dense))
        return scores if scores.shape[-2:] == size else F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


registry.add("head", "pooled", PooledHead)
registry.add("head", "dense", DenseHead)
