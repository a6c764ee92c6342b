"""Optimizers and schedules from plain configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.optimizers import ScheduleTarget, build_optimizer, build_schedule
from mml_ray.registry import registry


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2))]


def rates(config: dict[str, Any], steps: int, lr: float = 1.0, total: int = 10) -> list[float]:
    """The rate before each of ``steps`` steps."""
    optimizer = build_optimizer(weights(), {"name": "sgd", "lr": lr})
    made = build_schedule(ScheduleTarget(optimizer, 10, lambda: total), config)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made["scheduler"].step()
    return found


def test_the_configured_optimizers_are_built_with_their_parameters() -> None:
    adam = build_optimizer(weights(), {"name": "adam", "lr": 0.1, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.01})
    assert isinstance(adam, torch.optim.Adam) and adam.defaults["betas"] == (0.8, 0.9) and adam.defaults["weight_decay"] == 0.01
    sgd = build_optimizer(weights(), {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "dampening": 0.0})
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.9
    assert isinstance(build_optimizer(weights(), {"name": "adamw"}), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adam", "lrr": 1}, "optimizer=adam has no option 'lrr'; did you mean 'lr'"),
        ({"name": "adam", "lr": -1}, "optimizer.lr must be a number greater than 0, got -1"),
        ({"lr": 1}, "optimizer.name is missing"),
    ],
)
def test_wrong_settings_say_what_is_allowed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        build_optimizer(weights(), config)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: adam"):
        build_optimizer(weights(), {"name": "adm"})
    with pytest.raises(UnknownNameError, match="Did you mean: cosine"):
        rates({"name": "cosin"}, 1)
    with pytest.raises(MMLMisconfigurationException, match="lr_scheduler=cosine has no option 'T_maxx'; did you mean 'T_max'"):
        rates({"name": "cosine", "T_maxx": 3}, 1)
    assert {"cosine", "cosine_restart", "exponential", "step", "plateau", "one_cycle"} <= set(registry.names("scheduler"))


def test_schedules_follow_their_formulae() -> None:
    assert rates({"name": "step", "step_size": 2, "gamma": 0.1}, 5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert rates({"name": "exponential", "gamma": 0.5}, 3) == pytest.approx([1, 0.5, 0.25])
    assert rates({"name": "cosine"}, 11)[::5] == pytest.approx([1, 0.5, 0])  # over the training's ten epochs
    assert rates({"name": "cosine", "T_max": 2}, 3) == pytest.approx([1, 0.5, 0])
    assert rates({"name": "cosine_restart", "T_0": 2}, 4) == pytest.approx([1, 0.5, 1, 0.5])


def test_one_cycle_goes_up_to_its_peak_and_down_within_the_training() -> None:
    found = rates({"name": "one_cycle", "max_lr": 2.0, "total_steps": "auto"}, 20, total=21)
    assert max(found) == pytest.approx(2.0, rel=0.02) and found[0] == pytest.approx(2 / 25) and found[-1] < 0.1
    assert max(rates({"name": "one_cycle"}, 20, lr=0.5, total=21)) == pytest.approx(0.5, rel=0.02)
    optimizer = build_optimizer(weights(), {"name": "sgd", "lr": 1.0})
    assert build_schedule(ScheduleTarget(optimizer, 1, lambda: 7), {"name": "one_cycle"})["interval"] == "step"


def test_plateau_watches_the_validation_loss() -> None:
    optimizer = build_optimizer(weights(), {"name": "sgd", "lr": 1.0})
    target = ScheduleTarget(optimizer, 1, lambda: 7)
    made = build_schedule(target, {"name": "plateau", "patience": 0, "mode": "min", "factor": 0.5, "threshold": 0.0001})
    assert (made["monitor"], made["interval"]) == ("val/loss", "epoch")
    for value in (1.0, 1.0):
        made["scheduler"].step(value)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(MMLMisconfigurationException, match="min or max"):
        build_schedule(target, {"name": "plateau", "mode": "middle"})
