"""The command ``mml-ray``: arguments in, exit code out. What to do is decided elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from mml_ray.console.arguments import SUBCOMMANDS, CommandLine, parse
from mml_ray.console.messages import guarded
from mml_ray.errors import EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: dispatch(arguments), debug="--debug" in arguments)


def env_setup(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mml-ray-env-setup``."""
    return main(["env-setup", *(sys.argv[1:] if argv is None else argv)])


def copy_conf(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mml-ray-copy-conf``."""
    return main(["copy-conf", *(sys.argv[1:] if argv is None else argv)])


def dispatch(arguments: list[str]) -> int:
    """Do what the arguments ask for. Raises ``MMLError`` for what is wrong with them."""
    if arguments and arguments[0] in SUBCOMMANDS:
        return SUBCOMMANDS[arguments[0]].run([argument for argument in arguments[1:] if argument != "--debug"])
    line = parse(arguments)
    if line.action == "help":
        return _help(line)
    if line.action == "version":
        return _version()
    if line.install:
        return _install(line)
    if line.complete:
        return _complete(line)
    if line.action == "schema":
        return _schema(line)
    if line.shown:
        return _show_configuration(line)
    return _run(line) if arguments else _bare()


def _bare() -> int:
    from mml_ray.console.help import bare

    print(bare())
    return EXIT_OK


def _help(line: CommandLine) -> int:
    from mml_ray import env
    from mml_ray.composition.tree import config_tree
    from mml_ray.console.help import of_mode, overview

    env.load()
    mode = next((argument for argument in line.rest if "=" not in argument), None)
    width = min(shutil.get_terminal_size((110, 24)).columns, 120)
    print(of_mode(config_tree(), mode) if mode else overview(config_tree(), width))
    return EXIT_OK


def _version() -> int:
    from mml_ray import plugins
    from mml_ray.console.help import version

    print(version(plugins.load()))
    return EXIT_OK


def _show_configuration(line: CommandLine) -> int:
    from omegaconf import OmegaConf

    from mml_ray import api

    request = api.compose_run(line.rest, line.run_flags)
    for notice in request.notices:
        print(notice, file=sys.stderr)
    print(OmegaConf.to_yaml(request.cfg, resolve=line.resolve), end="")
    return EXIT_OK


def _schema(line: CommandLine) -> int:
    import json

    from mml_ray import api

    print(json.dumps(api.configuration_schema(line.rest), indent=2))
    return EXIT_OK


def _install(line: CommandLine) -> int:
    from mml_ray.console.completion import SCRIPTS

    print(SCRIPTS[line.install], end="")
    return EXIT_OK


def _complete(line: CommandLine) -> int:
    from mml_ray import env
    from mml_ray.console.completion import candidates

    env.load()
    shell, words = line.complete
    for candidate in candidates(words, shell):
        print(candidate)
    return EXIT_OK


def _run(line: CommandLine) -> int:
    from mml_ray import api

    return api.run(line.rest, line.run_flags)
