"""Settings that are never written down: in the files of a run they stand as a reference to a variable of the environment."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf, open_dict

#: setting, and the variable it is taken from where nobody gives it
SECRETS = {"source.password": "MML_SOURCE_PASSWORD"}


def without_secrets(cfg: DictConfig) -> DictConfig:
    """A copy that may be written to a file."""
    masked = copy.deepcopy(cfg)
    with open_dict(masked):
        for key, variable in SECRETS.items():
            if _is_literal(masked, key):
                OmegaConf.update(masked, key, f"${{oc.env:{variable},null}}")
    return masked


def take_secrets(stored: DictConfig, given: DictConfig) -> None:
    """Put what a new call gives in the place of the references of a stored configuration."""
    with open_dict(stored):
        for key in SECRETS:
            if _is_literal(given, key):
                OmegaConf.update(stored, key, OmegaConf.select(given, key), force_add=True)


def _is_literal(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent, default=None)
    if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_interpolation(node, name):
        return False
    return node[name] is not None
