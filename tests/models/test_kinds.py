"""The registry keys that the built-in kinds of task name are registered, and models are built by them."""

from __future__ import annotations

import pytest

from mml_ray.models.heads import TaskSpec
from mml_ray.models.losses import Losses
from mml_ray.models.metrics import MetricSet
from mml_ray.models.task_losses import losses_for
from mml_ray.registry import registry
from mml_ray.tasks.kinds import TaskKind, all_kinds

TRAINABLE = [kind for kind in all_kinds() if kind.route in ("cls", "mlcls", "seg", "reg")]


@pytest.mark.parametrize("kind", TRAINABLE, ids=lambda kind: f"{kind.route}-{kind.target}")
def test_the_keys_of_a_built_in_kind_are_registered(kind: TaskKind) -> None:
    for group, keys in {"head": [kind.head], "loss": kind.losses, "metric": kind.metrics, "loader": [kind.loader]}.items():
        assert keys and set(keys) <= set(registry.names(group)), group
    spec = TaskSpec.parse("toy", {"task_type": kind.task_type, "target": kind.target, "num_classes": 3})
    assert spec.kind is kind and spec.outputs == (1 if kind.target == "value" else 3)
    assert len(Losses(losses_for(spec, None))) == len(kind.losses)
    assert len(MetricSet(spec.route, spec.outputs)) == len(kind.metrics)
