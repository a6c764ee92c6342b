"""One attempt of one command, without a store: what becomes of its result, its errors, and its surroundings."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mml_ray.driver.command import CommandSpec, Outcome
from mml_ray.driver.environment import release_threads
from mml_ray.driver.resources import Resources
from mml_ray.driver.worker import AttemptContext, current_seed, current_threads, prepare_torch, run_attempt
from mml_ray.errors import CommandInterrupted, DiskFullError, FencedError
from mml_ray.store.manager import MMLFileManager


class Workload:
    """Calls a function."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.forgotten = 0

    def execute(self, name: str, params: Sequence[Any]) -> Any:
        return self.function()

    def collect_deltas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"task": {"set_paths": {}, "append_models": []}}, {}

    def attach(self, manager: MMLFileManager) -> None:
        pass

    def forget(self) -> None:
        self.forgotten += 1


def _run(
    tmp_path: Path, function: Callable[[], Any], *, seed: int | None = 42, params: tuple[Any, ...] = (), threads: int = 1
) -> Outcome:
    manager = MMLFileManager(data_path=tmp_path / "data", proj_path=tmp_path / "results" / "p")
    spec = CommandSpec("step--x", 1, "step", params, resources=Resources(num_cpus=threads))
    workload = Workload(function)
    try:
        outcome = run_attempt(workload, spec, 3, manager=manager, context=AttemptContext(seed, tmp_path / "logs"))
    finally:
        release_threads()
        MMLFileManager.clear_instance()
    assert workload.forgotten == 1 and manager.attempt is None
    return outcome


def test_a_result_is_what_the_journal_will_give_back(tmp_path: Path) -> None:
    outcome = _run(tmp_path, lambda: {"a": (1, 2.5), "b": float("nan")})
    assert outcome.status == "done" and outcome.attempt == 3
    assert outcome.result["a"] == [1, 2.5] and outcome.result["b"] != outcome.result["b"]
    assert outcome.structs == {"task": {"set_paths": {}, "append_models": []}}


def test_a_result_that_is_no_plain_data_fails_the_command_and_says_what_to_do(tmp_path: Path) -> None:
    outcome = _run(tmp_path, object)
    assert outcome.status == "failed" and "plain data" in outcome.error["message"]


def _raise(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("wrong"), "failed"),
        (CommandInterrupted("asked to"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (FencedError("another one"), "lost"),
        (OSError(errno.ENOSPC, "full"), "disk"),
        (DiskFullError("no space for the checkpoint"), "disk"),
        (OSError(errno.EIO, "broken"), "failed"),
        (SystemExit(3), "failed"),
    ],
)
def test_errors_become_outcomes(tmp_path: Path, error: BaseException, status: str) -> None:
    outcome = _run(tmp_path, _raise(error))
    assert outcome.status == status
    assert status == "interrupted" or outcome.error["type"] in (tmp_path / "logs" / "step--x.log").read_text()


def test_a_torchvision_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    outcome = _run(tmp_path, _raise(RuntimeError("operator torchvision::nms does not exist")))
    assert outcome.status == "failed" and "pip uninstall torchvision" in outcome.error["message"]


def test_the_seed_follows_from_the_run_the_command_and_its_parameters(tmp_path: Path) -> None:
    import random

    def draw() -> list[float]:
        return [random.random(), float(current_seed() or 0)]

    first = _run(tmp_path, draw).result
    random.random()
    assert _run(tmp_path, draw).result == first
    assert _run(tmp_path, draw, params=(1,)).result != first
    assert _run(tmp_path, draw, seed=7).result != first
    assert _run(tmp_path, current_seed, seed=None).result is None


def test_torch_is_seeded_also_when_the_command_imports_it(tmp_path: Path) -> None:
    def draw() -> float:
        import torch

        prepare_torch()
        prepare_torch()
        return float(torch.rand(1))

    first = _run(tmp_path, draw).result
    assert _run(tmp_path, draw).result == first


def test_threads_are_those_of_the_command_and_given_back_after_the_run(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    outcome = _run(tmp_path, lambda: [current_threads(), os.environ["OMP_NUM_THREADS"]], threads=2)
    assert outcome.result == [2, "2"]
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_prints_and_records_go_to_the_log_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        print("to the terminal")
        print("in red", file=sys.stderr)
        logging.getLogger("somewhere").warning("a record")

    _run(tmp_path, speak)
    text = (tmp_path / "logs" / "step--x.log").read_text()
    assert "attempt 3" in text and "to the terminal" in text and "in red" in text and "a record" in text
    assert "to the terminal" in capsys.readouterr().out


def test_a_command_that_says_nothing_leaves_no_log(tmp_path: Path) -> None:
    _run(tmp_path, lambda: None)
    assert not (tmp_path / "logs" / "step--x.log").exists()


def test_a_log_that_cannot_be_written_does_not_fail_the_command(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    assert _run(tmp_path, lambda: print("hello")).status == "done"
