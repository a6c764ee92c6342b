"""Whether the settings of a training fit its tasks: found by the heads of their descriptions, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from omegaconf import DictConfig

from mml_ray.composition.portable import plain
from mml_ray.composition.tree import config_tree
from mml_ray.data.options import LoaderOptions, PreprocessingOptions, TtaOptions
from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.models.options import ArchOptions, LossOptions, LrSchedulerOptions, MetricsOptions
from mml_ray.options import Options
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.groups import build_options
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.header import TaskHeader
from mml_ray.tasks.kinds import check_fact, check_views_of
from mml_ray.tasks.struct import TaskStruct
from mml_ray.training.options import CallbackOptions

#: callbacks that mix the labels of samples
MIXING = ("cutmix", "mixup")


class TaskChecks:
    """Holds the settings of ``cfg`` against tasks of a data root; keys that another version wrote are passed over."""

    def __init__(self, cfg: DictConfig, data: DataRoot) -> None:
        self._data = data
        self._options: Mapping[str, Options] = build_options(plain(cfg), ModeFacts(), {}, ignore_unknown=True)
        self._preprocessing = PreprocessingOptions.of(self._options.get("preprocessing")).id  # type: ignore[arg-type]

    def check_linked(self, names: Iterable[str]) -> None:
        """Refuse task types of a plugin for which the configuration has no losses, no metrics, or no loader of the target.

        Raises:
            MMLMisconfigurationException: names the missing key and the options that have it; or a type that cannot be trained at all.
        """
        for name in names:
            header = self._header(name)
            kind, route = header.kind, header.kind.require_route()
            for group, key, default in (
                (LossOptions.group, route, kind.losses),
                (MetricsOptions.group, route, kind.metrics),
                (LoaderOptions.group, str(kind.target), kind.loader),
            ):
                given = self._options.get(group)
                if not default and given is not None and key not in (given.model_extra or {}):
                    raise MMLMisconfigurationException(
                        f"Task '{name}' is of type {header.task_type.value}, for which the configuration has no {group}.{key}. "
                        f"{_remedy(group, key)}"
                    )

    def check_views(self, names: Iterable[str]) -> None:
        """Refuse test-time augmentation of task types whose predictions cannot be turned back."""
        views = self._options.get("tta")
        if isinstance(views, TtaOptions) and views.variations:
            for name in names:
                check_views_of(self._header(name).kind, name)

    def check_training(self, tasks: list[str], models: list[list[str]]) -> None:
        """``tasks`` are all that are trained, ``models`` those that each model learns.

        Raises:
            MMLMisconfigurationException: a network, losses, class weights or a callback that a task cannot be trained with, or a monitor
                of something that will not be recorded.
        """
        from mml_ray.prepare.variants import planned_struct

        structs = [planned_struct(self._data, name, self._preprocessing) for name in tasks]
        for struct in structs:
            for key, options in self._options.items():
                match options:
                    case ArchOptions():
                        _check_architecture(struct, options)
                    case LossOptions():
                        _check_losses(struct, options)
                    case CallbackOptions() if (options.name or key.partition(".")[2]) in MIXING:
                        check_fact(struct.kind, "mixable", what=key, task=struct.name)
        logged = set.intersection(*(set(self._logged(names, structs)) for names in models))
        for key, options in self._options.items():
            monitor = options.monitor if isinstance(options, CallbackOptions | LrSchedulerOptions) else None
            if monitor is not None and monitor.startswith(("train/", "val/")) and monitor not in logged:
                raise MMLMisconfigurationException(unknown_name_message(f"metric in {key}.monitor", monitor, logged))

    def _logged(self, names: list[str], structs: list[TaskStruct]) -> Iterator[str]:
        """The losses and metrics that a model records of the tasks it learns: the pivot (or a variant of it) first."""
        metrics = self._options.get("metrics")
        for phase in ("train", "val"):
            yield f"{phase}/loss"
            for name, struct in zip(names, structs, strict=True):
                yield f"{phase}/{name}/loss"
                for item in ((metrics.model_extra or {}) if metrics is not None else {}).get(struct.task_type.route) or ():
                    yield f"{phase}/{name}/{item.key or item.type}"

    def _header(self, name: str) -> TaskHeader:
        """Of the task, or of the base of a variant that is still to be made."""
        from mml_ray.tasks.tags import parse

        header: TaskHeader = self._data.header(name if name in self._data.index() else parse(name).base, self._preprocessing)
        return header


def _check_architecture(struct: TaskStruct, arch: ArchOptions) -> None:
    if struct.kind.features == "pooled":  # any network has what the others need; to ask means to import torch
        return
    from mml_ray.models.architectures import supports

    if not supports(arch.plain(), struct.kind.require_route()):
        raise MMLMisconfigurationException(
            f"Task '{struct.name}' is of type {struct.task_type.value}, which arch={arch.backend} arch.name={arch.name} cannot learn. "
            "It needs an encoder-decoder, as arch.name=basic_unet or arch=smp."
        )


def _check_losses(struct: TaskStruct, loss: LossOptions) -> None:
    route, weights = struct.task_type.route, loss.class_weights
    if (loss.model_extra or {}).get(route) == ():
        raise MMLMisconfigurationException(
            f"loss.{route} is empty, but task '{struct.name}' needs a loss. Set one, as in loss/{route}=..."
        )
    if weights and struct.task_type.has_classes and len(weights) != struct.num_classes:
        raise MMLMisconfigurationException(
            f"loss.class_weights has {len(weights)} values, but task '{struct.name}' has {struct.num_classes} classes."
        )


def _remedy(group: str, key: str) -> str:
    """How to get a key of a group."""
    options = config_tree().groups.get(f"{group}/{key}", [])
    if options:
        return f"Add one of its options, as in +{group}/{key}={options[0]} (there are {', '.join(options)})."
    return f"Choose an option of {group} that has it, or add it: +{group}.{key}=..."
