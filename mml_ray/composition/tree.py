"""The configuration tree as folders and files: which groups there are, and which options each of them has.

Reads names and first comment lines only: no hydra, no YAML parser.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mml_ray import env, plugins
from mml_ray.errors import MMLMisconfigurationException

PACKAGED = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class ConfigTree:
    """Configuration folders, the first one wins: the user's, the packaged one, those of the plugins."""

    roots: tuple[Path, ...]

    @cached_property
    def files(self) -> dict[str, Path]:
        """``group/option`` (or the name of a main file) to its YAML file."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for path in sorted(root.rglob("*.yaml")):
                found.setdefault(path.relative_to(root).with_suffix("").as_posix(), path)
        return found

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group (``loss``, ``loss/cls``) to its options, both sorted; a leading underscore hides an option."""
        groups: dict[str, list[str]] = {}
        for name in self.files:
            group, _, option = name.rpartition("/")
            if group and not option.startswith("_"):
                groups.setdefault(group, []).append(option)
        return {group: sorted(groups[group]) for group in sorted(groups)}

    @property
    def modes(self) -> list[str]:
        """The options of the group ``mode``."""
        return self.groups.get("mode", [])

    def comments(self, name: str) -> list[str]:
        """The comment lines that a file begins with, without the package line."""
        lines: list[str] = []
        for line in _lines(self.files[name]):
            if not line.startswith("#"):
                break
            if not line.startswith("# @package"):
                lines.append(line.removeprefix("#").strip())
        return lines

    def describe(self, name: str) -> str:
        """The first comment line of ``group/option``, or nothing."""
        return next(iter(self.comments(name)), "")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n")


def config_tree() -> ConfigTree:
    """The tree of this process: ``MML_CONFIGS_PATH``, the package, then every plugin that offers configuration."""
    own = env.configs_path()
    packages = [plugin.config_package for plugin in plugins.load() if plugin.config_package]
    return ConfigTree(tuple(([own] if own else []) + [PACKAGED] + list(_package_folders(packages))))


def _package_folders(packages: Iterable[str]) -> Iterator[Path]:
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except ImportError as error:
            message = f"The configuration package '{package}' of a plugin is not there: {error}"
            raise MMLMisconfigurationException(message) from error
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not folders:
            raise MMLMisconfigurationException(f"The configuration package '{package}' of a plugin is not a package.")
        yield from (Path(folder) for folder in folders)
