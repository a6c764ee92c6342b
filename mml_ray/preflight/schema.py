"""The JSON schema of the whole configuration, for editors and other programs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from mml_ray.composition.request import RunRequest
from mml_ray.composition.tree import config_tree
from mml_ray.options import Options, schema_of
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.general import GeneralOptions
from mml_ray.preflight.groups import FIXED
from mml_ray.prepare.options import SOURCES, SourceOptions
from mml_ray.runs.options import ResourceOptions
from mml_ray.training.options import CALLBACKS, CallbackOptions

#: any setting may refer to another one, or to the environment
_REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}


def configuration_schema(request: RunRequest, facts: ModeFacts) -> dict[str, Any]:
    """The schema of the configuration of a mode: types and bounds by the options, descriptions by the comments of the option files,
    defaults by the request.
    """
    settings = OmegaConf.to_container(request.cfg, resolve=False)
    assert isinstance(settings, dict)
    comments = config_tree().key_comments(f"{group}/{option}" for group, option in request.choices.items())
    schemas: dict[str, Any] = dict(_plain(GeneralOptions)["properties"])
    schemas.update({group: _plain(cls) for group, cls in FIXED.items()})
    sources: list[type[Options]] = [*SOURCES.values(), SourceOptions]
    schemas["source"] = {"anyOf": [_plain(cls) for cls in sources]}
    schemas["cbs"] = _entries(*dict.fromkeys(CALLBACKS.values()), CallbackOptions)
    schemas["resources"] = _entries(ResourceOptions)
    schemas["mode"] = _plain(facts.options) if facts.options is not None else {"type": "object"}
    schemas["search_space"] = {"type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Configuration of mml-ray {facts.name}".rstrip(),
        "type": "object",
        "properties": {key: _described(node, key, settings.get(str(key)), comments) for key, node in schemas.items()},
    }


def _plain(cls: type[Options]) -> dict[str, Any]:
    """The schema of a group with its references replaced, and nothing that only names Python classes."""
    schema = copy.deepcopy(dict(schema_of(cls)))
    definitions = schema.pop("$defs", {})

    def replaced(node: Any) -> Any:
        if isinstance(node, list):
            return [replaced(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return replaced({**definitions[node["$ref"].rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}})
        return {
            key: replaced(value)
            for key, value in node.items()
            if not (key in ("title", "default") and not isinstance(value, dict))
        }

    found: dict[str, Any] = replaced(schema)
    return found


def _entries(*classes: type[Options]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": {"anyOf": [_plain(cls) for cls in classes]}}


def _described(node: Mapping[str, Any], key: str, given: Any, comments: Mapping[str, str]) -> dict[str, Any]:
    """The node with comment and default; values may also be references."""
    made = dict(node)
    if key in comments and ("properties" not in made or "." in key):
        made["description"] = comments[key]
    if "properties" in made:
        inner = given if isinstance(given, Mapping) else {}
        made["properties"] = {
            name: _described(child, f"{key}.{name}", inner.get(name), comments) for name, child in made["properties"].items()
        }
        return made
    if made.get("type") not in ("object", None, "string") or "enum" in made or "const" in made:
        kept = {name: made.pop(name) for name in ("description",) if name in made}
        made = {**kept, "anyOf": [made, _REFERENCE]}
    elif "anyOf" in made and all(branch.get("type") != "object" for branch in made["anyOf"]):
        made["anyOf"] = [*made["anyOf"], _REFERENCE]
    return made if given is None else {**made, "default": given}
