"""Callbacks by name."""

from __future__ import annotations

from typing import Any

import pytest

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.checkpoint import same_weights
from mml_ray.registry import registry
from mml_ray.training.callbacks import create_callbacks
from mml_ray.training.fit import FitResult, fit
from mml_ray.training.trainer import create_trainer
from tests.training.tiny import TinyData, tiny_model, tiny_options


def trained(callbacks: dict[str, Any], **options: Any) -> FitResult:
    return fit(
        tiny_model(lr_scheduler=options.pop("schedule", None)),
        TinyData(),
        create_trainer(*tiny_options(callbacks=callbacks, **options)),
    )


def test_an_id_without_a_name_is_the_name() -> None:
    made = create_callbacks({"early_stopping": None, "lrm": {"name": "learning_rate_monitor"}})
    assert [type(callback).__name__ for callback in made] == ["MMLEarlyStopping", "LearningRateMonitor"]
    assert {"early_stopping", "learning_rate_monitor", "stochastic_weight_averaging", "device_stats_monitor"} <= set(
        registry.names("callback")
    )
    with pytest.raises(AssertionError):
        registry.register_callback("x")(dict)


def test_the_learning_rate_is_that_of_the_epochs_last_step() -> None:
    rows = trained(
        {"lrm": {"name": "learning_rate_monitor"}}, schedule={"name": "step", "step_size": 1, "gamma": 0.5}, max_epochs=3
    ).metrics
    assert [row["lr"] for row in rows] == pytest.approx([0.005, 0.0025, 0.00125])


def test_early_stopping_keeps_to_the_least_number_of_epochs() -> None:
    never_better = {"early": {"name": "early_stopping", "monitor": "val/loss", "patience": 1, "min_delta": 99.0}}
    assert trained(never_better, max_epochs=8).epochs == 2
    assert trained(never_better, max_epochs=8, min_epochs=4).epochs == 4
    assert trained(never_better, max_epochs=3, min_epochs=10).epochs == 3


@pytest.mark.filterwarnings("ignore:.*Swapping scheduler.*")
def test_averaged_weights_differ_from_the_last_ones_and_are_deterministic() -> None:
    averaging = {"swa": {"name": "stochastic_weight_averaging", "swa_lrs": 0.005, "swa_epoch_start": 2}}
    plain, one, other = trained({}), trained(averaging), trained(averaging)
    assert not same_weights(plain.last_state, one.last_state) and same_weights(one.last_state, other.last_state)


def test_statistics_of_the_device_are_recorded() -> None:
    rows = trained({"stats": {"name": "device_stats_monitor"}}, max_epochs=2).metrics
    assert all(0.05 < row["stats/rss_gb"] < 100 for row in rows)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_batches_train_the_same_each_time_and_differ_from_plain_ones(name: str) -> None:
    mixing = {"mix": {"name": name, "alpha": 0.4, "label_smoothing": 0.1}}
    plain, one, other = trained({}, max_epochs=2), trained(mixing, max_epochs=2), trained(mixing, max_epochs=2)
    assert same_weights(one.last_state, other.last_state) and not same_weights(one.last_state, plain.last_state)
    assert "train/tiny/accuracy" not in one.metrics[0] and "val/tiny/accuracy" in one.metrics[0]


def test_mixing_is_refused_where_targets_cannot_be_mixed() -> None:
    model = tiny_model(tasks={"tiny": {"task_type": "regression", "num_classes": 0}}, losses=None, metrics={})
    data = TinyData()
    data.targets = data.targets.float()[:, None]
    with pytest.raises(MMLMisconfigurationException, match="task 'tiny' is of type regression"):
        fit(model, data, create_trainer(*tiny_options(callbacks={"mixup": None})))


def test_the_callbacks_that_mix_are_known_before_they_are_loaded() -> None:
    from mml_ray.preflight.tasks import MIXING
    from mml_ray.training.callbacks import _Mixing

    assert {name for name in registry.names("callback") if issubclass(registry.lookup("callback", name), _Mixing)} == set(MIXING)
