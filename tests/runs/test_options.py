"""What a run may be told, and in which words the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mml_ray.driver.command import CommandDefaults
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import build
from mml_ray.runs.options import RunOptions
from mml_ray.runs.resources import request_of


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sys": {"executor": "dask"}}, "sys.executor must be auto, inline or ray, got 'dask'."),
        ({"sys": {"retries": {"system": -1}}}, "sys.retries.system must be an integer of at least 0, got -1."),
        ({"sys": {"stall_timeout": 0}}, "sys.stall_timeout must be null or a number greater than 0, got 0."),
        ({"sys": {"on_fail": "stop"}}, "sys has no option 'on_fail'; did you mean 'on_failure'?"),
        ({"resources": {"fit": {"num_gpus": 1.5}}}, "resources.fit.num_gpus must be a whole number above 1, got 1.5."),
        ({"resources": {"fit": {"cpus": 1}}}, "resources.fit has no option 'cpus'; did you mean 'num_cpus' or 'custom'?"),
    ],
)
def test_the_key_is_named_as_it_is_typed(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MMLMisconfigurationException) as caught:
        build(RunOptions, "", given)
    assert str(caught.value) == sentence


def test_a_cluster_comes_from_the_setting_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(given: str | None) -> str:
        return build(RunOptions, "", {"sys": {"address": given}}).cluster_address

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (address(None), address("head:6379"), address("local")) == ("", "head:6379", "")
    monkeypatch.setenv("RAY_ADDRESS", "job:6379")
    assert (address(None), address("head:6379"), address("local")) == ("job:6379", "head:6379", "")


def test_what_is_said_about_one_command_goes_before_its_decorator_and_that_before_the_default() -> None:
    entries = {
        "default": {"num_cpus": 1, "num_gpus": "auto", "memory": "1GiB", "retries": 1},
        "fit": {"num_cpus": 4, "memory": None},
    }
    options = build(RunOptions, "", {"resources": entries})
    chosen = request_of("fit", CommandDefaults(num_cpus=2, num_gpus=0.5), options)
    assert (chosen.num_cpus, chosen.num_gpus, chosen.memory, chosen.retries) == (4, 0.5, 2**30, 1)
    other = request_of("other", None, options)
    assert (other.num_cpus, other.num_gpus) == (1, "auto")
