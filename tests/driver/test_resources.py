"""Numbers out of settings, and the refusal of what no node can hold."""

from __future__ import annotations

from typing import Any

import pytest

from mml_ray.driver.resources import Node, Resources, check_feasible, local_node, parse_memory, resolve, slots
from mml_ray.errors import InfeasibleResourcesError, MMLMisconfigurationException

LAPTOP = Node("laptop", num_cpus=8)
WORKSTATION = Node("workstation", num_cpus=16, num_gpus=2, memory=64 * 2**30)


def _resolve(wanted: dict[str, Any], nodes: list[Node], *, width: int = 5, uses_gpu: bool = True) -> Resources:
    return resolve(wanted, nodes, width=width, uses_gpu=uses_gpu, where="resources.train_fold")


def test_auto_shares_the_cpus_of_the_largest_node_among_the_folds() -> None:
    assert _resolve({"num_cpus": "auto"}, [LAPTOP]).num_cpus == 1
    assert _resolve({"num_cpus": "auto"}, [LAPTOP], width=1).num_cpus == 8
    assert _resolve({}, [LAPTOP], width=3).num_cpus == 2


def test_auto_takes_one_gpu_where_there_is_one_and_shares_the_cpus_by_gpus() -> None:
    chosen = _resolve({"num_gpus": "auto", "num_cpus": "auto"}, [WORKSTATION])
    assert (chosen.num_gpus, chosen.num_cpus) == (1, 8)
    assert _resolve({"num_gpus": "auto"}, [WORKSTATION], uses_gpu=False).num_gpus == 0
    assert _resolve({"num_gpus": "auto"}, [LAPTOP]).num_gpus == 0


@pytest.mark.parametrize(
    ("value", "expected"), [("4GiB", 4 * 2**30), ("4G", 4 * 2**30), (1024, 1024), ("512 MB", 512 * 2**20), ("1.5k", 1536)]
)
def test_memory(value: object, expected: int) -> None:
    assert parse_memory(value, where="resources.x.memory") == expected


@pytest.mark.parametrize("value", ["much", "4X", "-1", "", "nan"])
def test_wrong_memory_names_the_setting(value: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=r"resources\.x\.memory"):
        parse_memory(value, where="resources.x.memory")


@pytest.mark.parametrize("wanted", [{"num_gpus": 1.5}, {"num_cpus": -1}, {"num_cpus": "many"}, {"num_gpus": True}])
def test_wrong_numbers_name_the_setting(wanted: dict[str, Any]) -> None:
    with pytest.raises(MMLMisconfigurationException, match=r"resources\.train_fold\.num_"):
        _resolve(wanted, [WORKSTATION])


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
