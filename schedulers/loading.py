"""The scheduler class that a configuration names, and what it tells of its mode."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from mml_ray.composition.compose import compose_run
from mml_ray.composition.request import RunFlags, RunRequest
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.preflight.check import check
from mml_ray.preflight.facts import ModeFacts, used_by
from mml_ray.schedulers.base import AbstractBaseScheduler, NoSubroutineError


def compose_checked(argv: Sequence[str], flags: RunFlags | None = None) -> RunRequest:
    """Compose the configuration of ``mode key=value ...`` and check it.

    Raises:
        UserError: what is wrong with it.
    """
    request = compose_run(argv, flags)
    return check(request, mode_facts(request.cfg))


def mode_facts(cfg: DictConfig) -> ModeFacts:
    """What the checks need to know of the mode. Of one whose class cannot be imported nothing is known: making it will tell why."""
    name = str(OmegaConf.select(cfg, "mode.id", default=""))
    try:
        kind = scheduler_class(cfg)
    except MMLMisconfigurationException:
        return ModeFacts(name)
    chosen = cfg.mode.get("subroutines", None) or ()
    subroutines = (str(chosen),) if isinstance(chosen, str) else tuple(str(subroutine) for subroutine in chosen)
    declared = vars(kind)  # a subclass may read more than its base does
    return ModeFacts(
        name,
        options=declared.get("mode_options"),
        uses=used_by(declared.get("uses"), subroutines),
        builds_models="pipeline_keys" in cfg.mode,
    )


def subroutines(cfg: DictConfig) -> list[str]:
    """What ``mode.subroutines`` may name: a scheduler says it first of all when it is made, so none is made to the end."""
    with open_dict(cfg):
        cfg.mode.subroutines = []
    kind = scheduler_class(cfg)
    unmade = kind.__new__(kind)
    with contextlib.suppress(NoSubroutineError):
        kind.__init__(unmade, cfg)  # type: ignore[call-arg]
    return unmade.available_subroutines


def scheduler_class(cfg: DictConfig) -> type[AbstractBaseScheduler]:
    """The class that ``mode.scheduler._target_`` names.

    Raises:
        MMLMisconfigurationException: the class cannot be imported, or is not a scheduler.
    """
    target = str(OmegaConf.select(cfg, "mode.scheduler._target_", default=""))
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MMLMisconfigurationException(
            f"mode.scheduler._target_='{target}' cannot be imported: {error}. It is the full name of a scheduler class, "
            "such as mml_ray.schedulers.train.TrainingScheduler."
        ) from error
    if not (isinstance(found, type) and issubclass(found, AbstractBaseScheduler)):
        raise MMLMisconfigurationException(f"mode.scheduler._target_='{target}' is not a subclass of AbstractBaseScheduler.")
    return found
