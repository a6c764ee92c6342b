"""Log records reach the terminal as short lines; hydra.verbose opens them up."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from mml_ray.api import compose_run
from mml_ray.console.logs import TerminalHandler, configure


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    names = ("", "mml_ray", "some.library")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, TerminalHandler)]:
        root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def said(capsys: pytest.CaptureFixture[str], *overrides: str) -> list[str]:
    configure(compose_run(["info", *overrides]))
    for name in ("mml_ray.x", "some.library"):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), level)("%s of %s", level, name)
    return capsys.readouterr().err.splitlines()


def test_by_default_information_of_our_own_and_warnings_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == ["info of mml_ray.x", "warning: warning of mml_ray.x", "warning: warning of some.library"]


def test_verbose_shows_everything_and_who_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "hydra.verbose=true")
    assert len(lines) == 6
    assert lines[0] == "debug: mml_ray.x: debug of mml_ray.x"


def test_verbose_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "hydra.verbose=[some.library]")
    assert [line for line in lines if "debug" in line] == ["debug: some.library: debug of some.library"]


def test_configured_twice_every_line_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys)
    assert len(said(capsys)) == 3


def test_warnings_become_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure(compose_run(["info"]))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind this:\n  a list", UserWarning, stacklevel=1)
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["warning: mind this:", "  a list"], "neither file nor code: it is meant for users"
    assert "test_logs.py" in lines[2] and "FutureWarning: soon gone" in lines[2]
