"""The registry keys that the built-in kinds of task name are registered, and models are built by them."""

from __future__ import annotations

import pytest

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.metrics.definition import MetricSet
from mml_ray.models.architectures import create_architecture
from mml_ray.models.architectures.base import NEEDS
from mml_ray.models.heads import DenseHead, TaskSpec, create_head
from mml_ray.models.losses import Losses
from mml_ray.models.task_losses import losses_for
from mml_ray.registry import registry
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.kinds import TaskKind, all_kinds

TRAINABLE = [kind for kind in all_kinds() if kind.route in ("cls", "mlcls", "seg", "reg")]


@pytest.mark.parametrize("kind", TRAINABLE, ids=lambda kind: f"{kind.route}-{kind.target}")
def test_the_keys_of_a_built_in_kind_are_registered(kind: TaskKind) -> None:
    named = {"head": [kind.head], "loss": kind.losses, "metric": kind.metrics, "loader": [kind.loader], "codec": [kind.codec]}
    for group, keys in named.items():
        assert keys and set(keys) <= set(registry.names(group)), group
    spec = TaskSpec.parse("toy", {"task_type": kind.task_type, "target": kind.target, "num_classes": 3})
    assert spec.kind is kind and spec.outputs == (1 if kind.target == "value" else 3)
    assert len(Losses(losses_for(spec, None))) == len(kind.losses)
    assert len(MetricSet(spec.route, spec.outputs)) == len(kind.metrics)


def test_a_type_that_is_registered_by_its_parts_gets_the_head_of_its_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """As plugins did before there was a TaskKind."""
    kind = TaskType.register(
        "toy_spots", requires=[[Modality.KEYPOINTS, Modality.IMAGE]], target=Modality.KEYPOINTS, route="spots"
    )
    monkeypatch.setitem(NEEDS, "spots", "dense")
    registry.add("head", "spots", DenseHead)
    spec = TaskSpec.parse("toy", {"task_type": kind.value, "num_classes": 2})
    with pytest.raises(MMLMisconfigurationException, match="does not support toy_spots"):
        create_head(create_architecture({"backend": "monai", "name": "resnet_small"}), spec)
    net = create_architecture({"backend": "monai", "name": "basic_unet", "params": {"features": [8] * 6}})
    assert isinstance(create_head(net, spec), DenseHead)
    with pytest.raises(MMLMisconfigurationException, match="no default loss for task 'toy' .*Set loss.spots"):
        losses_for(spec, None)
