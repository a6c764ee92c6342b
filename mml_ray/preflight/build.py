"""Parts of a training that are built once before it starts: what cannot be built is told at once, not by the first command of each fold.

To build means to import torch and more, so it is done only for what needs it. The shipped option files are known to be right (a test
builds each of them), and so is a value whose options say exactly what it may be.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from mml_ray.composition.request import RunRequest
from mml_ray.composition.tree import PACKAGED, ConfigTree, config_tree
from mml_ray.composition.values import walk
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import Options, in_words, no_option_message
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.groups import find_schema
from mml_ray.registry import registry

#: what keeps a backend from loading weights, which is not needed to see whether a network can be built
_WITHOUT_WEIGHTS: dict[str, dict[str, Any]] = {"timm": {"pretrained": False}, "smp": {"weights": None}}


def unproven(request: RunRequest, settings: Mapping[str, Any], facts: ModeFacts, tree: ConfigTree | None = None) -> Iterator[str]:
    """The dotted keys set on the command line or in option files of the user's own of which no options say exactly what they may be."""
    tree = tree or config_tree()
    lists = {text.lstrip("+~").partition("=")[0]: text.partition("=")[2] for text in request.groups}  # hydra does not report them
    own = [
        name
        for group, chosen in {**request.choices, **lists}.items()
        for option in re.findall(r"[^\s\[\],']+", chosen)
        if _is_own(name := f"{group}/{option}", tree)
    ]
    for key in [*(value.key for value in request.values), *(key for name in own for key in _keys(name, tree))]:
        looked_up = key == "arch.name" and settings["arch"].get("backend") in ("monai", "timm")
        if not (looked_up or key.endswith(".monitor") or _is_exact(find_schema(key, settings, facts))):
            yield key


def _is_exact(node: Mapping[str, Any] | None) -> bool:
    """Whether whatever fits the schema is right: of texts and mappings it cannot say."""
    if node is None:
        return False
    if "anyOf" in node:
        return all(_is_exact(branch) for branch in node["anyOf"])
    if node.get("type") == "array":
        return all(_is_exact(item) for item in node.get("prefixItems") or [node.get("items")])
    return "const" in node or "enum" in node or node.get("type") in ("integer", "number", "boolean", "null")


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


def check(options: Mapping[str, Options], keys: Iterable[str]) -> None:
    """Build each part of a training that one of ``keys`` belongs to.

    Raises:
        MMLMisconfigurationException: it cannot be built; says what is wrong.
    """
    touched = {key.partition(".")[0] for key in keys}
    for group, build in _BUILDERS.items():
        if group in touched and (group in options or group == "cbs"):
            build(options)


def _arch(options: Mapping[str, Any]) -> None:
    """The network, on the CPU and without weights; one of a plugin may be anything, and is left to the run."""
    arch = options["arch"].plain()
    backend = str(arch.pop("backend", None))
    if backend in ("monai", *_WITHOUT_WEIGHTS):
        registry.lookup("architecture", backend)({**arch, **_WITHOUT_WEIGHTS.get(backend, {})})


def _optimizer(options: Mapping[str, Any]) -> Any:
    import torch

    from mml_ray.models.optimizers import build_optimizer

    return build_optimizer([torch.nn.Parameter(torch.zeros(1))], options["optimizer"])


def _schedule(options: Mapping[str, Any]) -> None:
    from mml_ray.models.optimizers import ScheduleTarget, build_schedule

    if options["lr_scheduler"].name:
        build_schedule(ScheduleTarget(_optimizer(options), options["trainer"].max_epochs, lambda: 1), options["lr_scheduler"])


def _routes(options: Options) -> Iterator[tuple[str, list[Any]]]:
    """The lists of a group, by kind of task."""
    chosen = options.plain()
    yield from ((route, chosen[route]) for route in options.model_extra or () if chosen[route] is not None)


def _loss(options: Mapping[str, Any]) -> None:
    from mml_ray.models.losses import Losses

    for _, items in _routes(options["loss"]):
        Losses(items)


def _metrics(options: Mapping[str, Any]) -> None:
    from mml_ray.metrics.definition import MetricSet

    for route, items in _routes(options["metrics"]):
        MetricSet(route, 1, items)


def _callbacks(options: Mapping[str, Any]) -> None:
    from mml_ray.training.callbacks import create_callbacks

    create_callbacks({key.partition(".")[2]: made for key, made in options.items() if key.startswith("cbs.")})


def _augmentations(options: Mapping[str, Any]) -> None:
    from mml_ray.data.augment import build_cpu, build_gpu

    build_cpu(options["augmentations"].cpu)
    build_gpu(options["augmentations"].gpu)


def _preprocessing(options: Mapping[str, Any]) -> None:
    from mml_ray.data.augment import build_preprocessing

    build_preprocessing(options["preprocessing"].pipeline)


def _views(options: Mapping[str, Any]) -> None:
    from mml_ray.data.augment.tta import TestTimeAugmentation

    TestTimeAugmentation(options["tta"].variations)


def _compile(options: Mapping[str, Any]) -> None:
    import torch

    compilation = options["compile"]
    if compilation.enable:
        try:
            torch.compile(torch.nn.Identity(), **(compilation.kwargs or {}))
        except (TypeError, ValueError, RuntimeError) as error:
            raise MMLMisconfigurationException(
                f"compile.kwargs={in_words(compilation.kwargs)}: {' '.join(str(error).split())}"
            ) from error


def _tune(options: Mapping[str, Any]) -> None:
    given = {"lr": options["tune"].lr_kwargs, "bs": options["tune"].bs_kwargs}
    if not any(given.values()):
        return
    from lightning.pytorch.tuner.tuning import Tuner

    own = ("self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule")
    for search, method in (("lr", Tuner.lr_find), ("bs", Tuner.scale_batch_size)):
        allowed = [name for name in inspect.signature(method).parameters if name not in own]
        for name in given[search]:
            if name not in allowed:
                raise MMLMisconfigurationException(no_option_message(f"tune.{search}_kwargs", name, allowed))


def _trainer(options: Mapping[str, Any]) -> None:
    """A trainer on the CPU: whether the device is there is a matter of the machine that a command will run on."""
    from mml_ray.training.trainer import check_strategy, create_trainer

    check_strategy(options["trainer"].strategy)
    here = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "deterministic": False}
    create_trainer(options["trainer"].model_copy(update=here))


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
