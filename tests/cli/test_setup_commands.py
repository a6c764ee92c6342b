"""mml-ray-env-setup and mml-ray-copy-conf."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mml_ray import env
from mml_ray.api import compose_run
from mml_ray.cli import copy_conf, env_setup
from mml_ray.composition.tree import PACKAGED


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "it's a place"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def answer(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_env_setup_writes_a_file_that_works_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert env_setup([]) == 0
    assert str(folder / "mml.env") in capsys.readouterr().out
    env.load()
    cfg = compose_run(["info"]).cfg
    assert (cfg.data_dir, cfg.out_dir, cfg.num_workers) == (str(folder / "mml_data"), str(folder / "mml_results"), "auto")


def test_env_setup_overwrites_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mml.env").write_text("mine")
    assert env_setup([]) == 2
    assert (folder / "mml.env").read_text() == "mine"
    assert "already exists" in capsys.readouterr().err


def test_env_setup_refuses_where_a_file_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MML_ENV_PATH", "/some/mml.env")
    assert env_setup([]) == 2
    assert list(folder.iterdir()) == []
    assert "/some/mml.env" in capsys.readouterr().err


@pytest.mark.parametrize("reply", ["\n", "y\n", "Y\n"])
def test_copy_conf_copies_the_tree_and_enters_it(reply: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert env_setup([]) == 0
    answer(reply, monkeypatch)
    assert copy_conf([]) == 0
    copied = {path.relative_to(folder / "configs").as_posix() for path in (folder / "configs").rglob("*") if path.is_file()}
    assert copied == {path.relative_to(PACKAGED).as_posix() for path in PACKAGED.rglob("*.yaml")}
    assert env.parse(folder / "mml.env")["MML_CONFIGS_PATH"] == str(folder / "configs")
    (folder / "configs/optimizer/adam.yaml").write_text("# Mine.\nname: adam\nlr: 0.125\n")
    env.load()
    assert compose_run(["train"]).cfg.optimizer.lr == 0.125


def test_copy_conf_without_an_env_file_says_what_to_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer("\n", monkeypatch)
    assert copy_conf([]) == 0
    assert f"export MML_CONFIGS_PATH={folder / 'configs'}" in capsys.readouterr().out


@pytest.mark.parametrize(("reply", "code"), [("n\n", 0), ("N\n", 0), ("what\n", 1)])
def test_copy_conf_copies_nothing_unasked(reply: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(reply, monkeypatch)
    assert copy_conf([]) == code
    assert not (folder / "configs").exists()


def test_copy_conf_without_an_answer_is_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("", monkeypatch)
    assert copy_conf([]) == 130
    assert not (folder / "configs").exists()


def test_copy_conf_leaves_an_existing_folder_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "configs").mkdir()
    assert copy_conf([]) == 1
    assert list((folder / "configs").iterdir()) == []
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "before", ["export A=1\nexport MML_CONFIGS_PATH=old # why\n", "export A=1", "A=1\nMML_CONFIGS_PATH=x\n", ""]
)
def test_copy_conf_replaces_the_line_or_adds_it(before: str, folder: Path) -> None:
    path = folder / "mml.env"
    path.write_text(before)
    path.chmod(0o600)
    assert copy_conf(["--yes"]) == 0
    values = env.parse(path)
    assert values["MML_CONFIGS_PATH"] == str(folder / "configs")
    assert values.get("A") == ("1" if before else None)
    assert path.stat().st_mode & 0o777 == 0o600, "it may hold passwords"


@pytest.mark.parametrize("command", [env_setup, copy_conf])
def test_help_and_unknown_arguments_do_nothing(
    command: Callable[[list[str]], int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0 and "usage: mml-ray " in capsys.readouterr().out
    assert command(["--forse"]) == 2
    assert "Unknown flag '--forse'" in capsys.readouterr().err and not list(folder.iterdir())


def test_copy_conf_asks_nothing_with_yes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("", monkeypatch)
    assert copy_conf(["--yes"]) == 0
    assert (folder / "configs" / "config_mml.yaml").exists()
