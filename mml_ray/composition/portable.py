"""A configuration as plain data that means the same in any process."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

#: the call of a resolver; a reference to another setting has no colon
_CALL = re.compile(r"\$\{[^{}]*:")


def plain(cfg: DictConfig, key: str = "") -> dict[str, Any]:
    """The configuration, or one group of it, as plain data with its references resolved; empty if there is no such group."""
    node = OmegaConf.select(cfg, key, default=None) if key else cfg
    content = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else {}
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}


def portable(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain data that means the same in any process: what resolvers give (``${oc.env:NAME}``) is put in.

    References between settings (``${trainer.max_epochs}``) stay, so that they follow a blueprint that replaces what they refer to.
    """
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    _put_in(content, cfg)
    return {str(key): value for key, value in content.items()}


def _put_in(content: Any, cfg: Any) -> None:
    for key in content if isinstance(content, dict) else range(len(content)):
        value = content[key]
        if isinstance(value, dict | list):
            _put_in(value, cfg[key])
        elif isinstance(value, str) and _CALL.search(value):
            found = cfg[key]
            content[key] = _escaped(OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found)


def _escaped(value: Any) -> Any:
    """A value that is read back as it is, also where it contains ``${``."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
