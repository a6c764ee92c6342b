"""Trainers from options: what is chosen, refused and reported; results of trainings that go wrong."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mml_ray.errors import CommandInterrupted, MMLMisconfigurationException, UnknownNameError
from mml_ray.models.checkpoint import same_weights
from mml_ray.training.fit import find_callback, fit
from mml_ray.training.loop import BestWeights, MetricsTracker, TrainingCheckpoint
from mml_ray.training.options import TrainerOptions
from mml_ray.training.trainer import TrainerContext, choose_precision, create_trainer
from tests.training.tiny import TinyData, tiny_model, tiny_options

DEFAULT_GROUP: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "auto", "min_epochs": 10, "max_epochs": 3,
    "benchmark": True, "deterministic": False, "accumulate_grad_batches": 1, "gradient_clip_val": None, "max_time": None,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 0, "log_every_n_steps": 50, "enable_progress_bar": True, "enable_model_summary": True,
}  # fmt: skip


def test_the_configuration_group_is_understood() -> None:
    trainer = create_trainer(TrainerOptions.of({**DEFAULT_GROUP, "limit_train_batches": 2}), TrainerContext(seed=1))
    assert (trainer.max_epochs, trainer.min_epochs) == (3, 3)  # min_epochs never exceeds max_epochs
    assert trainer.precision == "32-true" and not trainer.loggers
    assert isinstance(trainer.callbacks[-1], TrainingCheckpoint)  # type: ignore[attr-defined]
    assert trainer.limit_train_batches == 2


def test_precision_is_chosen_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("16-true") == "16-true"
    assert choose_precision("auto", "cpu") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert choose_precision("auto", "gpu") == "16-mixed"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert choose_precision("auto") == "bf16-mixed"
    assert choose_precision("auto", "cpu") == "32-true"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epoch": 3}, "trainer has no option 'max_epoch'; did you mean 'max_epochs'"),
        ({"default_root_dir": "."}, "trainer has no option 'default_root_dir'"),
        ({"precision": "31-true"}, "trainer.precision must be auto, 32-true, .*got '31-true'"),
        ({"accelerator": "abacus"}, "trainer.accelerator must be auto, cpu, .*got 'abacus'"),
        ({"monitor": ("val/loss", "middle")}, "min or max"),
        (
            {"callbacks": {"early": {"name": "early_stopping", "patiense": 1}}},
            "cbs.early: 'early_stopping' cannot be created with .*patiense",
        ),
    ],
)
def test_wrong_options_are_refused_with_their_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        create_trainer(*tiny_options(**options))


def test_unknown_callbacks_name_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: early_stopping"):
        create_trainer(*tiny_options(callbacks={"x": {"name": "early_stoping"}}))


def test_progress_is_reported() -> None:
    def reported(seconds: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The reports on steps, and those that end an epoch."""
        reports: list[dict[str, Any]] = []
        result = fit(
            tiny_model(), TinyData(), create_trainer(*tiny_options(max_epochs=2, report=reports.append, report_seconds=seconds))
        )
        rows = [{"epoch": row["epoch"] + 1, "values": {k: v for k, v in row.items() if k != "epoch"}} for row in result.metrics]
        ends = [item for item in reports if "values" in item]
        assert [item["epoch"] for item in ends] == [1, 2] and "val/tiny/loss" in ends[0]["values"]
        for end, row in zip(ends, rows, strict=True):
            assert end["values"] == pytest.approx(row["values"], rel=1e-6)
        return [item for item in reports if "values" not in item], ends

    steps, _ = reported(0.0)
    assert [(s["epoch"], s["epochs"], s["step"], s["steps"]) for s in steps] == [
        (e, 2, s, 5) for e in (1, 2) for s in range(1, 6)
    ]
    assert all(math.isfinite(s["loss"]) and s["seconds"] >= 0 for s in steps)
    steps, _ = reported(1000.0)
    assert [s["step"] for s in steps] == [1, 5, 5]  # the first, and the end of every epoch


def test_the_score_is_the_best_monitored_value_or_the_last_recorded() -> None:
    best = fit(tiny_model(), TinyData(), create_trainer(*tiny_options(monitor=("val/tiny/loss", "min"))), task="tiny")
    values = [row["val/tiny/loss"] for row in best.metrics]
    assert best.score == min(values) and best.best_epoch == values.index(min(values))
    assert [row["epoch"] for row in best.metrics] == [0, 1, 2, 3] and best.epochs == 4
    last = fit(tiny_model(), TinyData(), create_trainer(*tiny_options()), task="tiny")
    assert last.score == values[-1] and last.monitor == "val/tiny/loss"
    assert same_weights(last.best_state, last.last_state) and same_weights(last.last_state, best.last_state)
    one = fit(tiny_model(), TinyData(), create_trainer(*tiny_options(max_epochs=1)), task="tiny")
    assert one.score == values[0]
    highest = fit(tiny_model(), TinyData(), create_trainer(*tiny_options(monitor=("val/tiny/accuracy", "max"))), task="tiny")
    assert highest.score == max(row["val/tiny/accuracy"] for row in best.metrics)


def test_the_metric_log_has_this_epochs_validation_and_no_stale_values() -> None:
    class Watch(Callback):
        values: list[float] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.values.append(float(trainer.callback_metrics["val/loss"]))

    trainer = create_trainer(*tiny_options(max_epochs=3))
    trainer.callbacks.insert(0, watch := Watch())  # type: ignore[attr-defined]
    rows = fit(tiny_model(), TinyData(), trainer).metrics
    assert [row["val/loss"] for row in rows] == watch.values and len(set(watch.values)) == 3
    every_other = create_trainer(*tiny_options(max_epochs=4, monitor=("val/loss", "min"), check_val_every_n_epoch=2))
    sparse = fit(tiny_model(), TinyData(), every_other)
    assert ["val/loss" in row for row in sparse.metrics] == [False, True, False, True]
    assert sparse.score == min(row["val/loss"] for row in sparse.metrics if "val/loss" in row)


def test_a_validation_loss_equals_what_the_weights_give(tmp_path: Path) -> None:
    data = TinyData(batch_size=4)  # 15 validation samples: the last batch is smaller
    model = tiny_model()
    result = fit(model, data, create_trainer(*tiny_options(max_epochs=1)), task="tiny")
    model.eval()
    with torch.no_grad():
        scores = model.infer(data.images[30:45])["tiny"]  # type: ignore[operator]
        loss = torch.nn.functional.cross_entropy(scores, data.targets[30:45])
    assert result.score == pytest.approx(float(loss), rel=1e-5)
    assert result.metrics[0]["val/tiny/accuracy"] == pytest.approx(
        float((scores.argmax(1) == data.targets[30:45]).float().mean())
    )


def test_without_validation_data_the_score_is_nan_and_a_monitor_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    result = fit(tiny_model(), TinyData(validation=False), create_trainer(*tiny_options(max_epochs=1)), task="tiny")
    assert math.isnan(result.score) and "did not measure a finite val/tiny/loss" in caplog.text
    with pytest.raises(MMLMisconfigurationException, match="mode.store_best=false"):
        fit(tiny_model(), TinyData(validation=False), create_trainer(*tiny_options(monitor=("val/loss", "min"))))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_diverged_training_has_no_best(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(optimizer={"name": "sgd", "lr": 1e30})
    result = fit(model, TinyData(), create_trainer(*tiny_options(max_epochs=2, monitor=("val/loss", mode))))
    assert math.isnan(result.score) and result.best_epoch is None
    assert "'val/loss' is nan" in caplog.text and same_weights_or_nan(result.best_state, result.last_state)


def same_weights_or_nan(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name].nan_to_num(), other[name].nan_to_num()) for name in one)


def test_dropout_is_keyed_by_seed_epoch_and_batch() -> None:
    def weights(**options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(options.pop("outer", 0))
        return fit(tiny_model(), TinyData(), create_trainer(*tiny_options(max_epochs=1, **options))).last_state

    assert same_weights(weights(outer=0), weights(outer=1))
    assert not same_weights(weights(seed=3), weights(seed=4))


def test_the_callbacks_of_the_scheduler_can_be_found() -> None:
    trainer = create_trainer(*tiny_options(monitor=("val/loss", "min")))
    assert find_callback(trainer, MetricsTracker).rows == []
    assert find_callback(trainer, BestWeights).monitor == "val/loss"
    with pytest.raises(MMLMisconfigurationException, match="create_trainer"):
        find_callback(create_trainer(*tiny_options()), BestWeights)


def test_ctrl_c_stays_ctrl_c() -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer = create_trainer(*tiny_options())
    trainer.callbacks.insert(0, Interrupt())  # type: ignore[attr-defined]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_model(), TinyData(), trainer)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_start"])
def test_sigterm_is_answered_behind_a_checkpoint_wherever_it_comes(hook: str, tmp_path: Path) -> None:
    asked: list[int] = []

    def send(*_: Any) -> None:
        if not asked:
            os.kill(os.getpid(), signal.SIGTERM)

    options = tiny_options(checkpoint_dir=tmp_path, max_epochs=10_000, poll_seconds=0.3, should_stop=lambda: bool(asked))
    trainer = create_trainer(*options)
    trainer.callbacks.insert(0, type("Terminate", (Callback,), {hook: send})())  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with pytest.raises(CommandInterrupted, match="the checkpoint is written"):
            fit(tiny_model(), TinyData(), trainer)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.glob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_no_loader_process_is_left(interrupted: bool) -> None:
    from torch.utils.data import DataLoader

    class Forked(TinyData):
        def train_dataloader(self) -> Any:
            samples = [{"tiny": content["tiny"]} for content in super().train_dataloader()]
            return DataLoader(samples, batch_size=None, num_workers=2, persistent_workers=True)  # type: ignore[arg-type]

    stop = (lambda: True) if interrupted else None
    try:
        fit(tiny_model(), Forked(), create_trainer(*tiny_options(max_epochs=2, should_stop=stop)))
    except Exception as error:
        assert interrupted, error
    assert multiprocessing.active_children() == []
