"""What the integration tests share."""

from __future__ import annotations

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
