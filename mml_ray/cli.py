"""The command ``mml-ray``: arguments in, exit code out. What to do is decided elsewhere."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Sequence

from mml_ray.console.flags import CommandLine, parse
from mml_ray.console.messages import guarded
from mml_ray.errors import EXIT_OK

#: commands that are no modes: name -> "module:function", called with the arguments behind the name
SUBCOMMANDS = {"runs": "mml_ray.console.runs:main"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: dispatch(arguments), debug="--debug" in arguments)


def dispatch(arguments: list[str]) -> int:
    """Do what the arguments ask for. Raises ``MMLError`` for what is wrong with them."""
    if not arguments:
        return _bare()
    if arguments[0] in SUBCOMMANDS:
        return _subcommand(arguments[0], [argument for argument in arguments[1:] if argument != "--debug"])
    line = parse(arguments)
    return _ACTIONS[line.action](line)


def _bare() -> int:
    from mml_ray.console.help import bare

    print(bare())
    return EXIT_OK


def _subcommand(name: str, arguments: list[str]) -> int:
    module, _, function = SUBCOMMANDS[name].partition(":")
    return int(getattr(importlib.import_module(module), function)(arguments))


def _help(line: CommandLine) -> int:
    from mml_ray import env
    from mml_ray.composition.tree import config_tree
    from mml_ray.console.help import of_mode, overview

    env.load()
    mode = next((argument for argument in line.rest if "=" not in argument), None)
    width = min(shutil.get_terminal_size((110, 24)).columns, 120)
    print(of_mode(config_tree(), mode) if mode else overview(config_tree(), width))
    return EXIT_OK


def _version(line: CommandLine) -> int:
    from mml_ray import plugins
    from mml_ray.console.help import version

    print(version(plugins.load()))
    return EXIT_OK


def _cfg(line: CommandLine) -> int:
    from omegaconf import OmegaConf

    from mml_ray import api

    request = api.compose_run(line.rest, line.run_flags)
    for notice in request.notices:
        print(notice, file=sys.stderr)
    print(OmegaConf.to_yaml(request.cfg, resolve=line.resolve), end="")
    return EXIT_OK


def _install(line: CommandLine) -> int:
    from mml_ray.console.completion import script

    print(script(line.shell), end="")
    return EXIT_OK


def _complete(line: CommandLine) -> int:
    from mml_ray import env
    from mml_ray.console.completion import candidates

    env.load()
    for candidate in candidates(line.rest[0] if line.rest else "", line.shell):
        print(candidate)
    return EXIT_OK


def _run(line: CommandLine) -> int:
    from mml_ray import api

    return api.run(line.rest, line.run_flags)


_ACTIONS: dict[str, Callable[[CommandLine], int]] = {
    "run": _run,
    "help": _help,
    "version": _version,
    "cfg": _cfg,
    "install-completion": _install,
    "complete": _complete,
}
