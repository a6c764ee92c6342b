"""Every setting has its comment and its options, and both can be exported as a JSON schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from mml_ray import api, cli
from mml_ray.composition.compose import compose_run
from mml_ray.composition.portable import plain
from mml_ray.composition.tree import PACKAGED, ConfigTree, commented_keys
from mml_ray.composition.values import walk
from mml_ray.preflight.groups import FIXED, find_schema
from mml_ray.schedulers.loading import mode_facts

TREE = ConfigTree((PACKAGED,))
#: mappings whose keys are the user's own, or tell the class of a mode
NAMED = ("search_space.", "tta.variations.", "mode.scheduler.")
#: keys that no options declare, since what they may be is known to a library, to a plugin, or to the backend
OPEN = {
    *("arch.pretrained", "arch.encoder", "arch.weights", "compile.kwargs.mode"),
    *(f"{group}.{route}" for group in ("loss", "metrics") for route in ("cls", "mlcls", "reg", "seg")),
    *(f"loaders.{modality}" for modality in ("image", "mask", "class", "classes", "soft_classes", "value")),
}


def test_every_key_has_a_comment() -> None:
    comments = TREE.key_comments()
    groups = {*FIXED, "cbs", "mode", "source"}
    silent = [
        f"{key} ({name})"
        for name, path in TREE.files.items()
        for key, _ in commented_keys(path.read_text(), name.rpartition("/")[0].replace("/", "."))
        if key not in comments and key not in groups and not key.startswith(NAMED) and not _holds_others(path.read_text(), key)
    ]
    assert silent == []


def _holds_others(text: str, key: str) -> bool:
    """Whether a key of the file is a mapping of settings that have comments of their own."""
    node: Any = yaml.safe_load(text)
    for part in key.split("."):
        node = node.get(part, node) if isinstance(node, dict) else node
    return isinstance(node, dict) and bool(node)


@pytest.mark.parametrize("mode", TREE.modes)
@pytest.mark.parametrize("more", [[], ["callbacks=[early,swa,mixup,cutmix]", "tasks=from_table", "source.name=a"]])
def test_every_key_is_declared_or_open(mode: str, more: list[str]) -> None:
    cfg = compose_run([mode, *more]).cfg
    settings, facts = plain(cfg), mode_facts(cfg)
    undeclared = {
        key
        for key, value in walk(settings)
        if not (isinstance(value, dict) and value) and find_schema(key, settings, facts) is None and not key.startswith(NAMED)
    }
    assert undeclared - OPEN - {"search_space"} == set()


def test_the_schema_tells_types_bounds_comments_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["create", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    folds = schema["properties"]["mode"]["properties"]["n_folds"]
    assert folds["anyOf"][0] == {"exclusiveMinimum": 1, "type": "integer"}
    assert (folds["default"], folds["description"]) == (5, "Folds that the training samples of a new task are split into.")
    assert schema["properties"]["mode"]["additionalProperties"] is False
    assert schema["properties"]["sampling"]["properties"]["cache"]["anyOf"][0]["enum"] == ["auto", "off"]
    assert "$ref" not in json.dumps(schema)


def test_the_schema_has_every_key_of_the_configuration() -> None:
    schema = api.configuration_schema(["train", "tasks=digits"])["properties"]
    settings = OmegaConf.to_container(compose_run(["train", "tasks=digits"]).cfg, resolve=False)
    assert isinstance(settings, dict)
    assert set(settings) - set(schema) == set()
