"""The configuration tree as folders and files: which groups there are, and which options each of them has.

Reads names and first comment lines only: no hydra, no YAML parser.
"""

from __future__ import annotations

import importlib.util
import re
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

    def key_comments(self, preferred: Iterable[str] = ()) -> dict[str, str]:
        """Dotted key of a setting to its comment, from the ``preferred`` option files or else from any of its group."""
        found: dict[str, str] = {}
        for path in [*(self.files[name] for name in preferred if name in self.files), *self.files.values()]:
            for key, comment in commented_keys(path.read_text(encoding="utf-8"), self._group_of(path)):
                if comment:
                    found.setdefault(key, comment)
        return found

    def _group_of(self, path: Path) -> str:
        root = next(root for root in self.roots if path.is_relative_to(root))
        return path.parent.relative_to(root).as_posix().replace("/", ".").removeprefix(".")

    def describe(self, name: str) -> str:
        """The first comment line of ``group/option``, or nothing."""
        return next(iter(self.comments(name)), "")


def commented_keys(text: str, group: str) -> Iterator[tuple[str, str]]:
    """(dotted key, comment) of every mapping key outside lists; a file's first comment line is about the file, not about its first key.

    ``group`` is where the keys belong unless the file names a package.
    """
    package = re.search(r"^# *@package +(\S+)", text, re.MULTILINE)
    place = package[1].replace("_global_", "") if package else group
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    lines = [line for line in text.splitlines() if not line.startswith("# @package")]
    for line in lines[1:]:
        key = re.match(r"^( *)([\w.]+):(?: |$)", line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
            continue
        if key is not None and not (len(key[1]) == 0 and key[2] == "defaults"):
            depth = len(key[1])
            while parents and parents[-1][0] >= depth:
                parents.pop()
            if not any(name == "" for _, name in parents):
                yield ".".join(filter(None, [place, *(name for _, name in parents), key[2]])), " ".join(comment)
            parents.append((depth, key[2]))
        elif line.lstrip().startswith("- "):
            parents.append((len(line) - len(line.lstrip()), ""))  # keys inside lists are arguments of what the list holds
        comment = []


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
