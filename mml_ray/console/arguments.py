"""The arguments of ``mml-ray``: the table of subcommands, and one parser for what stands anywhere between a mode and its overrides."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from mml_ray.composition.request import RunFlags
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Subcommand:
    """A command that is not a mode. ``module`` has ``configure(parser)`` and ``run(arguments) -> exit code``."""

    name: str
    help: str
    module: str

    @property
    def parser(self) -> Parser:
        """The parser of its arguments."""
        parser = Parser(prog=f"mml-ray {self.name}", description=self.help[0].upper() + self.help[1:] + ".")
        importlib.import_module(self.module).configure(parser)
        return parser

    def run(self, argv: Sequence[str]) -> int:
        """Run it with the arguments that follow its name."""
        return int(importlib.import_module(self.module).run(self.parser.parse_args(list(argv))))


#: every subcommand; help, completion and ``cli.py`` read this table
SUBCOMMANDS = {
    item.name: item
    for item in (
        Subcommand("runs", "list runs, show or verify one (--json for programs)", "mml_ray.console.runs"),
        Subcommand("env-setup", "write an env file: where data and results go", "mml_ray.console.env_setup"),
        Subcommand("copy-conf", "copy the configuration to ./configs, to be edited", "mml_ray.console.copy_conf"),
    )
}


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments in the words of all other messages instead of exiting."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raises MMLMisconfigurationException; an unknown name: UnknownNameError."""
        if match := re.match(r"unrecognized arguments: (-[^\s=]*)", message):
            raise UnknownNameError.of("flag", match[1], self.flags(), f"{self.prog} --help describes them.")
        if match := re.match(r"argument ([^/\s]+)\S*: invalid choice: '(.*)' \(choose from (.*)\)", message):
            kind = f"value of {match[1]}" if match[1].startswith("-") else f"{match[1]} of {self.prog}"
            raise UnknownNameError.of(kind, match[2], re.findall(r"[\w.-]+", match[3]))
        if match := re.match(r"argument (--[^/\s]+)\S*: expected", message):
            action = self._option_string_actions[match[1]]
            raise MMLMisconfigurationException(f"{match[1]} needs a value: {match[1]} {action.metavar or ''}".rstrip())
        if match := re.match(r"argument (--[^/\s]+)\S*: ignored explicit argument '(.*)'", message):
            values = [flag.partition("=")[2] for flag in self._option_string_actions if flag.startswith(f"{match[1]}=")]
            if values:
                raise UnknownNameError.of(f"value of {match[1]}", match[2], values)
            raise MMLMisconfigurationException(f"{match[1]} takes no value, got '{match[2]}'.")
        raise MMLMisconfigurationException(f"{self.prog}: {message} ({self.prog} --help tells more).")

    def flags(self) -> list[str]:
        """Its flags, without hidden ones; ``--plan=json`` is one, since it can be completed."""
        return [flag for flag in self._option_string_actions if flag != "--complete"]

    def described_flags(self) -> dict[str, str]:
        """``{"--flag VALUE": help}`` for the overview."""
        shown = (action for action in self._actions if action.option_strings and action.help != argparse.SUPPRESS)
        return {" ".join(filter(None, (action.option_strings[0], action.metavar))): action.help or "" for action in shown}  # type: ignore[arg-type]

    def choices(self) -> list[str]:
        """What its first positional argument may be, where that is a choice."""
        first = next((action for action in self._actions if not action.option_strings), None)
        return [str(choice) for choice in first.choices or ()] if first is not None else []


class CommandLine(argparse.Namespace):
    """One call: what to do, the flags of the run, and the rest (mode and overrides, in order)."""

    action: Literal["", "help", "version", "schema"]
    shown: Literal["", "job"]
    resolve: bool
    plan: Literal["", "text", "json"]
    auto_continue: bool
    debug: bool
    install: str
    #: shell and the line up to the cursor
    complete: list[str]
    rest: list[str]

    @property
    def run_flags(self) -> RunFlags:
        """Those that concern a run."""
        return RunFlags(plan=self.plan or "", debug=self.debug, auto_continue=self.auto_continue)


def main_parser() -> Parser:
    """The parser of modes, overrides and flags. ``--flag value`` and ``--flag=value`` mean the same."""
    parser = Parser(prog="mml-ray", add_help=False)
    add = parser.add_argument

    def action(*flags: str, does: str, text: str) -> None:
        add(*flags, dest="action", action="store_const", const=does, help=text)

    add("rest", nargs="*")
    action("--help", "-h", does="help", text="show this; behind a mode: its parameters (also -h)")
    action("--version", does="version", text="show the versions of mml-ray and its plugins")
    text = "print the configuration instead of running it (also -c job)"
    add("--cfg", "-c", dest="shown", choices=["job"], metavar="job", help=text)
    action("--schema", does="schema", text="print the JSON schema of the configuration; behind a mode: with its parameters")
    add("--resolve", action="store_true", help="with --cfg job: replace ${references} by what they stand for")
    text = "print what would be done instead of doing it; --plan=json for programs"
    add("--plan", "--plan=text", action="store_const", const="text", help=text)
    add("--plan=json", dest="plan", action="store_const", const="json", help=argparse.SUPPRESS)
    text = "continue the unfinished run of the same plan, if there is one; else start it"
    add("--auto-continue", action="store_true", help=text)
    add("--debug", action="store_true", help="show the traceback of an error")
    text, names = "print the completion script for bash, zsh or fish", ("--install-completion", "-sc", "--shell-completion")
    add(*names, dest="install", type=_shell, choices=SHELLS, metavar="SHELL", help=text)
    add("--complete", nargs=2, help=argparse.SUPPRESS)
    return parser


def _shell(value: str) -> str:
    return value.removeprefix("install=")  # hydra's spelling: -sc install=bash


def parse(argv: Sequence[str]) -> CommandLine:
    """Sort the arguments of one call.

    Raises:
        UnknownNameError: an unknown flag, with the nearest ones.
        MMLMisconfigurationException: a flag without its value.
    """
    return main_parser().parse_intermixed_args(list(argv), namespace=CommandLine())
