"""What is asked often must answer at once: in a fresh process, by what it imports and by the CPU seconds it takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import GUARD, promised_cpu

HEAVY = ("torch", "ray", "lightning", "numpy", "pandas", "cv2", "sklearn", "monai", "optuna")
PROBE = """
import json, sys
from mml_ray import cli
code = cli.main(json.loads(sys.argv[1]))
print("\\nLOADED", json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
sys.exit(code)
"""


def fresh(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], set[str], float]:
    """Run in a fresh process: how it ended, top-level modules it loaded, CPU seconds of it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=GUARD,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = set(json.loads(done.stdout.rpartition("LOADED ")[2] or "[]"))
    return done, loaded, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("arguments", "seconds", "hydra"),
    [
        ([], 1.0, False),
        (["--help"], 1.0, False),
        (["--version"], 1.0, False),
        (["train", "--help"], 1.0, False),
        (["--install-completion", "bash"], 1.0, False),
        (["--complete", "bash", "mml-ray tr"], 1.0, False),
        (["train", "tasks=digits", "--cfg", "job"], 1.5, True),
    ],
)
def test_lean(arguments: list[str], seconds: float, hydra: bool, tmp_path: Path) -> None:
    done, loaded, took = fresh(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert loaded & set(HEAVY) == set()
    assert ("hydra" in loaded) == hydra
    assert took < promised_cpu(seconds)


def test_a_wrong_setting_is_found_without_loading_anything_heavy(tmp_path: Path) -> None:
    done, loaded, _ = fresh(["train", "tasks=digits", "trainer.max_epoch=1"], tmp_path)
    assert done.returncode == 2
    assert loaded & set(HEAVY) == set()
    assert "trainer.max_epochs" in done.stderr


def test_python_m_is_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "mml_ray", "trian"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 2
    assert "Did you mean: train?" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = f"{sys.executable} -m mml_ray train --cfg job | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=GUARD)
    assert (done.stdout, done.stderr) == ("proj: default\n", "")
