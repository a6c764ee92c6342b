"""Flags are told apart from overrides, in any place and both spellings."""

from __future__ import annotations

import pytest

from mml_ray.console.arguments import SUBCOMMANDS, parse
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError


def test_mode_and_overrides_keep_their_order() -> None:
    line = parse(["train", "--debug", "tasks=digits", "--auto-continue", "seed=3"])
    assert not line.action and not line.shown
    assert line.rest == ["train", "tasks=digits", "seed=3"]
    assert line.run_flags.debug and line.run_flags.auto_continue and line.run_flags.plan == ""


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (["--help"], "help"),
        (["-h"], "help"),
        (["train", "--help"], "help"),
        (["train", "--version"], "version"),
        (["train"], None),
    ],
)
def test_action(arguments: list[str], action: str | None) -> None:
    assert parse(arguments).action == action


@pytest.mark.parametrize("arguments", [["train", "--cfg", "job"], ["train", "--cfg=job"], ["-c", "job", "train"]])
def test_spellings_of_cfg(arguments: list[str]) -> None:
    line = parse(arguments)
    assert (line.shown, line.rest) == ("job", ["train"])


@pytest.mark.parametrize(("flag", "plan"), [("--plan", "text"), ("--plan=text", "text"), ("--plan=json", "json")])
def test_plan(flag: str, plan: str) -> None:
    line = parse(["train", flag, "seed=1"])
    assert line.plan == plan
    assert line.rest == ["train", "seed=1"], "--plan must not swallow what follows"


@pytest.mark.parametrize("arguments", [["--install-completion", "zsh"], ["--install-completion=zsh"], ["-sc", "install=zsh"]])
def test_spellings_of_install_completion(arguments: list[str]) -> None:
    assert parse(arguments).install == "zsh"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hepl"], "--help"),
        (["--cfg"], "--cfg job"),
        (["--cfg", "--debug"], "--cfg job"),
        (["--cfg=hydra"], "job"),
        (["--plan=yaml"], "json"),
        (["--debug=true"], "takes no value"),
        (["--install-completion", "tcsh"], "bash"),
        (["--multirun"], "Unknown flag '--multirun'"),
    ],
)
def test_wrong_flags_name_what_is_right(arguments: list[str], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        parse(arguments)


def test_the_hidden_flag_is_not_offered() -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse(["--complte"])
    assert "--complete" not in str(caught.value)


def test_every_subcommand_has_help_and_its_own_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in SUBCOMMANDS.items():
        assert command.help and command.parser.prog == f"mml-ray {name}"
        with pytest.raises(SystemExit):
            command.run(["--help"])
        assert f"usage: mml-ray {name}" in capsys.readouterr().out
