"""The texts of bare ``mml-ray``, ``--help``, ``<mode> --help`` and ``--version``."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

from mml_ray import __version__, env
from mml_ray.composition.tree import ConfigTree
from mml_ray.console.arguments import SUBCOMMANDS, main_parser
from mml_ray.errors import UnknownNameError
from mml_ray.plugins import Plugin

SLOGAN = "cross-validated deep learning on images that survives anything"
EXAMPLES = """\
  A task out of images that come along:
    mml-ray create tasks=digits
  Five nested folds, side by side; predictions and metrics for each:
    mml-ray train tasks=digits mode.subroutines=[train,predict,test]
  Only show what would be done:
    mml-ray train tasks=digits --plan
  Go on where the last run was killed:
    mml-ray continue=latest
  A task of your own, one folder for each class:
    mml-ray create tasks=from_folder source.name=cells source.path=cells.zip
  Settings:
    mml-ray train tasks=digits arch.drop_rate=0.2 trainer.max_epochs=20
"""


def bare() -> str:
    """What ``mml-ray`` alone says."""
    location = os.environ.get(env.LOCATION) or "not set"
    return (
        f"mml-ray {__version__}: {SLOGAN}\n\n"
        "  mml-ray --help               modes, groups, flags, examples\n"
        "  mml-ray create tasks=digits  a first task, then:\n"
        "  mml-ray train tasks=digits   five nested folds of it\n\n"
        f"{env.LOCATION}: {location}"
    )


def version(plugins: tuple[Plugin, ...]) -> str:
    """The version, then those of the plugins by name."""
    return "\n".join([f"mml-ray {__version__}", "---", *(f"{plugin.name} {plugin.version}" for plugin in plugins)])


def overview(tree: ConfigTree, width: int) -> str:
    """The whole ``--help``: modes, commands, flags and groups with their options (the default one with a star)."""
    defaults = _defaults(tree)
    modes = {mode: tree.describe(f"mode/{mode}") for mode in tree.modes}
    groups = {
        group: " ".join(f"{option}*" if option in defaults.get(group, ()) else option for option in options)
        for group, options in tree.groups.items()
        if group != "mode"
    }
    return "\n".join(
        [
            f"mml-ray {__version__}: {SLOGAN}",
            "",
            "Usage: mml-ray <mode> [group=option ...] [key=value ...] [flags]",
            "",
            _section("Modes (mml-ray <mode> --help shows the parameters of one)", modes, width),
            _section("Other commands (mml-ray <command> --help)", {name: item.help for name, item in SUBCOMMANDS.items()}, width),
            _section("Flags", main_parser().described_flags(), width),
            _section("Groups and options (* by default; some take a list: callbacks=[early,swa])", groups, width),
            "Overrides:\n  key=value changes, +key=value adds, ~key deletes; dots lead inwards:\n  trainer.max_epochs=3\n",
            f"Examples:\n{EXAMPLES}",
        ]
    ).rstrip()


def of_mode(tree: ConfigTree, mode: str) -> str:
    """The parameters of a mode with their comments, as its file gives them (and the file it builds on)."""
    if mode not in tree.modes:
        raise UnknownNameError.of("mode", mode, tree.modes, "mml-ray --help describes them.")
    text = tree.files[f"mode/{mode}"].read_text(encoding="utf-8")
    parts = [f"mml-ray {mode}: {tree.describe(f'mode/{mode}')}", ""]
    base = next((entry for entry in _entries(text) if entry in tree.modes), None)
    if base is not None:
        parts += [f"As mode {base} (mml-ray {base} --help), with:", ""]
    parts.append(_block(text, "mode") or "It has no parameters.")
    overrides = re.findall(r"^ *- override /([^:]+): (.+)$", text, flags=re.MULTILINE)
    if overrides:
        parts += ["", "It chooses other defaults: " + ", ".join(f"{group}={option.strip()}" for group, option in overrides)]
    parts += ["", f"Change a parameter with mode.<name>=<value>, as in: mml-ray {mode} mode.subroutines=[...]"]
    return "\n".join(parts)


def _section(title: str, entries: dict[str, str], width: int) -> str:
    if not entries:
        return f"{title}:\n  (none)\n"
    left = min(max(len(name) for name in entries) + 2, 30)
    lines = [
        textwrap.fill(text, width, initial_indent=f"  {name:<{left}}", subsequent_indent=" " * (left + 2), break_on_hyphens=False)
        for name, text in entries.items()
    ]
    return "\n".join([f"{title}:", *lines, ""])


def _defaults(tree: ConfigTree) -> dict[str, tuple[str, ...]]:
    main = tree.files.get(env.config_name())
    found: dict[str, tuple[str, ...]] = {}
    if main is not None:
        found.update(_choices(main, ""))
    for group, options in tree.groups.items():  # the defaults of sub-groups stand in the option that is chosen
        for option in found.get(group, options[:1]):
            if option in options:
                found.update(_choices(tree.files[f"{group}/{option}"], f"{group}/"))
    return found


def _choices(path: Path, prefix: str) -> dict[str, tuple[str, ...]]:
    pairs = re.findall(r"^ *- ([\w/]+): ([\w.]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {f"{prefix}{group}": (option,) for group, option in pairs}


def _entries(text: str) -> list[str]:
    return re.findall(r"^ *- (\w+) *$", _block(text, "defaults"), flags=re.MULTILINE)


def _block(text: str, key: str) -> str:
    """The lines below a top-level key, dedented."""
    match = re.search(rf"^{key}:\n((?:[ \t]+.*\n|\s*\n)+)", text + "\n", flags=re.MULTILINE)
    return textwrap.dedent(match[1]).strip("\n") if match else ""
