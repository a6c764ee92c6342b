"""The command ``mml-ray``: arguments in, exit code out. What to do is decided elsewhere."""

from __future__ import annotations

import json
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
    if arguments and not (line.action or line.install or line.complete or line.shown):
        from mml_ray import api

        return api.run(line.rest, line.run_flags)
    if text := _answer(line):
        print(text)
    return EXIT_OK


def _answer(line: CommandLine) -> str:
    """What is printed where nothing is run."""
    from mml_ray import env, plugins

    if line.action == "help":
        return _help(line)
    if line.action == "version":
        from mml_ray.console.help import version

        return version(plugins.load())
    if line.install:
        from mml_ray.console.completion import SCRIPTS

        return SCRIPTS[line.install].rstrip()
    if line.complete:
        from mml_ray.console.completion import candidates

        env.load()
        shell, words = line.complete
        return "\n".join(candidates(words, shell))
    if line.action == "schema":
        from mml_ray import api

        return json.dumps(api.configuration_schema(line.rest), indent=2)
    if line.shown:
        return _configuration(line)
    from mml_ray.console.help import bare

    return bare()


def _help(line: CommandLine) -> str:
    from mml_ray import env
    from mml_ray.composition.tree import config_tree
    from mml_ray.console.help import of_mode, overview

    env.load()
    mode = next((argument for argument in line.rest if "=" not in argument), None)
    width = min(shutil.get_terminal_size((110, 24)).columns, 120)
    return of_mode(config_tree(), mode) if mode else overview(config_tree(), width)


def _configuration(line: CommandLine) -> str:
    from omegaconf import OmegaConf

    from mml_ray import api

    request = api.compose_run(line.rest, line.run_flags)
    for notice in request.notices:
        print(notice, file=sys.stderr)
    return OmegaConf.to_yaml(request.cfg, resolve=line.resolve).rstrip()
