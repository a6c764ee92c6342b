"""Flags are told apart from overrides, in any place and both spellings."""

from __future__ import annotations

import pytest

from mml_ray.console.flags import parse
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError


def test_mode_and_overrides_keep_their_order() -> None:
    line = parse(["train", "--debug", "tasks=digits", "--auto-continue", "seed=3"])
    assert line.action == "run"
    assert line.rest == ["train", "tasks=digits", "seed=3"]
    assert line.run_flags.debug and line.run_flags.auto_continue and line.run_flags.plan == ""


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (["--help"], "help"),
        (["-h"], "help"),
        (["train", "--help"], "help"),
        (["train", "--version"], "version"),
        (["train", "--cfg", "job"], "cfg"),
        (["train", "--cfg=job"], "cfg"),
        (["-c", "job", "train"], "cfg"),
        (["train"], "run"),
    ],
)
def test_action(arguments: list[str], action: str) -> None:
    assert parse(arguments).action == action


@pytest.mark.parametrize(("flag", "plan"), [("--plan", "text"), ("--plan=text", "text"), ("--plan=json", "json")])
def test_plan(flag: str, plan: str) -> None:
    line = parse(["train", flag, "seed=1"])
    assert line.plan == plan
    assert line.rest == ["train", "seed=1"], "--plan must not swallow what follows"


@pytest.mark.parametrize("arguments", [["--install-completion", "zsh"], ["--install-completion=zsh"], ["-sc", "install=zsh"]])
def test_spellings_of_install_completion(arguments: list[str]) -> None:
    line = parse(arguments)
    assert (line.action, line.shell) == ("install-completion", "zsh")


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
