"""The modes ``train``, ``predict`` and ``test``: one model for each fold, all folds side by side."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig

from mml_ray.composition.portable import portable
from mml_ray.errors import MMLMisconfigurationException, TaskNotFoundError
from mml_ray.options import Field, Numbers, Off, Texts
from mml_ray.preflight.facts import ModeOptions
from mml_ray.preflight.tasks import TaskChecks
from mml_ray.report.tables import Table, score_table
from mml_ray.schedulers import components
from mml_ray.schedulers import folds as fold_plan
from mml_ray.schedulers.base import AbstractBaseScheduler, Handle
from mml_ray.seeding import keyed_seed
from mml_ray.store.artifacts import ModelStorage
from mml_ray.store.pipeline import PipelineCfg
from mml_ray.tasks.struct import TaskStruct

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

log = logging.getLogger(__name__)


class TrainingOptions(ModeOptions):
    """Of the modes ``train``, ``predict`` and ``test``."""

    cv: bool = True
    nested: bool = True
    store_parameters: bool = True
    store_best: bool = True
    multitask: Off | Annotated[int, Field(gt=1)] = False
    co_tasks: Literal["random"] | Texts = "random"
    task_weights: Numbers | None = None
    eval_on: Texts | None = None
    use_blueprint: bool = False
    pipeline_keys: Texts = ()


#: what every use of a model reads
_LOADING = ("augmentations", "cbs", "loaders", "num_workers", "preprocessing", "sampling", "trainer")
_LEARNING = ("arch", "compile", "loss", "lr_scheduler", "metrics", "optimizer", "peft", "reuse.blueprint", "tune")


class TrainingScheduler(AbstractBaseScheduler):
    """Trains the pivot task (``train``), writes predictions (``predict``), evaluates (``test``).

    With ``mode.cv`` one model for each fold; with ``mode.nested`` each fold in turn is the test data of a tagged task
    ``<pivot>+nested?<k>`` whose remaining data is split into as many folds again.
    """

    gpu_commands = frozenset({"train_fold", "predict_fold", "test_task"})
    uses_ray_when_sequential = True
    mode_options = TrainingOptions
    uses = {
        "train": (*_LOADING, *_LEARNING),
        "predict": (*_LOADING, "reuse.models", "tta"),
        "test": (*_LOADING, "reuse.models", "tta"),
    }

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["train", "predict", "test"])
        self.co_tasks: list[str] = []
        self.task_weights: list[float] | None = None

    # -- the plan --------------------------------------------------------------------------------------------------------------------
    def create_routine(self) -> None:
        """Trainings come first in the plan; a fold is predicted and tested as soon as its own training has committed."""
        fold_plan.check(self)
        self.co_tasks = self._chosen_co_tasks()
        self.task_weights = self._chosen_weights()
        trained_tasks = [str(self.pivot), *self.co_tasks]
        checks = TaskChecks(self.cfg, self.fm.data)
        if "train" in self.subroutines:
            fold_plan.check_blueprint(self)
            checks.check_linked(trained_tasks)
        if {"predict", "test"} & set(self.subroutines):
            checks.check_views([str(self.pivot)])
        units = fold_plan.units(self)
        if "train" in self.subroutines:
            checks.check_training(trained_tasks, [[unit.task, *self.co_tasks] for unit in units])
        fold_plan.check_models(self, units)
        self.cfg.task_list = list(dict.fromkeys([*self.cfg.task_list, *(unit.task for unit in units)]))
        last: dict[str, list[Handle]] = {unit.name: [] for unit in units}
        for unit in units if "train" in self.subroutines else ():
            last[unit.name] = [self.add(self.train_fold, unit.task, unit.fold, after=[], unit=unit.name)]
        for unit in units if "predict" in self.subroutines else ():
            for task in unit.predict_on:
                last[unit.name] = [self.add(self.predict_fold, unit.task, unit.fold, task, after=last[unit.name], unit=unit.name)]
        for unit in units if "test" in self.subroutines else ():
            for task in unit.test_on:
                last[unit.name] = [self.add(self.test_task, unit.task, unit.fold, task, after=last[unit.name], unit=unit.name)]

    def _chosen_co_tasks(self) -> list[str]:
        """The other tasks of a multi-task training; random ones are a function of the run's seed."""
        total = self.cfg.mode.multitask
        if not total:
            if self.cfg.mode.co_tasks != "random":
                raise MMLMisconfigurationException(
                    "mode.co_tasks is set, but mode.multitask=false trains the pivot alone. Set mode.multitask=<number of tasks>."
                )
            return []
        pivot, chosen, wanted = str(self.pivot), self.cfg.mode.co_tasks, int(total) - 1
        if chosen != "random":
            named = fold_plan.checked_co_tasks([str(name) for name in chosen], list(self.cfg.task_list), pivot)
            if len(named) != wanted:
                raise MMLMisconfigurationException(
                    f"mode.multitask={total} needs {wanted} task(s) in addition to the pivot, but mode.co_tasks names {len(named)}: "
                    f"{', '.join(named)}."
                )
            return named
        candidates = [name for name in self.cfg.task_list if fold_plan.base_of(name) != fold_plan.base_of(pivot)]
        if len(candidates) < wanted:
            raise MMLMisconfigurationException(
                f"mode.multitask={total} needs {wanted} other task(s), but task_list has only {len(candidates)}: {', '.join(candidates) or 'none'}."
            )
        return random.Random(keyed_seed(self.cfg.get("seed", 0) or 0, "co_tasks", pivot)).sample(sorted(candidates), wanted)

    def _chosen_weights(self) -> list[float] | None:
        weights = self.cfg.mode.task_weights
        if weights is None:
            return None
        if len(weights) != 1 + len(self.co_tasks):
            raise MMLMisconfigurationException(
                f"mode.task_weights must have one weight for each task (pivot first: {', '.join([str(self.pivot), *self.co_tasks])}), "
                f"got {list(weights)}."
            )
        if min(weights) < 0 or not sum(weights):
            raise MMLMisconfigurationException(f"mode.task_weights must be non-negative and not all zero, got {list(weights)}.")
        return [float(weight) for weight in weights]

    # -- commands --------------------------------------------------------------------------------------------------------------------
    def train_fold(self, task: str, fold: int) -> dict[str, Any]:
        """Train one model; stores pipeline, weights and model description. Returns its score and the metrics of its last epoch."""
        from mml_ray.training.fit import fit

        struct = self.get_struct(task)
        listed = [struct, *(self.get_struct(name) for name in self.co_tasks)]
        with self._pipeline(struct):
            datamodule = self.create_datamodule(listed, fold)
            model = self.create_model(listed, self.task_weights)
            monitor = (f"val/{task}/loss", "min") if self.cfg.mode.store_best else None
            trainer = self.create_trainer(monitor=monitor, metrics_callback=True)
            self.before_training_hook(datamodule, model, trainer, fold, task)
            self.lightning_tune(trainer, model, datamodule)
            fitted = fit(model, datamodule, trainer, task=task)
            self.after_training_hook(datamodule, model, trainer, fold, task)
            storage = self._store_model(struct, fold, model, fitted)
        struct.models.append(storage)
        return {"score": fitted.score, "epochs": fitted.epochs, "metrics": fitted.metrics[-1] if fitted.metrics else {}}

    def before_training_hook(
        self, datamodule: LightningDataModule, model: LightningModule, trainer: Trainer, fold: int, task_name: str
    ) -> None:
        """Called right before a training starts; derived modes may change the model here."""

    def after_training_hook(
        self, datamodule: LightningDataModule, model: LightningModule, trainer: Trainer, fold: int, task_name: str
    ) -> None:
        """Called right after a training has ended, before anything is stored."""

    def predict_fold(self, task: str, fold: int, eval_on: str | None = None) -> dict[str, int]:
        """Predict TEST, VAL and UNLABELLED of a task (default: its own) with the model of a fold; returns the rows by split.

        A model of a nested variant of the evaluated task was trained on that task's validation data, so that split is left out.
        """
        from mml_ray.store.predictions import store_predictions
        from mml_ray.training.predict import predict

        own, evaluated, storage = self._loaded(task, fold, eval_on)
        splits = ["TEST", "UNLABELLED"] if fold_plan.has_seen_validation(task, evaluated.name) else ["TEST", "VAL", "UNLABELLED"]
        model = self.create_model([own], load_parameters=storage.parameters)
        datamodule = self.create_datamodule(evaluated, fold_plan.evaluated_fold(fold, evaluated))
        table = predict(
            model,
            datamodule,
            self.create_trainer(),
            task=own.name,
            evaluated=evaluated.name,
            splits=splits,
            fold=fold,
            tta=components.plain(self, "tta"),
            class_names=evaluated.class_names,
        )
        number = fold_plan.outer_fold(task, fold)
        path = self.fm.construct_saving_path(
            table, "predictions", task_name=evaluated.name, file_name=f"preds-fold-{number}.parquet"
        )
        store_predictions(table, path)
        storage.predictions[evaluated.name] = path
        return {split: sum(1 for value in table.column("split").to_pylist() if value == split) for split in splits}

    def test_task(self, task: str, fold: int, eval_on: str | None = None) -> dict[str, float]:
        """Evaluate the model of a fold on the test split of a task (default: its own); returns and stores the metrics."""
        from mml_ray.training.predict import test

        own, evaluated, storage = self._loaded(task, fold, eval_on)
        model = self.create_model([own], load_parameters=storage.parameters)
        datamodule = self.create_datamodule(evaluated, fold_plan.evaluated_fold(fold, evaluated))
        tta = components.plain(self, "tta")
        metrics = test(model, datamodule, self.create_trainer(), task=own.name, evaluated=evaluated.name, tta=tta)
        storage.metrics.append(metrics)
        return metrics

    # -- steps of commands -----------------------------------------------------------------------------------------------------------
    def _loaded(self, task: str, fold: int, eval_on: str | None) -> tuple[TaskStruct, TaskStruct, ModelStorage]:
        own = self.get_struct(task)
        evaluated = own if eval_on in (None, task) else self.get_struct(str(eval_on))
        fold_plan.check_same_kind(own, evaluated)
        return own, evaluated, self._newest_model(own, fold)

    def _newest_model(self, struct: TaskStruct, fold: int) -> ModelStorage:
        fitting = [model for model in struct.models if model.fold == fold]
        if not fitting:
            raise TaskNotFoundError(
                f"Task '{struct.name}' has no trained model of fold {fold}. Train it first, or load models with reuse.models=<project>."
            )
        newest: ModelStorage = max(fitting, key=lambda model: (str(model.created), str(model.path)))
        if newest.parameters is None or not self.fm.files.exists(newest.parameters):
            raise TaskNotFoundError(
                f"The model {newest.path} has no weights, so it can neither predict nor be tested: it was trained with "
                "mode.store_parameters=false, or they were removed."
            )
        return newest

    def _store_model(self, struct: TaskStruct, fold: int, model: LightningModule, fitted: Any) -> ModelStorage:
        from mml_ray.models.checkpoint import save_weights

        pipeline = PipelineCfg.from_cfg(portable(self.cfg), list(self.cfg.mode.pipeline_keys))
        pipeline_path = self.fm.construct_saving_path(pipeline, "pipeline", task_name=struct.name)
        pipeline.store(pipeline_path)
        parameters = None
        if self.cfg.mode.store_parameters:
            model.load_state_dict(fitted.best_state if self.cfg.mode.store_best else fitted.last_state)
            parameters = self.fm.construct_saving_path(model, "parameters", task_name=struct.name)
            save_weights(model, parameters)  # type: ignore[arg-type]  # create_model makes nothing else
        storage = ModelStorage(
            pipeline=pipeline_path,
            parameters=parameters,
            performance=fitted.score if math.isfinite(fitted.score) else None,
            training_time=fitted.seconds,
            task=struct.name,
            fold=fold,
            metrics=list(fitted.metrics),
        )
        path = self.fm.construct_saving_path(storage, "models", task_name=struct.name, file_name=f"fold_{fold}.json")
        storage.store(path, results_root=self.fm.results_path)
        return storage

    def _pipeline(self, struct: TaskStruct) -> Any:
        """The context in which the blueprint of a task (``mode.use_blueprint``) replaces parts of the configuration."""
        if not self.cfg.mode.use_blueprint:
            return contextlib.nullcontext()
        keys = [key for key in self.cfg.mode.pipeline_keys if key not in ("mode", "preprocessing")]
        return PipelineCfg.load(self._blueprint(struct), keys, files=self.fm.files).activate(self.cfg)

    def _blueprint(self, struct: TaskStruct) -> Path:
        """The blueprint of a task, or of the pivot for its nested variants; raises if neither has one."""
        for owner in (struct, self.get_struct(str(self.pivot))):
            if "blueprint" in owner.paths:
                return Path(owner.paths["blueprint"])
        raise fold_plan.missing_blueprint(str(self.pivot))

    def summary_tables(self) -> list[Table]:
        """The folds' scores and, if they were tested, their metrics on the test data."""
        trained = [
            (list(map(str, entry["params"])), {"validation_loss": entry["result"]["score"], "epochs": entry["result"]["epochs"]})
            for entry in self.fm.results("train_fold")
        ]
        tables = [score_table("Training", ["task", "fold"], trained)] if trained else []
        return [*tables, *tables_of_tests(self.fm.results("test_task"))]

    # -- the end -----------------------------------------------------------------------------------------------------------------------
    def before_finishing_hook(self) -> None:
        """The return value of the run: the mean score of all folds."""
        scores = [result["score"] for result in self.results(self.train_fold) if result["score"] is not None]
        finite = [score for score in scores if math.isfinite(score)]
        if finite:
            self.return_value = sum(finite) / len(finite)
        if len(finite) < len(scores):
            log.warning("%d of %d folds have no finite score.", len(scores) - len(finite), len(scores))


def tables_of_tests(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each evaluated task (``mode.eval_on``), since a mean is over folds, not over tasks."""
    rows = [_test_row(entry["params"], entry["result"]) for entry in results]
    tasks = dict.fromkeys(labels[-1] for labels, _ in rows)
    return [
        score_table("Test", ["model of", "fold", "evaluated on"], [row for row in rows if row[0][-1] == task]) for task in tasks
    ]


def _test_row(params: list[Any], result: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The metrics without those of the bootstrap, which would make the table unreadable (the model's description has them)."""
    task, fold, evaluated = params
    metrics = {name.rpartition("/")[2]: value for name, value in result.items()}
    shown = {name: value for name, value in metrics.items() if not name.endswith(("_std", "_mean"))}
    return [str(task), str(fold), str(evaluated or "its own test data")], shown
