"""Names that a training takes from the registry are looked up before it starts, not in its first command.

Looking up imports the room that registers a kind, torch included. So the names of the shipped option files are known to be right
(a test holds them against the registry), and only others are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mml_ray.errors import UnknownNameError
from mml_ray.registry import registry

#: registry kind -> names that need no looking up
KNOWN: dict[str, frozenset[str]] = {
    "architecture": frozenset({"monai", "smp", "timm"}),
    "augmentation": frozenset({"cpu/albumentations", "cpu/kornia", "cpu/torchvision", "gpu/kornia", "gpu/torchvision"}),
    "callback": frozenset(
        "cutmix device_stats_monitor early_stopping learning_rate_monitor mixup stochastic_weight_averaging".split()
    ),
    "loader": frozenset({"class", "combined", "multi_label", "numpy", "opencv", "opencv_mask", "pillow", "soft_label", "value"}),
    "loss": frozenset({"bce_with_logits", "cross_entropy", "dice", "huber", "mse", "soft_label_cross_entropy"}),
    "metric": frozenset(
        "accuracy f1 average_precision auroc matthews_corrcoef precision recall calibration_error multilabel_average_precision "
        "multilabel_ranking_average_precision multilabel_coverage_error dice mean_squared_error spearman_corrcoef".split()
    ),
    "optimizer": frozenset({"adam", "adamw", "sgd"}),
    "scheduler": frozenset({"cosine", "cosine_restart", "exponential", "one_cycle", "plateau", "step"}),
}
#: networks of arch=monai that need no building to know that they are there
KNOWN_NETWORKS = frozenset({"resnet_small", "resnet10", "resnet18", "resnet34", "resnet50", "densenet121", "basic_unet"})


def chosen(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, registry kind, name) of everything that resolved settings choose by name."""
    yield from _one(settings, "optimizer", "optimizer", "name")
    yield from _one(settings, "lr_scheduler", "scheduler", "name")
    yield from _one(settings, "arch", "architecture", "backend")
    for group, kind in (("loss", "loss"), ("metrics", "metric")):
        routes = {name: items for name, items in (settings.get(group) or {}).items() if name != "class_weights"}
        for route, items in routes.items():
            for position, item in enumerate(items if isinstance(items, list) else []):
                name = item.get("type") if isinstance(item, dict) else item
                if name is not None:
                    yield f"{group}.{route}.{position}", kind, str(name)
    for identity, callback in (settings.get("cbs") or {}).items():
        if not (isinstance(callback, dict) and "_target_" in callback):
            yield f"cbs.{identity}", "callback", str((callback or {}).get("name", identity))
    for modality, name in (settings.get("loaders") or {}).items():
        yield f"loaders.{modality}", "loader", str(name)
    for side in ("cpu", "gpu"):
        backend = ((settings.get("augmentations") or {}).get(side) or {}).get("backend")
        if backend is not None:
            yield f"augmentations.{side}.backend", "augmentation", f"{side}/{backend}"


def _one(settings: Mapping[str, Any], group: str, kind: str, key: str) -> Iterator[tuple[str, str, str]]:
    given = settings.get(group) or {}
    if given.get(key) is not None and "_target_" not in given:
        yield f"{group}.{key}", kind, str(given[key])


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise :class:`UnknownNameError`, with the key and the close names, for the first name that nobody registered."""
    for key, kind, name in chosen(settings):
        if name not in KNOWN[kind]:
            registry.lookup(kind, name, f"({key})")
    arch = settings.get("arch") or {}
    if arch.get("backend") == "monai" and arch.get("name") not in KNOWN_NETWORKS:
        _check_network(arch)


def _check_network(arch: Mapping[str, Any]) -> None:
    """Build it once, on the CPU and without weights: only that tells whether name and parameters are right."""
    build = registry.lookup("architecture", "monai")
    try:
        build({key: value for key, value in arch.items() if key != "backend"})
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} (arch.name)") from error
