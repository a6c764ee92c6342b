"""Every name that an option file chooses is registered, with the parameters that the file gives."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mml_ray.api import compose_run
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.errors import MMLError
from mml_ray.registry import registry

TREE = ConfigTree((PACKAGED,))


def options(group: str) -> list[str]:
    return [f"{group}={option}" for option in TREE.groups[group]]


def content(option: str) -> dict[str, Any]:
    """The mapping in an option's file."""
    group, _, name = option.partition("=")
    loaded = yaml.safe_load(TREE.files[f"{group}/{name}"].read_text())
    return loaded if isinstance(loaded, dict) else {}


def names(option: str) -> list[tuple[str, str]]:
    """(kind, name) pairs that the file asks for."""
    group, _, _ = option.partition("=")
    given = content(option)
    room, _, route = group.partition("/")
    if room in ("loss", "metrics"):
        return [({"loss": "loss", "metrics": "metric"}[room], item["type"]) for item in given[route]]
    if room == "callbacks":
        return [("callback", callback["name"]) for callback in given["cbs"].values()]
    if room == "loaders":
        return [("loader", name) for name in given.values()]
    if room == "augmentations":
        return [("augmentation", f"{side}/{given[side]['backend']}") for side in ("cpu", "gpu") if given[side]]
    kind = {"arch": "architecture", "optimizer": "optimizer", "lr_scheduler": "scheduler"}[room]
    name = given["backend" if room == "arch" else "name"]
    return [(kind, name)] if name is not None else []


CHOSEN = [
    option
    for group in TREE.groups
    if group.partition("/")[0] in ("arch", "augmentations", "callbacks", "loaders", "lr_scheduler", "optimizer")
    or group.startswith(("loss/", "metrics/"))
    for option in options(group)
]


@pytest.mark.parametrize("option", CHOSEN)
def test_every_name_is_registered(option: str) -> None:
    missing = [f"{kind} '{name}'" for kind, name in names(option) if registry.find(kind, name) is None]
    assert not missing


def test_class_weights_are_no_losses() -> None:
    assert list(
        compose_run(["train", "loss.class_weights=[1,2]", "loss.auto_activate_weighing=false"]).cfg.loss.class_weights
    ) == [1, 2]


def test_the_trainer_has_every_argument_that_options_declare() -> None:
    import inspect

    from lightning.pytorch import Trainer

    from mml_ray.training.options import TrainerOptions

    assert set(TrainerOptions.declared()) - {"checkpoint_every_minutes"} <= set(inspect.signature(Trainer.__init__).parameters)


def test_names_that_are_not_looked_up_are_right() -> None:
    from mml_ray.models.options import ArchOptions
    from mml_ray.preflight.names import KNOWN, KNOWN_NETWORKS, check

    missing = [f"{kind} {name}" for kind, known in KNOWN.items() for name in known if registry.find(kind, name) is None]
    assert missing == []
    for name in KNOWN_NETWORKS:
        registry.lookup("architecture", "monai")({"name": name})
    check({"arch": ArchOptions.of({"backend": "monai", "name": "efficientnet-b0"})})


@pytest.mark.parametrize("option", CHOSEN)
def test_shipped_options_need_no_looking_up(option: str) -> None:
    from mml_ray.preflight.names import KNOWN

    slow = {"loaders=pillow_acc", "loaders=scikit", "loaders=torch"}
    unknown = [name for kind, name in names(option) if name not in KNOWN[kind]]
    assert (unknown != []) == (option in slow), unknown


@pytest.mark.parametrize("option", [option for option in CHOSEN if option.startswith(("augmentations=", "preprocessing="))])
def test_every_step_of_an_augmentation_can_be_built(option: str, request: pytest.FixtureRequest) -> None:
    from mml_ray.data.augment import build_cpu, build_gpu

    if option == "augmentations=v2":
        request.getfixturevalue("torchvision")
    build_cpu(content(option)["cpu"])
    build_gpu(content(option)["gpu"])


@pytest.mark.parametrize("option", options("tta"))
def test_every_view_can_be_built(option: str) -> None:
    from omegaconf import OmegaConf

    from mml_ray.data.augment.tta import TestTimeAugmentation

    cfg = compose_run(["predict", option, *(["tta.size=[32,32]"] if option == "tta=crop" else [])]).cfg
    settings = OmegaConf.to_container(cfg.tta, resolve=True)
    assert isinstance(settings, dict)
    views = TestTimeAugmentation(settings["variations"], mode=settings["mode"])
    assert bool(views) == (option != "tta=none")


@pytest.mark.parametrize("option", options("preprocessing"))
def test_every_step_of_a_preprocessing_can_be_built(option: str) -> None:
    from mml_ray.data.augment import build_preprocessing

    assert content(option)["id"] == option.partition("=")[2]
    assert (build_preprocessing(content(option)["pipeline"]) is None) == (option == "preprocessing=none")


@pytest.mark.parametrize("option", [option for option in CHOSEN if option.startswith("metrics/")])
def test_every_metric_can_be_built(option: str) -> None:
    from mml_ray.metrics.definition import MetricSet

    route = option.partition("/")[2].partition("=")[0]
    assert len(MetricSet(route, 3, content(option)[route])) == len(content(option)[route])


@pytest.mark.parametrize("option", [option for option in CHOSEN if option.startswith("loss/")])
def test_every_loss_can_be_built(option: str) -> None:
    from mml_ray.models.losses import Losses

    route = option.partition("/")[2].partition("=")[0]
    Losses(content(option)[route])


@pytest.mark.parametrize("option", options("optimizer") + options("lr_scheduler"))
def test_every_optimizer_and_schedule_can_be_built(option: str) -> None:
    import torch

    from mml_ray.models.optimizers import ScheduleTarget, build_optimizer, build_schedule

    cfg = compose_run(["train", option]).cfg
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(2))], dict(cfg.optimizer))
    if cfg.lr_scheduler.name is not None:
        build_schedule(ScheduleTarget(optimizer, 10, lambda: 100), dict(cfg.lr_scheduler))


@pytest.mark.parametrize("option", options("callbacks"))
def test_every_callback_can_be_built(option: str) -> None:
    from mml_ray.training.callbacks import create_callbacks

    create_callbacks(content(option)["cbs"])


def test_the_trainer_takes_every_setting() -> None:
    from omegaconf import OmegaConf

    from mml_ray.training.options import TrainerOptions
    from mml_ray.training.trainer import create_trainer

    settings = OmegaConf.to_container(compose_run(["train"]).cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    trainer = create_trainer(TrainerOptions.of({str(key): value for key, value in settings.items()}))
    assert (trainer.max_epochs, trainer.min_epochs) == (50, 10)


@pytest.mark.parametrize("option", options("sampling"))
def test_the_data_module_takes_every_setting_of_sampling(option: str) -> None:
    from mml_ray.data.options import SamplingOptions

    assert SamplingOptions.of(content(option)).cache == "off"


def test_the_settings_of_a_creation_are_those_of_the_room() -> None:
    from mml_ray.prepare.context import ON_BROKEN

    for choice in ("refuse", "skip"):
        assert choice in ON_BROKEN
        compose_run(["create", f"mode.on_broken={choice}"])
    with pytest.raises(MMLError):
        compose_run(["create", "mode.on_broken=other"])


@pytest.mark.parametrize("option", options("tasks"))
def test_every_task_can_be_created(option: str) -> None:
    given = content(option)
    creator = (given.get("source") or {}).get("creator")
    for name in [creator] if creator else given["task_list"]:
        assert registry.find("task_creator", name) is not None, name
