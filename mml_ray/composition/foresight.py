"""What a training would stumble over in its first command, told before it starts: packages that are not installed, several devices
for one training, and settings that nothing obeys in this version.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mml_ray.composition.names import chosen
from mml_ray.errors import MissingExtraError, MMLMisconfigurationException

#: (registry kind, name) -> package and the extra that brings it
_PACKAGES: dict[tuple[str, str], tuple[str, str]] = {
    ("architecture", "timm"): ("timm", "timm"),
    ("architecture", "smp"): ("segmentation_models_pytorch", "smp"),
    ("augmentation", "cpu/torchvision"): ("torchvision", "torchvision"),
    ("augmentation", "gpu/torchvision"): ("torchvision", "torchvision"),
    ("loader", "torchvision"): ("torchvision", "torchvision"),
    ("loader", "scikit"): ("skimage", "scikit"),
}


def check_ahead(settings: Mapping[str, Any]) -> None:
    """Hold the resolved settings of a mode that trains against what is there.

    Raises:
        MissingExtraError: something that was chosen by name needs a package that is not installed.
        UnknownNameError: timm has no such model.
        MMLMisconfigurationException: several devices for one training, settings that contradict one another, or a setting that would
            silently do nothing.
    """
    for key, kind, name in chosen(settings):
        package, extra = _PACKAGES.get((kind, name), (None, ""))
        if package is not None and importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, extra, f"{key}={name.rpartition('/')[2]}")
    arch = settings.get("arch") or {}
    if arch.get("backend") == "timm" and arch.get("name") != "resnet34":  # the default is known; timm takes seconds to load
        from mml_ray.models.architectures.timm import check_model

        check_model(str(arch["name"]))
    trainer = settings.get("trainer") or {}
    devices = trainer.get("devices", 1)
    if (len(devices) if isinstance(devices, list) else devices) not in (1, "1", "auto", -1) and isinstance(
        trainer.get("strategy", "auto"), str
    ):
        raise MMLMisconfigurationException(
            f"trainer.devices={devices}: one training runs on one device. Several devices train several folds side by side."
        )
    if (settings.get("tune") or {}).get("lr") and (settings.get("compile") or {}).get("enable"):
        raise MMLMisconfigurationException("tune.lr=true cannot be combined with compile.enable=true: turn one of them off.")
    loss = settings.get("loss") or {}
    if loss.get("class_weights") and loss.get("auto_activate_weighing"):
        raise MMLMisconfigurationException(
            "loss.class_weights is given, and loss.auto_activate_weighing is on: turn it off with loss.auto_activate_weighing=false."
        )
    _check_trainer(trainer)
    for message in _without_effect(settings):
        raise MMLMisconfigurationException(message)


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    longest = trainer.get("max_time")
    if isinstance(longest, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", longest):
        raise MMLMisconfigurationException(
            f"trainer.max_time={longest}: allowed is null or days:hours:minutes:seconds, as in 00:12:00:00."
        )


def _without_effect(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is configured but not built yet: to ignore it would give results that look as if it had been obeyed."""
    if (settings.get("peft") or {}).get("name") is not None:
        yield f"peft={settings['peft']['name']}: adapters are not supported yet; all weights are trained (peft=none)."
    if settings.get("search_space"):
        yield "search_space: a hyper-parameter search is not supported yet; set the values themselves (search_space=none)."
    if settings.get("use_best_params"):
        given = settings["use_best_params"]
        yield f"use_best_params={given}: studies are not supported yet; set the values themselves (use_best_params=false)."
    for name, off in (("samples", 0), ("cm", False)):
        given = (settings.get("logging") or {}).get(name, off)
        if given:
            yield f"logging.{name}={str(given).lower()}: recording pictures is not supported yet; leave it out."
