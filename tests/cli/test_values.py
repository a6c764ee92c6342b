"""Values of the command line are put in where they belong, or refused with the neighbours of the key."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mml_ray.composition.overrides import read
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.composition.values import apply
from mml_ray.errors import MMLMisconfigurationException

TREE = ConfigTree((PACKAGED,))
SETTINGS: dict[str, Any] = {
    "seed": 42,
    "proj": "default",
    "where": "${out_dir}/x",
    "trainer": {"max_epochs": 50, "min_epochs": 10, "precision": "auto", "benchmark": True},
    "optimizer": {"name": "adam", "lr": 0.001, "betas": [0.9, 0.999]},
    "loss": {"cls": [{"type": "cross_entropy", "params": {}}]},
    "arch": {"name": "a", "params": {}},
    "augmentations": {"cpu": {"backend": "albumentations", "pipeline": [{"name": "Flip"}]}},
    "resources": {"default": {"num_cpus": "auto", "num_gpus": "auto", "custom": {}}},
    "mode": {"cv": True, "multitask": False, "eval_on": None},
}


def after(*arguments: str) -> dict[str, Any]:
    settings = copy.deepcopy(SETTINGS)
    apply(settings, read(["train", *arguments], TREE).values, TREE.groups)
    return settings


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("seed=7", ["seed"], 7),
        ("trainer.max_epochs=3", ["trainer", "max_epochs"], 3),
        ("optimizer.lr=1", ["optimizer", "lr"], 1),
        ("optimizer.betas=[0.5,0.6]", ["optimizer", "betas"], [0.5, 0.6]),
        ("loss.cls.0.params.label_smoothing=0.1", ["loss", "cls", 0, "params", "label_smoothing"], 0.1),
        ("loss.cls.0.type=dice", ["loss", "cls", 0, "type"], "dice"),
        ("arch.params.depth=3", ["arch", "params", "depth"], 3),
        ("where=${proj}", ["where"], "${proj}"),
        ("seed=${trainer.max_epochs}", ["seed"], "${trainer.max_epochs}"),
        ("+trainer.limit_train_batches=2", ["trainer", "limit_train_batches"], 2),
        ("+brand.new.key=a", ["brand", "new", "key"], "a"),
        ("++seed=5", ["seed"], 5),
        ("resources.step_a.num_gpus=0.5", ["resources", "step_a"], {"num_cpus": "auto", "num_gpus": 0.5, "custom": {}}),
        ("resources.step_a.custom.licence=1", ["resources", "step_a", "custom"], {"licence": 1}),
        ("augmentations.cpu={}", ["augmentations", "cpu"], {}),
    ],
)
def test_put_in(text: str, path: list[Any], value: Any) -> None:
    node: Any = after(text)
    for part in path:
        node = node[part]
    assert node == value


def test_a_mapping_is_merged_and_an_empty_one_empties() -> None:
    assert after("augmentations.cpu={backend:kornia}")["augmentations"]["cpu"]["pipeline"] == [{"name": "Flip"}]
    assert after("augmentations.cpu={}")["augmentations"]["cpu"] == {}


def test_entries_of_resources_do_not_share_their_parts() -> None:
    settings = after("resources.a.custom.x=1")
    assert settings["resources"]["default"]["custom"] == {}


def test_delete() -> None:
    assert "seed" not in after("~seed")
    assert "seed" not in after("~seed=42")
    assert "lr" not in after("~optimizer.lr")["optimizer"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer.max_epoch=3", "Did you mean: trainer.max_epochs"),
        ("trainer.max_epoch=3", r"A new key needs a plus sign: \+trainer.max_epoch=3"),
        ("max_epochs=3", r"Did you mean: trainer.max_epochs\?"),
        ("optimzer=sgd", "Did you mean: optimizer"),
        ("optimizer.zzz=1", "Available: optimizer.betas, optimizer.lr, optimizer.name"),
        ("mode.cvv=true", r"Did you mean: mode.cv\?"),
        ("qqqq=1", "--cfg job shows all keys"),
        ("resources.step_a.num_gpu=1", "Did you mean: resources.step_a.num_gpus"),
        ("augmentations.cpu=3", "holds other keys and cannot be 3; set one of them: augmentations.cpu.backend"),
        ("loss.cls.1.type=a", "'1' must be a position in a list of 1"),
        ("loss.cls.x.type=a", "'x' must be a position"),
        ("+seed=3", "leave out the plus sign: seed=3"),
        ("+seed.x=3", r"'seed' is a value \(42\) and can hold no keys"),
        ("~nope", "Unknown key 'nope'"),
        ("~seed=3", "its value is 42"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        after(text)


def test_no_plus_sign_is_advised_below_a_value() -> None:
    with pytest.raises(MMLMisconfigurationException) as caught:
        after("seed.x=3")
    assert "plus sign" not in str(caught.value)


def test_a_key_that_holds_others_names_them() -> None:
    with pytest.raises(MMLMisconfigurationException, match="arch.params holds other keys"):
        after("arch.params=3")
