"""Names that a training takes from the registry are looked up before it starts, not in its first command.

Looking up imports the package that registers a kind, torch included. So the names of the shipped option files are known to be right
(a test holds them against the registry), and only others are looked up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from mml_ray.data.options import AugmentationOptions, LoaderOptions
from mml_ray.errors import MissingExtraError, UnknownNameError
from mml_ray.models.options import ArchOptions, LossOptions, LrSchedulerOptions, MetricsOptions, OptimizerOptions
from mml_ray.options import Options
from mml_ray.registry import registry
from mml_ray.training.options import CallbackOptions

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
#: (registry kind, name) -> package and the extra that brings it
_PACKAGES: dict[tuple[str, str], tuple[str, str]] = {
    ("architecture", "timm"): ("timm", "timm"),
    ("architecture", "smp"): ("segmentation_models_pytorch", "smp"),
    ("augmentation", "cpu/torchvision"): ("torchvision", "torchvision"),
    ("augmentation", "gpu/torchvision"): ("torchvision", "torchvision"),
    ("loader", "torchvision"): ("torchvision", "torchvision"),
    ("loader", "scikit"): ("skimage", "scikit"),
}


def check(options: Mapping[str, Options]) -> None:
    """Look up what is chosen by name.

    Raises:
        UnknownNameError: nobody registered it (or a library has no such network); names the key and the close names.
        MissingExtraError: it needs a package that is not installed.
    """
    for key, kind, name in chosen(options):
        if name not in KNOWN[kind]:
            registry.lookup(kind, name, f"({key})")
        package, extra = _PACKAGES.get((kind, name), (None, ""))
        if package is not None and importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, extra, f"{key}={name.rpartition('/')[2]}")
    arch = options.get("arch")
    if isinstance(arch, ArchOptions):
        _check_network(arch)


def chosen(options: Mapping[str, Options]) -> Iterator[tuple[str, str, str]]:
    """(key, registry kind, name) of everything that is chosen by name."""
    for key, made in options.items():
        match made:
            case OptimizerOptions():
                yield "optimizer.name", "optimizer", made.name
            case LrSchedulerOptions(name=str(name)):
                yield "lr_scheduler.name", "scheduler", name
            case ArchOptions():
                yield "arch.backend", "architecture", made.backend
            case LossOptions() | MetricsOptions():
                kind = "loss" if isinstance(made, LossOptions) else "metric"
                for route, items in (made.model_extra or {}).items():
                    yield from ((f"{key}.{route}.{position}", kind, item.type) for position, item in enumerate(items or ()))
            case CallbackOptions():
                yield key, "callback", made.name or key.partition(".")[2]
            case LoaderOptions():
                yield from ((f"loaders.{modality}", "loader", name) for modality, name in (made.model_extra or {}).items())
            case AugmentationOptions():
                for side, pipeline in (("cpu", made.cpu), ("gpu", made.gpu)):
                    if pipeline.backend is not None:
                        yield f"augmentations.{side}.backend", "augmentation", f"{side}/{pipeline.backend}"


def _check_network(arch: ArchOptions) -> None:
    """A network of MONAI is built once, on the CPU and without weights: only that tells whether name and parameters are right."""
    if arch.backend == "timm" and arch.name != "resnet34":  # the default is known; timm takes seconds to load
        from mml_ray.models.architectures.timm import check_model

        check_model(arch.name)
    if arch.backend == "monai" and arch.name not in KNOWN_NETWORKS:
        network = {key: value for key, value in arch.plain().items() if key != "backend"}
        try:
            registry.lookup("architecture", "monai")(network)
        except UnknownNameError as error:
            raise UnknownNameError(f"{error} (arch.name)") from error
