"""The registry: modules that fill a kind are imported when it is asked for, once, whoever asks."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mml_ray import registry as module
from mml_ray.errors import UnknownNameError
from mml_ray.registry import Registry

SLOW = """
import time
from {here} import REGISTRIES
time.sleep(0.2)
for registry in REGISTRIES:
    registry.add("gadget", "lamp", object())
    assert registry.names("gadget")  # asks while it is being imported
"""
REGISTRIES: list[Registry] = []


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry, and a module ``slow_gadgets`` that fills it."""
    monkeypatch.setattr(module, "PROVIDERS", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_gadgets", raising=False)
    (tmp_path / "slow_gadgets.py").write_text(SLOW.format(here=__name__))
    REGISTRIES[:] = [Registry()]
    return REGISTRIES[0]


def test_a_module_is_imported_when_its_kind_is_asked_for(fresh: Registry) -> None:
    fresh.provide("gadget", "slow_gadgets")
    fresh.provide("gadget", "slow_gadgets")
    assert fresh.names("tool") == [] and "slow_gadgets" not in sys.modules
    assert fresh.names("gadget") == ["lamp"] and "slow_gadgets" in sys.modules


def test_threads_that_ask_at_once_all_find_it(fresh: Registry) -> None:
    fresh.provide("gadget", "slow_gadgets")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fresh.find("gadget", "lamp"), range(8)))
    assert None not in found


def test_a_module_that_comes_late_is_imported_at_once(fresh: Registry) -> None:
    with pytest.raises(UnknownNameError, match="lamp"):
        fresh.lookup("gadget", "lamp")
    fresh.provide("gadget", "slow_gadgets")
    assert fresh.names("gadget") == ["lamp"]


def test_a_module_that_cannot_be_imported_is_tried_again(fresh: Registry, tmp_path: Path) -> None:
    fresh.provide("gadget", "broken_gadgets")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="broken_gadgets"):
            fresh.names("gadget")


def test_the_most_specific_base_says_the_kind() -> None:
    """A model is a torch module, too, and every module may be a loss."""

    class Module: ...

    class Model(Module): ...

    class Net(Model): ...

    registry = Registry()
    registry.require_base("loss", Module)
    registry.require_base("model", Model)
    registry.register("net")(Net)
    registry.register("hinge")(type("Hinge", (Module,), {}))
    assert registry.names("model") == ["net"] and registry.names("loss") == ["hinge"]
    with pytest.raises(TypeError, match="is not a subclass of any base.*register_loss"):
        registry.register("number")(int)
