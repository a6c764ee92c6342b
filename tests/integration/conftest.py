"""What the integration tests share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.harness import Place


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the task ``digits``, made once by ``mml-ray create``. Tests only read it (variants may be added)."""
    root = tmp_path_factory.mktemp("digits")
    code, output = Place(root / "data", root / "results").call("create", "tasks=digits", "mode.n_folds=3")
    assert code == 0, output
    return root / "data"


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example plugin as pip installs it, without network, in a folder of its own."""
    root = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(
        Path(__file__).parents[1] / "plugin_example", root / "source", ignore=shutil.ignore_patterns("__pycache__")
    )
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(root / "site"), str(source)], check=True)
    return root / "site"
