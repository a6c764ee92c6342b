"""What a person sees: every wrong input is one message and exit code 2; what is asked for is passed on whole."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mml_ray import __version__, cli
from mml_ray.composition.request import RunRequest
from mml_ray.console.arguments import SUBCOMMANDS, Subcommand
from mml_ray.errors import CommandError, CommandInterrupted, StorageError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunRequest]:
    """The requests that reach the engine, which says that all went well."""
    requests: list[RunRequest] = []

    def launch(request: RunRequest) -> Any:
        requests.append(request)
        return SimpleNamespace(exit_code=0)

    engine_is(launch, monkeypatch)
    return requests


def engine_is(launch: Callable[[RunRequest], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a function in the place of the module that starts runs."""
    monkeypatch.setitem(sys.modules, "mml_ray.launch", SimpleNamespace(launch=launch))


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ("trian tasks=digits", "train"),
        ("train tasks=digitz", "digits"),
        ("train optimzer=sgd", "optimizer"),
        ("train optimizer=adm", "adam"),
        ("train trainer.max_epoch=3", "trainer.max_epochs"),
        ("train mode.nestd=true", "mode.nested"),
        ("train sed=3", "seed"),
        ("train trainer.max_epochs=three", "an integer greater than 0"),
        ("train mode.multitask=1", "false or an integer greater than 1"),
        ("train a=[1", "key=value"),
        ("train tta=crop", "tta.size"),
        ("train --pln", "--plan"),
        ("--cfg", "--cfg job"),
        ("--help trian", "train"),
        ("train continue=latest use_best_params=x", "contradict"),
        ("train trainer.precision=17", "32-true"),
        ("train trainer.devices=3", "One training runs on one device"),
        ("train trainer.max_time=banana", "days:hours:minutes:seconds"),
        ("train +trainer.limit_trian_batches=1", "limit_train_batches"),
        ("train loss.class_weights=[1,2]", "loss.auto_activate_weighing=false"),
        ("train tune.lr=true compile.enable=true", "set one of them to false"),
        ("train proj=a/b", "must be the name of one folder"),
        ("info proj=", "must be the name of one folder"),
        ("train peft=lora", "not supported yet"),
        ("train search_space=example", "not supported yet"),
        ("train use_best_params=x", "not supported yet"),
        ("train logging.cm=true", "not supported yet"),
        ("train logging.samples=2", "not supported yet"),
    ],
)
def test_wrong_input_is_one_message_with_the_nearest_choice(
    arguments: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("mml-ray: error: ")
    assert nearest in err
    assert "Traceback" not in out + err
    assert err.count("\n") == 1, "one message, one line"


@pytest.mark.parametrize(
    ("option", "package", "extra"),
    [
        ("arch=timm", "timm", "timm"),
        ("arch=smp", "segmentation_models_pytorch", "smp"),
        ("augmentations=v2", "torchvision", "torchvision"),
        ("loaders=torch", "torchvision", "torchvision"),
        ("loaders=scikit", "skimage", "scikit"),
    ],
)
def test_a_missing_package_is_told_before_anything_starts(
    option: str, package: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more))
    assert cli.main(["train", "tasks=digits", option]) == 2
    err = capsys.readouterr().err
    assert package in err and f"pip install 'mml-ray[{extra}]'" in err and err.count("\n") == 1


def test_the_help_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_debug_shows_the_traceback_and_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "mml-ray: error: Unknown mode 'trian'" in err


def raising(error: BaseException) -> Callable[[RunRequest], Any]:
    def launch(request: RunRequest) -> Any:
        raise error

    return launch


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StorageError("no space left"), 2, "mml-ray: error: no space left"),
        (CommandError("train_fold failed"), 1, "mml-ray: error: train_fold failed"),
        (CommandInterrupted("stopped early"), 130, "mml-ray: error: stopped early"),
        (KeyboardInterrupt(), 130, "mml-ray: interrupted:"),
        (ZeroDivisionError("division by zero"), 1, "mml-ray: internal error: ZeroDivisionError: division by zero"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_is(raising(error), monkeypatch)
    assert cli.main(["train", "tasks=digits"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("Traceback" in err) == isinstance(error, ZeroDivisionError), "only what is not meant to happen shows where"


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_exit_code_is_the_summary_s(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_is(lambda request: SimpleNamespace(exit_code=code), monkeypatch)
    assert cli.main(["info", "tasks=digits"]) == code


def test_the_engine_gets_the_request_whole(launched: list[RunRequest]) -> None:
    arguments = ["train", "tasks=digits", "--auto-continue", "seed=7", "--debug", "hydra.verbose=[a.b]", "--plan"]
    assert cli.main(arguments) == 0
    (request,) = launched
    assert (request.cfg.seed, request.cfg.mode.id, request.mode) == (7, "train", "train")
    assert request.overrides == ("mode=train", "tasks=digits", "seed=7", "hydra.verbose=[a.b]")
    assert (request.flags.plan, request.flags.debug, request.flags.auto_continue) == ("text", True, True)
    assert request.flags.verbose == ("a.b",)
    assert request.choices["tasks"] == "digits"


def test_continue_needs_no_mode(launched: list[RunRequest], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["continue=latest", "proj=p"]) == 0
    (request,) = launched
    assert (request.mode, request.cfg["continue"], request.cfg.proj) == (None, "latest", "p")
    assert "No mode" not in capsys.readouterr().out


def test_default_places_are_the_first_line_of_the_output(
    launched: list[RunRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["info"])
    first = capsys.readouterr().out.splitlines()[0]
    assert str(tmp_path / "mml_data") in first and str(tmp_path / "mml_results") in first
    monkeypatch.setenv("MML_RESULTS_PATH", str(tmp_path / "r"))
    cli.main(["info"])
    assert "(set MML_DATA_PATH to" in capsys.readouterr().out
    cli.main(["info", f"data_dir={tmp_path / 'd'}"])
    assert capsys.readouterr().out == ""


def test_the_env_file_is_read(launched: list[RunRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mml.env").write_text(f"export MML_DATA_PATH={tmp_path}/d\nexport MML_RESULTS_PATH={tmp_path}/r\n")
    assert cli.main(["info"]) == 0
    assert launched[0].cfg.data_dir == f"{tmp_path}/d"
    assert capsys.readouterr().out == ""


def test_a_plan_for_programs_has_standard_output_for_itself(
    launched: list[RunRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["info", "--plan=json"])
    out, err = capsys.readouterr()
    assert out == ""
    assert "mml_data" in err


def test_cfg_prints_yaml_that_can_be_read_back(capsys: pytest.CaptureFixture[str], launched: list[RunRequest]) -> None:
    assert cli.main(["train", "tasks=digits", "--cfg", "job", "seed=9"]) == 0
    out, err = capsys.readouterr()
    config = yaml.safe_load(out)
    assert (config["seed"], config["mode"]["id"]) == (9, "train")
    assert config["proj_path"] == "${out_dir}/${proj}"
    assert (err, launched) == ("", [])
    assert cli.main(["train", "--cfg", "job", "--resolve", "proj=p"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["proj_path"].endswith("/mml_results/p")


def test_bare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert __version__ in out and "mml-ray --help" in out and "MML_ENV_PATH: not set" in out
    monkeypatch.setenv("MML_ENV_PATH", "/no/such/file")
    assert cli.main([]) == 0, "it reports the variable, it does not use it"
    assert "MML_ENV_PATH: /no/such/file" in capsys.readouterr().out


def test_version_needs_no_env_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_ray import plugins

    monkeypatch.setenv("MML_ENV_PATH", "/no/such/file")
    monkeypatch.setattr(plugins, "load", lambda: (plugins.Plugin("alpha", "1.2"), plugins.Plugin("beta", "0.1")))
    assert cli.main(["train", "--version"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"mml-ray {__version__}", "---", "alpha 1.2", "beta 0.1"]


def test_help_lists_every_mode_group_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    from mml_ray.composition.tree import PACKAGED, ConfigTree

    assert cli.main(["--help"]) == 0
    words = capsys.readouterr().out.replace("*", "").split()
    tree = ConfigTree((PACKAGED,))
    wanted = {*tree.modes, *tree.groups, *(option for options in tree.groups.values() for option in options)} - {"mode"}
    assert wanted - set(words) == set()


def test_help_marks_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    out = capsys.readouterr().out
    for marked in ("monai*", "adam*", "default_trainer*", "dice*", "tpe*", "local*"):
        assert marked in out
    assert "sgd*" not in out


def test_help_of_a_mode_shows_its_parameters_with_their_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "nested: true" in out and "# Train one model for each fold" in out and "lr_scheduler=none" in out
    assert cli.main(["predict", "-h"]) == 0
    assert "As mode train" in capsys.readouterr().out


def test_another_subcommand_is_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "def configure(parser):\n    parser.add_argument('word')\n\n\ndef run(given):\n    return 5 if given.word == 'x' else 1\n"
    )
    (tmp_path / "later_command.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(SUBCOMMANDS, "later", Subcommand("later", "come later", "later_command"))
    assert cli.main(["later", "x", "--debug"]) == 5
    assert cli.main(["later"]) == 2


def test_request_is_plain_enough_to_be_stored(launched: list[RunRequest]) -> None:
    from omegaconf import OmegaConf

    cli.main(["train", "tasks=digits"])
    assert json.dumps(OmegaConf.to_container(launched[0].cfg, resolve=True))
