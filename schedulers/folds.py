"""The folds that are trained, and the tasks that each of their models is evaluated on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError, unknown_name_message
from mml_ray.store.pipeline import PIPELINE_KEYS, PipelineCfg
from mml_ray.tasks.struct import TaskStruct
from mml_ray.tasks.tags import parse

if TYPE_CHECKING:
    from mml_ray.schedulers.base import AbstractBaseScheduler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unit:
    """One model: the task and the fold it is trained on, and the tasks it predicts and is tested on (``None``: its own). ``name`` is what
    its commands have in common in the plan.
    """

    name: str
    task: str
    fold: int
    predict_on: tuple[str | None, ...]
    test_on: tuple[str | None, ...]


def units(scheduler: AbstractBaseScheduler) -> list[Unit]:
    """The models of a run, by ``mode.cv`` and ``mode.nested``."""
    mode, pivot = scheduler.cfg.mode, str(scheduler.pivot)
    evaluated = eval_on(scheduler)
    count = _struct(scheduler, pivot).n_folds if mode.cv else 1
    if mode.cv and count < 2:
        raise MMLMisconfigurationException(
            f"Cross-validation needs at least two folds, but task '{pivot}' has {count}. Set mode.cv=false mode.nested=false."
        )
    listed = []
    for number in range(count):
        task, fold = (f"{pivot}+nested?{number}", 0) if mode.nested else (pivot, number)
        own: tuple[str | None, ...] = (None, pivot) if mode.nested else (None,)
        listed.append(Unit(f"fold {number}", task, fold, tuple(evaluated) or own, tuple(evaluated) or (None,)))
    return listed


def eval_on(scheduler: AbstractBaseScheduler) -> list[str]:
    """``mode.eval_on`` as a list; empty: every model is evaluated on its own task."""
    given = scheduler.cfg.mode.eval_on
    names = [] if given is None else [str(given)] if isinstance(given, str) else [str(name) for name in given]
    for name in names:
        if name not in scheduler.cfg.task_list:
            raise MMLMisconfigurationException(unknown_name_message("task in mode.eval_on", name, scheduler.cfg.task_list))
        check_same_kind(_struct(scheduler, str(scheduler.pivot)), _struct(scheduler, name))
    if names and not {"predict", "test"} & set(scheduler.subroutines):
        log.warning("mode.eval_on has no effect: mode.subroutines contains neither predict nor test.")
    return list(dict.fromkeys(names))


def _struct(scheduler: AbstractBaseScheduler, name: str) -> TaskStruct:
    from mml_ray.prepare.variants import planned_struct

    return planned_struct(scheduler.fm.data, name, str(scheduler.cfg.preprocessing.id))


def check(scheduler: AbstractBaseScheduler) -> None:
    """Refuse contradictory settings: no pivot, predictions without stored weights, validation data used twice, ..."""
    cfg, mode = scheduler.cfg, scheduler.cfg.mode
    if not scheduler.pivot:
        raise MMLMisconfigurationException("There is no task to train. Choose one with tasks=<option>, or pivot.name=<task>.")
    training = "train" in scheduler.subroutines
    evaluating = {"predict", "test"} & set(scheduler.subroutines)
    if training and evaluating and not mode.store_parameters:
        raise MMLMisconfigurationException(
            f"mode.store_parameters=false keeps no weights, which {' and '.join(sorted(evaluating))} need. "
            "To delete them once the run has succeeded, set remove.parameters=true."
        )
    if training and evaluating and cfg.get("reuse", {}).get("models", None):
        raise MMLMisconfigurationException(
            "reuse.models cannot be combined with training and predicting in one run. Leave it out, or set mode.subroutines=[predict]."
        )
    if cfg.trainer.get("check_val_every_n_epoch", 1) > cfg.trainer.max_epochs and mode.store_best and training:
        raise MMLMisconfigurationException(
            f"trainer.check_val_every_n_epoch={cfg.trainer.check_val_every_n_epoch} exceeds trainer.max_epochs={cfg.trainer.max_epochs}: "
            "no epoch would be validated, so there is no best one. Set mode.store_best=false."
        )
    unknown = [key for key in mode.pipeline_keys if key not in cfg]
    if unknown:
        raise UnknownNameError.of("group in mode.pipeline_keys", str(unknown[0]), PIPELINE_KEYS)
    if mode.nested and "+nested" in str(scheduler.pivot):
        log.warning("The pivot %s is already nested; mode.nested=true nests it once more.", scheduler.pivot)
    if mode.cv and not mode.nested and training:
        _check_validation_use(scheduler)
    if "test" in scheduler.subroutines and not mode.nested:
        log.warning("mode.nested=false evaluates on the real test data of %s.", scheduler.pivot)


def check_blueprint(scheduler: AbstractBaseScheduler) -> None:
    """Raises MMLMisconfigurationException if a blueprint is used but none is loaded for the pivot or a variant of it."""
    pivot = base_of(str(scheduler.pivot))
    if not scheduler.cfg.mode.use_blueprint:
        return
    reusables = scheduler.fm.reusables.items()
    found = [content["blueprint"] for name, content in reusables if base_of(name) == pivot and "blueprint" in content]
    if not found:
        raise missing_blueprint(str(scheduler.pivot))
    if "preprocessing" in scheduler.cfg.mode.pipeline_keys:
        # tasks are opened before a blueprint replaces anything, so its preprocessing must be chosen by hand
        current = str(scheduler.cfg.preprocessing.id)
        for path in found:
            stored = PipelineCfg.load(path, files=scheduler.fm.files).content.get("preprocessing")
            wanted = str(stored.get("id", current)) if isinstance(stored, dict) else current
            if wanted != current:
                log.warning(
                    "The blueprint %s was made with preprocessing=%s, but does not set it: this run uses %s. To train as the "
                    "blueprint did, add preprocessing=%s.", path, wanted, current, wanted,
                )  # fmt: skip


def missing_blueprint(task: str) -> MMLMisconfigurationException:
    """The error that a task has no blueprint."""
    return MMLMisconfigurationException(
        f"mode.use_blueprint=true, but task '{task}' has no blueprint. Load one with reuse.blueprint=<project>."
    )


def check_models(scheduler: AbstractBaseScheduler, listed: list[Unit]) -> None:
    """Raises MMLMisconfigurationException if a model is evaluated that neither this run trains nor ``reuse.models`` loads."""
    if "train" in scheduler.subroutines:
        return
    loaded = {name: {model.fold for model in content.get("models", ())} for name, content in scheduler.fm.reusables.items()}
    missing = [unit for unit in listed if unit.fold not in loaded.get(unit.task, ())]
    if not missing:
        return
    reused = scheduler.cfg.get("reuse", {}).get("models", None)
    where = (
        f"Project {reused} (reuse.models) does not have it."
        if reused
        else "Load models with reuse.models=<project>, or train them in the same run."
    )
    rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise MMLMisconfigurationException(
        f"Task '{missing[0].task}' has no trained model of fold {missing[0].fold}{rest}. {where} "
        "mode.cv and mode.nested must be as in the training."
    )


def _check_validation_use(scheduler: AbstractBaseScheduler) -> None:
    """Without nesting the folds are compared on their validation data, so no training may be steered by it."""
    callbacks = scheduler.cfg.get("cbs", None) or {}
    stopping = [key for key, item in callbacks.items() if "monitor" in (item or {}) and "val" in str(item["monitor"])]
    plateau = str(scheduler.cfg.lr_scheduler.get("name", None) or "").lower() in ("plateau", "reduce_on_plateau")
    if stopping or plateau:
        what = f"callback '{stopping[0]}'" if stopping else "lr_scheduler=plateau"
        raise MMLMisconfigurationException(
            f"{what} follows the validation loss, on which the folds of a cross-validation without nesting are compared. "
            "Set mode.nested=true."
        )


def checked_co_tasks(chosen: list[str], listed: list[str], pivot: str) -> list[str]:
    """The explicit co-tasks; raises if one is not in the list, is named twice, or is the pivot."""
    for name in chosen:
        if name not in listed:
            raise MMLMisconfigurationException(
                unknown_name_message("task in mode.co_tasks", name, listed, "It must be in task_list.")
            )
    if len(set(chosen)) < len(chosen):
        raise MMLMisconfigurationException(f"mode.co_tasks must not name a task twice, got {', '.join(chosen)}.")
    if pivot in chosen:
        raise MMLMisconfigurationException(f"mode.co_tasks must not name the pivot '{pivot}', which is always trained.")
    return chosen


def base_of(name: str) -> str:
    """The name of a task without its tags."""
    return str(parse(name).base)


def outer_fold(task: str, fold: int) -> int:
    """The fold of this model in the outer cross-validation: for a nested task the argument of its last ``nested`` tag."""
    nested = [tag for tag in parse(task).tags if tag.name == "nested"]
    return int(nested[-1].args[0]) if nested else fold


def has_seen_validation(task: str, evaluated: str) -> bool:
    """Whether the validation data of the evaluated task was training data of the model (a nested variant takes it from its base)."""
    return task != evaluated and base_of(task) == base_of(evaluated)


def evaluated_fold(fold: int, evaluated: TaskStruct) -> int:
    """The fold of the evaluated task: the same number if there is one, else its first."""
    return fold if fold < max(1, evaluated.n_folds) else 0


def check_same_kind(own: TaskStruct, evaluated: TaskStruct) -> None:
    """Raises MMLMisconfigurationException unless both tasks have the same type and number of classes."""
    if own.task_type != evaluated.task_type or own.num_classes != evaluated.num_classes:
        raise MMLMisconfigurationException(
            f"A model of '{own.name}' ({own.task_type}, {own.num_classes} classes) cannot be evaluated on '{evaluated.name}' "
            f"({evaluated.task_type}, {evaluated.num_classes} classes)."
        )
