"""The env file: found, read, never stronger than the shell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mml_ray import env
from mml_ray.errors import MMLMisconfigurationException


@pytest.fixture(autouse=True)
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty environment, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env, "os", SimpleNamespace(environ=(environ := {})))
    return environ


def test_it_is_optional(environ: dict[str, str]) -> None:
    assert env.load() is None
    assert environ == {}


def test_in_the_working_directory(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "mml.env").write_text("# comment\nexport MML_DATA_PATH='/a b'\nMML_RESULTS_PATH=${MML_DATA_PATH}/r # behind\n")
    assert env.load() == Path("mml.env")
    assert environ == {"MML_DATA_PATH": "/a b", "MML_RESULTS_PATH": "/a b/r"}


def test_the_named_file_wins_and_the_shell_wins_over_it(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "mml.env").write_text("MML_DATA_PATH=/wrong\n")
    named = tmp_path / "other.env"
    named.write_text("export MML_DATA_PATH=/file\nexport MML_RESULTS_PATH=/file\n")
    environ.update(MML_ENV_PATH=str(named), MML_DATA_PATH="/shell")
    assert env.load() == named
    assert (environ["MML_DATA_PATH"], environ["MML_RESULTS_PATH"]) == ("/shell", "/file")


def test_a_named_file_that_is_not_there(environ: dict[str, str]) -> None:
    environ["MML_ENV_PATH"] = "/no/file"
    with pytest.raises(MMLMisconfigurationException, match="MML_ENV_PATH=/no/file: there is no such file"):
        env.load()


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mml.env").write_text("export A=1\nexport B='open\nexport C=2\n")
    with pytest.raises(MMLMisconfigurationException, match=r"mml.env, line 2: cannot read 'export B="):
        env.load()


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mml.env").write_bytes(b"\xff\xfe\x00A")
    with pytest.raises(MMLMisconfigurationException, match="mml.env cannot be read"):
        env.load()


def test_configs_path(tmp_path: Path, environ: dict[str, str]) -> None:
    assert env.configs_path() is None
    environ["MML_CONFIGS_PATH"] = "DEFAULT_CONF_PATH"
    assert env.configs_path() is None
    environ["MML_CONFIGS_PATH"] = "."
    assert env.configs_path() == tmp_path
    environ["MML_CONFIGS_PATH"] = "/no/folder"
    with pytest.raises(MMLMisconfigurationException, match="there is no such folder.*mml-ray-copy-conf"):
        env.configs_path()
