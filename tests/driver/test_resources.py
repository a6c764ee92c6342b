"""What nodes can hold, and the refusal of what none of them can."""

from __future__ import annotations

import pytest

from mml_ray.driver.resources import Node, Resources, check_feasible, local_node, slots
from mml_ray.errors import InfeasibleResourcesError

LAPTOP = Node("laptop", num_cpus=8)
WORKSTATION = Node("workstation", num_cpus=16, num_gpus=2, memory=64 * 2**30)


def test_infeasible_names_the_command_and_the_largest_node() -> None:
    with pytest.raises(InfeasibleResourcesError, match="train_fold.*9 GPU.*workstation: 16 CPU, 2 GPU"):
        check_feasible([("train_fold", Resources(num_cpus=1, num_gpus=9))], [LAPTOP, WORKSTATION])
    check_feasible([("train_fold", Resources(num_cpus=16, num_gpus=2))], [LAPTOP, WORKSTATION])


def test_memory_custom_resources_and_labels_decide_too() -> None:
    node = Node("n", 4, memory=2**30, custom=(("licence", 1.0),), labels=(("zone", "b"),))
    assert node.holds(Resources(custom=(("licence", 1.0),), label_selector=(("zone", "in(a,b)"),)))
    assert not node.holds(Resources(memory=2**31))
    assert not node.holds(Resources(custom=(("licence", 2.0),)))
    assert not node.holds(Resources(label_selector=(("zone", "!b"),)))
    assert not node.holds(Resources(label_selector=(("zone", "!in(a,b)"),)))


def test_slots() -> None:
    assert slots([WORKSTATION, LAPTOP], Resources(num_cpus=2)) == 12
    assert slots([WORKSTATION], Resources(num_cpus=1, num_gpus=0.5)) == 4
    assert slots([LAPTOP], Resources(num_gpus=1)) == 0


def test_round_trip() -> None:
    request = Resources(1.5, 0.5, 2**30, (("a", 1.0),), (("zone", "b"),))
    assert Resources.from_json(request.to_json()) == request


@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("GPU-3f", 1)])
def test_the_local_node_has_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_node().num_gpus == count
