"""Numbers out of settings, decorators and the size of the nodes."""

from __future__ import annotations

from typing import Any

import pytest

from mml_ray.driver.resources import Node, Resources
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import build
from mml_ray.runs.options import ResourceOptions
from mml_ray.runs.resources import resolve

LAPTOP = Node("laptop", num_cpus=8)
WORKSTATION = Node("workstation", num_cpus=16, num_gpus=2, memory=64 * 2**30)


def _resolve(wanted: dict[str, Any], nodes: list[Node], *, width: int = 5, uses_gpu: bool = True) -> Resources:
    return resolve(build(ResourceOptions, "resources.train_fold", wanted), nodes, width=width, uses_gpu=uses_gpu)


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
    assert _resolve({"memory": value}, [WORKSTATION]).memory == expected


@pytest.mark.parametrize("value", ["much", "4X", "-1", "", "nan"])
def test_wrong_memory_names_the_setting(value: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=r"resources\.train_fold\.memory must be bytes or .*, got '"):
        _resolve({"memory": value}, [WORKSTATION])


@pytest.mark.parametrize("wanted", [{"num_gpus": 1.5}, {"num_cpus": -1}, {"num_cpus": "many"}, {"num_gpus": True}])
def test_wrong_numbers_name_the_setting(wanted: dict[str, Any]) -> None:
    with pytest.raises(MMLMisconfigurationException, match=r"resources\.train_fold\.num_.pus must be "):
        _resolve(wanted, [WORKSTATION])
