"""Whether settings suit the tasks that a training is about: found by the heads of their descriptions, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.schedulers.components import plain
from mml_ray.tasks.struct import TaskStruct

if TYPE_CHECKING:
    from mml_ray.schedulers.base import AbstractBaseScheduler

#: callbacks that mix the labels of samples, and the kinds of task that have labels to mix
MIXING = ("cutmix", "mixup")
MIXED = ("cls", "mlcls")


def check(scheduler: AbstractBaseScheduler, tasks: list[str], models: list[list[str]]) -> None:
    """Hold the settings of a training against its tasks; ``models``: the tasks that each model learns.

    Raises:
        MMLMisconfigurationException: a network, losses, class weights or a callback that a task cannot be trained with, or something
            that is to follow a metric that there will not be.
    """
    from mml_ray.prepare.variants import planned_struct

    preprocessing = str(scheduler.cfg.preprocessing.id)
    structs = [planned_struct(scheduler.fm.data, name, preprocessing) for name in tasks]
    for struct in structs:
        _check_architecture(struct, plain(scheduler, "arch"))
        _check_losses(struct, plain(scheduler, "loss"))
        _check_callbacks(struct, plain(scheduler, "cbs"))
    logged = set.intersection(*(set(_logged(names, structs, plain(scheduler, "metrics"))) for names in models))
    for where, monitor in _monitors(scheduler):
        if monitor.startswith(("train/", "val/")) and monitor not in logged:
            raise MMLMisconfigurationException(unknown_name_message(f"metric in {where}.monitor", monitor, logged))


def _check_architecture(struct: TaskStruct, arch: dict[str, Any]) -> None:
    if struct.task_type.route != "seg":  # any network has what the others need; to ask means to import torch
        return
    from mml_ray.models.architectures import supports

    if not supports(arch, "seg"):
        raise MMLMisconfigurationException(
            f"Task '{struct.name}' is a segmentation, which arch={arch['backend']} arch.name={arch['name']} cannot learn: it needs an "
            "encoder-decoder, as arch.name=basic_unet or arch=smp."
        )


def _check_losses(struct: TaskStruct, loss: dict[str, Any]) -> None:
    route, weights = struct.task_type.route, loss.get("class_weights")
    if loss.get(route) == []:
        raise MMLMisconfigurationException(f"loss.{route}=[]: task '{struct.name}' needs a loss; loss/{route}=... gives one.")
    if weights and struct.task_type.has_classes and len(weights) != struct.num_classes:
        raise MMLMisconfigurationException(
            f"loss.class_weights has {len(weights)} values, task '{struct.name}' has {struct.num_classes} classes."
        )


def _check_callbacks(struct: TaskStruct, callbacks: dict[str, Any]) -> None:
    for identity, item in callbacks.items():
        if str((item or {}).get("name", identity)) in MIXING and struct.task_type.route not in MIXED:
            raise MMLMisconfigurationException(
                f"cbs.{identity}: mixing is for classification and multi-label classification, task '{struct.name}' is "
                f"{struct.task_type.value}. Leave the callback out."
            )


def _logged(names: list[str], structs: list[TaskStruct], metrics: dict[str, Any]) -> Iterator[str]:
    """The losses and metrics that a model records of the tasks it learns: the pivot (or a variant of it) first."""
    for phase in ("train", "val"):
        yield f"{phase}/loss"
        for name, struct in zip(names, structs, strict=True):
            yield f"{phase}/{name}/loss"
            for item in metrics.get(struct.task_type.route) or []:
                yield f"{phase}/{name}/{item if isinstance(item, str) else item.get('key') or item['type']}"


def _monitors(scheduler: AbstractBaseScheduler) -> Iterator[tuple[str, str]]:
    """(setting, metric) of all that follows a metric."""
    groups = {f"cbs.{identity}": item or {} for identity, item in plain(scheduler, "cbs").items()}
    for where, item in {**groups, "lr_scheduler": plain(scheduler, "lr_scheduler")}.items():
        if item.get("monitor") is not None:
            yield where, str(item["monitor"])
