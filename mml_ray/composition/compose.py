"""Compose a configuration: hydra reads the tree, we put in the values, resolve and check."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mml_ray import env
from mml_ray.composition import values
from mml_ray.composition.overrides import Arguments, read
from mml_ray.composition.request import RunFlags, RunRequest
from mml_ray.composition.tree import ConfigTree, config_tree
from mml_ray.errors import MMLMisconfigurationException


def compose_run(argv: Sequence[str], flags: RunFlags | None = None) -> RunRequest:
    """The request that the arguments (mode and overrides, no flags) stand for; what its settings mean is checked by ``preflight``.

    Raises:
        UserError: they cannot be read or put together, or a file of the configuration cannot.
    """
    flags = flags or RunFlags()
    tree = config_tree()
    arguments = read(argv, tree)
    settings, choices = _compose_groups(arguments, tree)
    given = values.apply(settings, arguments.values, tree.groups)
    if arguments.verbose:
        flags = replace(flags, verbose=arguments.verbose)
    return RunRequest(
        cfg=_finish(settings),
        overrides=tuple(arguments.texts),
        flags=flags,
        mode=arguments.mode,
        choices=choices,
        notices=tuple(arguments.notices),
        groups=tuple(arguments.groups),
        values=tuple(given),
    )


def _finish(settings: dict[str, Any]) -> DictConfig:
    """The final configuration of plain, unresolved settings: complete and resolvable."""
    missing = [key for key, value in values.walk(settings) if value == "???"]
    if missing:
        raise MMLMisconfigurationException(f"A value is missing for: {', '.join(missing)}. Set it, as in {missing[0]}=...")
    cfg = OmegaConf.create(settings)
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise MMLMisconfigurationException(f"A reference in the configuration cannot be resolved: {_one_line(error)}") from error
    OmegaConf.set_struct(cfg, True)
    return cfg


def settings_of_options(argv: Sequence[str]) -> dict[str, list[str]]:
    """Each argument that chooses an option of a group, but for the mode, and the settings that come from it.

    That is what the composition lacks without the group. Where it cannot be composed without (something overrides its option): all
    of the setting that is called like the group.
    """
    tree = config_tree()
    arguments = read(argv, tree)
    settings, _ = _compose_groups(arguments, tree)
    found: dict[str, list[str]] = {}
    for text in arguments.groups:
        group = text.lstrip("+~").partition("=")[0]
        if group == "mode":
            continue
        others = [other for other in arguments.groups if other != text]
        without = replace(arguments, groups=others if text.startswith("~") else [*others, f"~{group}"])
        try:
            found[text] = list(_differing(settings, _compose_groups(without, tree)[0]))
        except MMLMisconfigurationException:
            found[text] = [re.split("[/@]", group)[0]]
    return found


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*one, *other]):
        values = one.get(key), other.get(key)
        if key in one and key in other and isinstance(values[0], dict) and isinstance(values[1], dict):
            yield from _differing(values[0], values[1], f"{above}{key}.")
        elif values[0] != values[1] or (key in one) != (key in other):
            yield f"{above}{key}"


class _MoreRoots(SearchPathPlugin):
    """Puts all roots but the first behind it, in the search path of the composition that is going on."""

    roots: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in self.roots:
            search_path.append("mml-ray", f"file://{root}")


@contextlib.contextmanager
def _hydra_over(roots: tuple[Path, ...]) -> Iterator[None]:
    """Hydra, initialized on these roots; whoever had initialized it before finds it as it was."""
    if _MoreRoots not in Plugins.instance().discover(_MoreRoots):
        Plugins.instance().register(_MoreRoots)
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    _MoreRoots.roots = roots[1:]
    try:
        with initialize_config_dir(str(roots[0]), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before  # an instance of hydra's making, after initialize_config_dir
        _MoreRoots.roots = ()


def _compose_groups(arguments: Arguments, tree: ConfigTree) -> tuple[dict[str, Any], dict[str, str]]:
    name = env.config_name()
    if name not in tree.files:
        folders = ", ".join(map(str, tree.roots))
        raise MMLMisconfigurationException(f"MML_CONFIG_NAME={name}: there is no {name}.yaml in {folders}.")
    try:
        with _hydra_over(tree.roots):
            cfg = hydra_compose(name, arguments.groups, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise MMLMisconfigurationException(f"The configuration cannot be composed: {_one_line(error)}") from error
    chosen = {str(group): str(option) for group, option in cfg.hydra.runtime.choices.items()}
    choices = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    settings = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}, choices


def _one_line(error: BaseException) -> str:
    text = str(error) or str(error.__cause__ or type(error).__name__)
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
