"""What is set by hand is built once before a run starts: what cannot be built is told at once, not by the first command of each fold.

To build means to import torch and more, so it is done only for what needs it. The shipped option files are known to be right (a test
builds each of them), and so is a value that a rule allows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from mml_ray.composition.overrides import Value
from mml_ray.composition.rules import is_exact, walk
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.registry import registry

#: what keeps a backend from loading weights, which a trial does not need
_WITHOUT_WEIGHTS: dict[str, dict[str, Any]] = {"timm": {"pretrained": False}, "smp": {"weights": None}}


def unproven(values: Iterable[Value], choices: Mapping[str, str], *, tree: ConfigTree, rules: Mapping[str, str]) -> Iterator[str]:
    """The dotted keys that nobody has tried: set on the command line or in option files of one's own, and no rule says what they may be."""
    own = [
        name
        for group, chosen in choices.items()
        for option in re.findall(r"[^\s\[\],']+", chosen)
        if _is_own(name := f"{group}/{option}", tree)
    ]
    for key in [*(value.key for value in values), *(key for name in own for key in _keys(name, tree))]:
        if key != "arch.name" and not is_exact(key, rules):  # that name was looked up already
            yield key


def _is_own(name: str, tree: ConfigTree) -> bool:
    """Whether an option's file is neither the package's nor a copy of it."""
    path, packaged = tree.files.get(name), PACKAGED / f"{name}.yaml"
    return path not in (None, packaged) and not (packaged.exists() and packaged.read_bytes() == path.read_bytes())


def _keys(name: str, tree: ConfigTree) -> Iterator[str]:
    """What an option file sets, by dotted key."""
    text = tree.files[name].read_text(encoding="utf-8")
    package = re.search(r"^# *@package +(\S+)", text, re.MULTILINE)
    place = package[1] if package else name.rpartition("/")[0].replace("/", ".")
    content = yaml.safe_load(text)
    for key, value in walk(content if isinstance(content, dict) else {}, "" if place == "_global_" else f"{place}."):
        if not isinstance(value, dict):
            yield key


def try_out(settings: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Build each part of a training that one of ``keys`` belongs to.

    Raises:
        MMLMisconfigurationException: it cannot be built; says what is wrong.
    """
    touched = {key.partition(".")[0] for key in keys}
    for group, build in _BUILDERS.items():
        if group in touched and settings.get(group):
            build(settings)


def _arch(settings: Mapping[str, Any]) -> None:
    """The network, on the CPU and without weights; one of a plugin may be anything, and is left to the run."""
    arch = dict(settings["arch"])
    backend = arch.pop("backend", None)
    if backend in ("monai", *_WITHOUT_WEIGHTS):
        registry.lookup("architecture", str(backend))({**arch, **_WITHOUT_WEIGHTS.get(str(backend), {})})


def _optimizer(settings: Mapping[str, Any]) -> Any:
    import torch

    from mml_ray.models.optimizers import build_optimizer

    return build_optimizer([torch.nn.Parameter(torch.zeros(1))], settings["optimizer"])


def _schedule(settings: Mapping[str, Any]) -> None:
    from mml_ray.models.optimizers import ScheduleTarget, build_schedule

    if settings["lr_scheduler"].get("name"):
        epochs = int(settings["trainer"].get("max_epochs") or 1)
        build_schedule(ScheduleTarget(_optimizer(settings), epochs, lambda: 1), settings["lr_scheduler"])


def _routes(group: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """The lists of a group, by kind of task."""
    yield from ((name, items) for name, items in group.items() if isinstance(items, list) and name != "class_weights")


def _loss(settings: Mapping[str, Any]) -> None:
    from mml_ray.models.losses import Losses

    for _, items in _routes(settings["loss"]):
        Losses(items)


def _metrics(settings: Mapping[str, Any]) -> None:
    from mml_ray.metrics.definition import MetricSet

    for route, items in _routes(settings["metrics"]):
        MetricSet(route, 1, items)


def _callbacks(settings: Mapping[str, Any]) -> None:
    from mml_ray.training.callbacks import create_callbacks

    create_callbacks(settings["cbs"])


def _augmentations(settings: Mapping[str, Any]) -> None:
    from mml_ray.data.augment import build_cpu, build_gpu

    build_cpu(settings["augmentations"].get("cpu"))
    build_gpu(settings["augmentations"].get("gpu"))


def _preprocessing(settings: Mapping[str, Any]) -> None:
    from mml_ray.data.augment import build_preprocessing

    build_preprocessing(settings["preprocessing"].get("pipeline") or [])


def _views(settings: Mapping[str, Any]) -> None:
    from mml_ray.data.augment.tta import TestTimeAugmentation

    TestTimeAugmentation(settings["tta"].get("variations") or {}, mode=settings["tta"].get("mode", "mean"))


def _compile(settings: Mapping[str, Any]) -> None:
    import torch

    kwargs = settings["compile"].get("kwargs") or {}
    if settings["compile"].get("enable"):
        try:
            torch.compile(torch.nn.Identity(), **kwargs)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MMLMisconfigurationException(f"compile.kwargs={kwargs}: {' '.join(str(error).split())}") from error


def _tune(settings: Mapping[str, Any]) -> None:
    given = {search: settings["tune"].get(f"{search}_kwargs") or {} for search in ("lr", "bs")}
    if not any(given.values()):
        return
    from lightning.pytorch.tuner.tuning import Tuner

    own = ("self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
    for search, method in (("lr", Tuner.lr_find), ("bs", Tuner.scale_batch_size)):
        allowed = [name for name in inspect.signature(method).parameters if name not in own]
        for name in given[search]:
            if name not in allowed:
                raise MMLMisconfigurationException(unknown_name_message(f"argument in tune.{search}_kwargs", name, allowed))


def _trainer(settings: Mapping[str, Any]) -> None:
    """A trainer on the CPU: whether the device is there is a matter of the machine that a command will run on."""
    from mml_ray.training.trainer import TrainerOptions, check_strategy, create_trainer

    given = settings["trainer"]
    check_strategy(given.get("strategy", "auto"))
    here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "deterministic": False}
    create_trainer(TrainerOptions.from_config({**given, **here}))


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "arch": _arch,
    "optimizer": _optimizer,
    "lr_scheduler": _schedule,
    "loss": _loss,
    "metrics": _metrics,
    "cbs": _callbacks,
    "augmentations": _augmentations,
    "preprocessing": _preprocessing,
    "tta": _views,
    "compile": _compile,
    "tune": _tune,
    "trainer": _trainer,
}
