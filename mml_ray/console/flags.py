"""Flags of the command line, told apart from overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mml_ray.composition.request import RunFlags
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

Action = Literal["run", "help", "version", "cfg", "install-completion", "complete"]

#: flag as shown, what it does
FLAGS: dict[str, str] = {
    "--help": "show this; behind a mode: its parameters (also -h)",
    "--version": "show the versions of mml-ray and its plugins",
    "--cfg job": "print the configuration instead of running it (also -c job); --resolve replaces ${references}",
    "--plan": "print what would be done instead of doing it; --plan=json for programs",
    "--auto-continue": "continue the unfinished run of the same plan, if there is one; else start it",
    "--debug": "show the traceback of an error",
    "--install-completion SHELL": "print the completion script for bash, zsh or fish",
}
SHELLS = ("bash", "zsh", "fish")


@dataclass
class CommandLine:
    """One call: what to do, the flags of the run, and the rest (mode and overrides, in order)."""

    action: Action = "run"
    plan: Literal["", "text", "json"] = ""
    debug: bool = False
    auto_continue: bool = False
    resolve: bool = False
    shell: str = ""
    rest: list[str] = field(default_factory=list)

    @property
    def run_flags(self) -> RunFlags:
        """Those that concern a run."""
        return RunFlags(plan=self.plan, debug=self.debug, auto_continue=self.auto_continue)


def parse(argv: Sequence[str]) -> CommandLine:
    """Sort the arguments. ``--flag value`` and ``--flag=value`` mean the same; unknown flags are errors."""
    line = CommandLine()
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-") or argument == "-":
            line.rest.append(argument)
            continue
        name, equals, value = argument.partition("=")
        _FLAG_READERS.get(name, _unknown)(line, name, value if equals else None, waiting)
    return line


def _unknown(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    known = [flag for flag in _FLAG_READERS if flag != "--complete"]
    raise UnknownNameError.of("flag", name, known, "mml-ray --help describes them.")


def _taken(name: str, value: str | None, waiting: list[str], example: str) -> str:
    if value is None and (not waiting or waiting[0].startswith("-")):
        raise MMLMisconfigurationException(f"{name} needs a value: {name} {example}")
    return waiting.pop(0) if value is None else value


def _bare(name: str, value: str | None) -> None:
    if value is not None:
        raise MMLMisconfigurationException(f"{name}={value}: {name} takes no value.")


def _help(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    _bare(name, value)
    line.action = "help"


def _version(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    _bare(name, value)
    line.action = "version"


def _cfg(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    what = _taken(name, value, waiting, "job")
    if what != "job":
        raise MMLMisconfigurationException(f"{name} {what}: only 'job' can be shown: {name} job")
    line.action = "cfg"


def _resolve(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    _bare(name, value)
    line.resolve = True


def _plan(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    if value not in (None, "text", "json"):
        raise UnknownNameError.of("form of the plan", str(value), ["text", "json"])
    line.plan = "json" if value == "json" else "text"


def _debug(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    _bare(name, value)
    line.debug = True


def _auto_continue(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    _bare(name, value)
    line.auto_continue = True


def _install(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    shell = _taken(name, value, waiting, "bash")
    line.shell = shell.removeprefix("install=")  # hydra's spelling: -sc install=bash
    if line.shell not in SHELLS:
        raise UnknownNameError.of("shell", line.shell, SHELLS)
    line.action = "install-completion"


def _complete(line: CommandLine, name: str, value: str | None, waiting: list[str]) -> None:
    line.shell = _taken(name, value, waiting, "bash")
    line.action = "complete"
    line.rest = waiting[:1]
    waiting.clear()


_FLAG_READERS = {
    "--help": _help,
    "-h": _help,
    "--version": _version,
    "--cfg": _cfg,
    "-c": _cfg,
    "--resolve": _resolve,
    "--plan": _plan,
    "--debug": _debug,
    "--auto-continue": _auto_continue,
    "--install-completion": _install,
    "-sc": _install,
    "--shell-completion": _install,
    "--complete": _complete,
}
