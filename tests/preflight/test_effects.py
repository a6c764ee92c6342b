"""Settings without effect are told by name, and those that nothing obeys yet are refused."""

from __future__ import annotations

import pytest

from mml_ray.api import compose_run
from mml_ray.composition import compose
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.preflight.check import check
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.groups import KNOWN
from mml_ray.schedulers.loading import scheduler_class


def unused(*arguments: str) -> list[str]:
    return [notice for notice in compose_run(arguments).notices if "has no effect" in notice]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "tasks=fake", "hpo.trials=5"],
        ["train", "tasks=fake", "hpo=grid"],
        ["train", "tasks=fake", "reuse.models=other"],
        ["train", "tasks=fake", "tta=rotate"],
        ["predict", "tasks=fake", "optimizer.lr=0.1"],
        ["test", "tasks=fake", "loss/cls=ce"],
        ["create", "tasks=fake", "trainer.max_epochs=3"],
        ["create", "tasks=fake", "allow_leakage=true"],
        ["info", "callbacks=[early]"],
        ["clean", "sampling.batch_size=3"],
        ["pp", "preprocessing=size224", "arch.name=resnet18"],
    ],
)
def test_a_setting_that_the_mode_does_not_read_is_told_by_name(arguments: list[str]) -> None:
    (notice,) = unused(*arguments)
    assert notice.startswith(f"{arguments[-1]} has no effect: mode '{arguments[0]}' does not read ")


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "train",
            "tasks=fake",
            "optimizer=sgd",
            "optimizer.lr=0.1",
            "seed=3",
            "trainer.max_epochs=3",
            "+trainer.limit_val_batches=2",
        ],
        ["train", "tasks=fake", "mode.subroutines=[train,predict]", "tta=rotate", "resources.train_fold.num_cpus=1"],
        [
            "predict",
            "tasks=fake",
            "reuse.models=other",
            "tta=rotate",
            "sampling.batch_size=3",
            "trainer.enable_progress_bar=false",
        ],
        ["info", "sys=debug", "mode.subroutines=[tasks]", "proj=p", "reuse=current", "mode.subroutines=[models]"],
        ["create", "tasks=from_folder", "source.name=a", "source.path=b", "trainer.enable_progress_bar=false"],
        ["info", "+of.my.own=1"],
        ["continue=latest", "trainer.max_epochs=3"],
    ],
)
def test_a_setting_with_effect_is_not_told(arguments: list[str]) -> None:
    assert unused(*arguments) == []


def test_nothing_is_said_of_a_mode_that_does_not_declare_what_it_reads() -> None:
    request = compose.compose_run(["info", "hpo.trials=5", "allow_leakage=true"])
    assert check(request, ModeFacts("buzz")).notices == request.notices


@pytest.mark.parametrize("setting", ["allow_leakage=true", "peft=lora", "search_space=example", "logging.samples=2"])
def test_what_nothing_obeys_yet_is_refused_where_it_would_count(setting: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match="not supported yet"):
        compose_run(["train", "tasks=fake", setting])


@pytest.mark.parametrize("mode", ["clean", "create", "info", "pp", "predict", "test", "train"])
def test_modes_declare_what_there_is(mode: str) -> None:
    cfg = compose.compose_run([mode]).cfg
    uses = scheduler_class(cfg).uses
    assert uses is not None
    assert set(cfg.mode.subroutines) <= set(uses)
    assert {key.partition(".")[0] for keys in uses.values() for key in keys} <= set(KNOWN)
