"""A training stopped anywhere ends as if nothing had happened: same weights, best weights, metric log, bit by bit."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mml_ray.errors import CommandInterrupted, MMLMisconfigurationException
from mml_ray.models.checkpoint import same_weights
from mml_ray.training.checkpoints import Generations, read_checkpoint
from mml_ray.training.fit import FitResult, fit
from mml_ray.training.trainer import create_trainer
from tests.patience import GUARD
from tests.training.tiny import TinyData, tiny_model, tiny_options

#: batches per epoch of the tiny task
BATCHES = 5


class Stop:
    """Asked after every batch and before every epoch; says yes the n-th time."""

    def __init__(self, after: int | None) -> None:
        self.left = after

    def __call__(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left <= 0


def train(
    folder: Path, *, stop: int | None = None, config: dict[str, Any] | None = None, data: Any = None, **options: Any
) -> FitResult:
    trainer = create_trainer(
        *tiny_options(checkpoint_dir=folder, should_stop=Stop(stop), monitor=("val/tiny/loss", "min"), **options)
    )
    return fit(tiny_model(**(config or {})), data or TinyData(), trainer, task="tiny")


def train_in_pieces(folder: Path, stops: list[int], **arguments: Any) -> FitResult:
    for stop in stops:
        with pytest.raises(CommandInterrupted, match="the checkpoint is written"):
            train(folder, stop=stop, **arguments)
    return train(folder, **arguments)


def assert_same(one: FitResult, other: FitResult) -> None:
    assert same_weights(one.last_state, other.last_state)
    assert same_weights(one.best_state, other.best_state)
    assert one.metrics == other.metrics and (one.score, one.epochs, one.best_epoch) == (
        other.score,
        other.epochs,
        other.best_epoch,
    )


SCHEDULES: dict[str, dict[str, Any] | None] = {
    "constant": None,
    "step": {"name": "step", "step_size": 1, "gamma": 0.5},
    "plateau": {"name": "plateau", "patience": 0, "threshold": 100.0, "factor": 0.5},  # halves after every epoch
    "one_cycle": {"name": "one_cycle"},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_stopping_inside_and_between_epochs_changes_nothing(name: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"config": {"lr_scheduler": SCHEDULES[name]}, "callbacks": {"lrm": {"name": "learning_rate_monitor"}}}
    whole = train(tmp_path / "whole", **more)
    assert whole.resumed is None and whole.epochs == 4
    if name == "plateau":
        assert [row["lr"] for row in whole.metrics] == pytest.approx([0.005, 0.0025, 0.00125, 0.000625])
    for number, stops in enumerate(([2], [4, 3], [6], [8, 9])):  # within an epoch; within two; after an epoch; ...
        pieces = train_in_pieces(tmp_path / str(number), stops, **more)
        assert pieces.resumed is not None
        assert_same(whole, pieces)


@pytest.mark.slow
def test_stopping_at_every_single_step_changes_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_epochs=3)
    positions = set()
    for stop in range(2, 3 * BATCHES):
        pieces = train_in_pieces(tmp_path / str(stop), [stop], max_epochs=3)
        positions.add(pieces.resumed)
        assert_same(whole, pieces)
    assert len(positions) == 3 * BATCHES - 2


def test_accumulated_gradients_and_validations_within_an_epoch_are_not_cut(tmp_path: Path) -> None:
    more: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 3}
    whole = train(tmp_path / "whole", **more)
    for stop in (2, 3, 4, 5):
        pieces = train_in_pieces(tmp_path / str(stop), [stop], **more)
        assert pieces.resumed is not None and pieces.resumed[1] in (0, 2, 4)
        assert_same(whole, pieces)


def test_early_stopping_counts_on_and_does_not_train_beyond_its_end(tmp_path: Path) -> None:
    settings = {"name": "early_stopping", "monitor": "train/loss", "mode": "max", "patience": 2, "min_delta": 9.0}
    early: dict[str, Any] = {"callbacks": {"early": settings}}
    whole = train(tmp_path / "whole", max_epochs=9, **early)
    assert whole.epochs == 3
    pieces = train_in_pieces(tmp_path / "pieces", [9], max_epochs=9, **early)
    assert_same(whole, pieces)
    again = train(tmp_path / "pieces", max_epochs=9, **early)
    assert_same(whole, again)
    latest = Generations(tmp_path / "pieces").latest()
    assert latest is not None and latest.position.finished == "stopped"


def test_a_finished_training_is_not_run_again_and_can_be_extended(tmp_path: Path) -> None:
    first = train(tmp_path / "a")
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    again = train(tmp_path / "a")
    assert_same(first, again)
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert again.seconds == pytest.approx(first.seconds, abs=0.5)
    longer = train(tmp_path / "a", max_epochs=6)
    assert longer.resumed == (4, 0)
    assert_same(train(tmp_path / "b", max_epochs=6), longer)


def test_a_torn_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(tmp_path / "whole")
    for number, damage in enumerate(("cut", "flip", "side", "no side", "empty")):
        folder = tmp_path / str(number)
        with pytest.raises(CommandInterrupted):
            train(folder, stop=13, checkpoint_every_minutes=None)
        newest = max(folder.glob("*.ckpt"))
        content = newest.read_bytes()
        if damage == "cut":
            newest.write_bytes(content[: len(content) // 2])
        elif damage == "flip":
            newest.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        elif damage == "side":
            newest.with_suffix(".json").write_text('{"format": 1, "sha')
        elif damage == "no side":
            newest.with_suffix(".json").unlink()
        else:
            newest.write_bytes(b"")
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            pieces = train(folder)
        assert pieces.resumed is not None and pieces.resumed[1] == 0
        assert ("is torn" in caplog.text and newest.name in caplog.text) == (damage != "no side")
        assert_same(whole, pieces)


def test_with_no_good_checkpoint_left_the_training_starts_anew(tmp_path: Path) -> None:
    whole = train(tmp_path / "a")
    for path in (tmp_path / "a").glob("*.ckpt"):
        path.write_bytes(b"gone")
    pieces = train(tmp_path / "a")
    assert pieces.resumed is None
    assert_same(whole, pieces)


def test_checkpoints_hold_tensors_and_plain_data_only_and_two_are_kept(tmp_path: Path) -> None:
    train(tmp_path, callbacks={"swa": {"name": "stochastic_weight_averaging"}, "early": {"name": "early_stopping"}})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".ckpt", ".ckpt", ".json", ".json"]
    content = read_checkpoint(max(tmp_path.glob("*.ckpt")))
    assert {
        "epoch",
        "global_step",
        "pytorch-lightning_version",
        "state_dict",
        "callbacks",
        "optimizer_states",
        "config",
        "loops",
    } <= set(content)
    assert content["config"]["tasks"]["tiny"]["num_classes"] == 3
    json.dumps(content["config"])


def test_checkpoints_are_written_by_time_within_an_epoch(tmp_path: Path) -> None:
    written: list[tuple[int, int]] = []
    before = Generations.write

    def write(self: Generations, checkpoint: Any, position: Any) -> Any:
        written.append((position.epoch, position.batch))
        return before(self, checkpoint, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generations, "write", write)
        train(tmp_path / "often", checkpoint_every_minutes=1e-9, max_epochs=2)
        assert written == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]
        written.clear()
        train(tmp_path / "never", checkpoint_every_minutes=None, max_epochs=2)
        assert written == [(1, 0), (2, 0)]


def test_a_data_module_that_cannot_begin_within_an_epoch_is_refused_there_and_fine_between(tmp_path: Path) -> None:
    class Plain(TinyData):
        resume = None  # type: ignore[assignment]

        def train_dataloader(self) -> Any:
            self._resume = (0, 0)
            return super().train_dataloader()

    whole = train(tmp_path / "whole")
    with pytest.raises(CommandInterrupted):
        train(tmp_path / "between", stop=6)
    assert_same(whole, train(tmp_path / "between", data=Plain()))
    with pytest.raises(CommandInterrupted):
        train(tmp_path / "within", stop=3)
    with pytest.raises(MMLMisconfigurationException, match="Plain cannot begin after batch"):
        train(tmp_path / "within", data=Plain())


def test_without_a_folder_a_stop_is_obeyed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = create_trainer(*tiny_options(should_stop=Stop(3)))
    with pytest.raises(CommandInterrupted, match="checkpoints are off"):
        fit(tiny_model(), TinyData(), trainer)
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(int(sys.argv[3]))
from tests.training.test_resume import train
from mml_ray.models.checkpoint import same_weights
result = train(Path(sys.argv[1]), max_epochs=int(sys.argv[2]), checkpoint_every_minutes=1e-9)
torch.save({"last": result.last_state, "best": result.best_state, "metrics": result.metrics}, sys.argv[1] + ".result")
"""


def _start(folder: Path, epochs: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-W", "ignore", "-c", _KILLED, str(folder), str(epochs), str(torch.get_num_threads())]
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})


@pytest.mark.slow
def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", max_epochs=25, checkpoint_every_minutes=1e-9)
    folder = tmp_path / "killed"
    for pause in (0.2, 0.5, 0.3):
        process = _start(folder, 25)
        deadline = time.monotonic() + GUARD
        newest = max([0, *(path.stat().st_mtime_ns for path in folder.glob("*.json"))]) if folder.exists() else 0
        while not (folder.exists() and any(path.stat().st_mtime_ns > newest for path in folder.glob("*.json"))):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _start(folder, 25).wait() == 0
    found = torch.load(f"{folder}.result", weights_only=True)
    assert same_weights(found["last"], whole.last_state) and same_weights(found["best"], whole.best_state)
    assert found["metrics"] == whole.metrics
