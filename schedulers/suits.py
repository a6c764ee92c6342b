"""Whether settings suit the tasks that a training is about: found by the heads of their descriptions, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.schedulers.components import plain
from mml_ray.store.manager import MMLFileManager
from mml_ray.tasks.header import TaskHeader
from mml_ray.tasks.kinds import check_fact, check_views_of
from mml_ray.tasks.struct import TaskStruct

if TYPE_CHECKING:
    from mml_ray.schedulers.base import AbstractBaseScheduler

#: callbacks that mix the labels of samples
MIXING = ("cutmix", "mixup")


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
    if struct.kind.features == "pooled":  # any network has what the others need; to ask means to import torch
        return
    from mml_ray.models.architectures import supports

    if not supports(arch, struct.kind.require_route()):
        raise MMLMisconfigurationException(
            f"Task '{struct.name}' is a {struct.task_type.value} task, which arch={arch['backend']} arch.name={arch['name']} cannot learn: "
            "it needs an encoder-decoder, as arch.name=basic_unet or arch=smp."
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
        if str((item or {}).get("name", identity)) in MIXING:
            check_fact(struct.kind, "mixable", what=f"cbs.{identity}", task=struct.name)


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


def check_linked(cfg: DictConfig, manager: MMLFileManager, names: Iterable[str]) -> None:
    """Refuse task types of a plugin for which the configuration has no losses, no metrics, or no loader of the target.

    Raises:
        MMLMisconfigurationException: names the missing key and the options that have it; or a type that cannot be trained at all.
    """
    for name in names:
        header = _header(name, manager, str(cfg.preprocessing.id))
        kind, route = header.kind, header.kind.require_route()
        needed = (("loss", route, kind.losses), ("metrics", route, kind.metrics), ("loaders", str(kind.target), kind.loader))
        for group, key, default in needed:
            if not default and group in cfg and key not in cfg[group]:
                raise MMLMisconfigurationException(
                    f"Task '{name}' is a {header.task_type.value} task, and the configuration has no {group}.{key}. {_hint(group, key)}"
                )


def check_views(cfg: DictConfig, manager: MMLFileManager, names: Iterable[str]) -> None:
    """Refuse test-time augmentation of task types whose predictions nobody can turn back.

    Raises:
        MMLMisconfigurationException: such a type.
    """
    if not cfg.get("tta", {}).get("variations", None):
        return
    for name in names:
        check_views_of(_header(name, manager, str(cfg.preprocessing.id)).kind, name)


def _header(name: str, manager: MMLFileManager, preprocessing: str) -> TaskHeader:
    """Of the task, or of the base of a variant that is still to be made."""
    from mml_ray.tasks.tags import parse

    header: TaskHeader = manager.data.header(name if name in manager.data.index() else parse(name).base, preprocessing)
    return header


def _hint(group: str, key: str) -> str:
    """How to get a key of a group."""
    from mml_ray.composition.tree import config_tree

    options = config_tree().groups.get(f"{group}/{key}", [])
    if options:
        return f"Add one of its options, as in +{group}/{key}={options[0]} (there are {', '.join(options)})."
    return f"Choose an option of {group} that has it, or add it: +{group}.{key}=..."
