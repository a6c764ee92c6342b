"""From configuration to typed arguments: data module, model and trainer of a command. The packages below never see ``cfg``."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mml_ray.composition import portable
from mml_ray.driver import worker
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import Options
from mml_ray.tasks.struct import TaskStruct

if TYPE_CHECKING:
    from lightning import Trainer

    from mml_ray.data.datamodule import MultiTaskDataModule
    from mml_ray.models.base import BaseModel
    from mml_ray.models.multi_task import MultiTaskModel
    from mml_ray.schedulers.base import AbstractBaseScheduler

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Options)


def plain(scheduler: AbstractBaseScheduler, key: str) -> dict[str, Any]:
    """One group of the configuration as plain data ({} if there is none)."""
    return portable.plain(scheduler.cfg, key)


def options_of(scheduler: AbstractBaseScheduler, cls: type[T]) -> T:
    """The options of one group; keys that another version wrote into a run's configuration are passed over."""
    return cls.of(plain(scheduler, cls.group), ignore_unknown=True)


def command_seed() -> int:
    """The seed of the running command; where nothing is seeded (``seed=0``), a fresh one."""
    seed = worker.current_seed()
    return secrets.randbits(62) if seed is None else seed


def create_datamodule(scheduler: AbstractBaseScheduler, structs: list[TaskStruct], fold: int) -> MultiTaskDataModule:
    """See ``AbstractBaseScheduler.create_datamodule``. The fold is taken modulo the number of folds of each task."""
    worker.prepare_torch()
    from mml_ray.data.datamodule import MultiTaskDataModule
    from mml_ray.data.options import AugmentationOptions, DataTask, LoadingOptions, PreprocessingOptions, SamplingOptions

    if not structs:
        raise MMLMisconfigurationException("create_datamodule needs at least one task struct.")
    if not 0 <= fold < max(1, structs[0].n_folds):
        raise MMLMisconfigurationException(
            f"Task '{structs[0].name}' has folds 0 to {structs[0].n_folds - 1}; asked for is fold {fold}."
        )
    root = scheduler.fm.data
    wanted = str(scheduler.cfg.preprocessing.id)
    tasks = [
        DataTask(
            name=struct.name,
            description=root.description_path(struct.name, wanted),
            root=root.path / struct.relative_root,
            fold=fold % struct.n_folds if struct.n_folds else 0,
            preprocessed=struct.preprocessed,
        )
        for struct in structs
    ]
    options = LoadingOptions(
        sampling=options_of(scheduler, SamplingOptions),
        preprocessing=options_of(scheduler, PreprocessingOptions),
        augmentations=options_of(scheduler, AugmentationOptions),
        loaders={str(key): str(value) for key, value in plain(scheduler, "loaders").items()},
        seed=command_seed(),
        num_workers=worker_processes(scheduler.cfg.get("num_workers", None)),
    )
    return MultiTaskDataModule(tasks, options=options)


def worker_processes(given: Any) -> int:
    """Loader processes of the running command: as given, or (``auto``) one for each of its threads, none if it has one thread."""
    if given in (None, "auto"):
        threads = worker.current_threads()
        return threads if threads > 1 else 0
    return int(given)


def create_model(
    scheduler: AbstractBaseScheduler, structs: list[TaskStruct], *, task_weights: list[float] | None, load_parameters: Path | None
) -> BaseModel:
    """See ``AbstractBaseScheduler.create_model``. Heads that the file does not have are added."""
    worker.prepare_torch()
    from mml_ray.models import build_model

    weights = task_weights or [1.0] * len(structs)
    if len(weights) != len(structs):
        raise MMLMisconfigurationException(
            f"{len(weights)} task weights for {len(structs)} tasks: {[struct.name for struct in structs]}."
        )
    tasks = {struct.name: {**struct.to_model_spec(), "weight": weight} for struct, weight in zip(structs, weights, strict=True)}
    if load_parameters is not None:
        from mml_ray.models.checkpoint import load_model

        model = cast("MultiTaskModel", load_model(scheduler.fm.files.get(load_parameters)))
        for name, spec in tasks.items():
            if name not in model.specs:
                model.add_head(name, spec)
        return model
    groups = {"losses": "loss"} | {key: key for key in ("arch", "metrics", "optimizer", "lr_scheduler", "compile")}
    return build_model(
        {
            "model": "multi_task",
            "seed": command_seed(),
            "tasks": tasks,
            **{key: plain(scheduler, group) for key, group in groups.items()},
            "balanced": bool(plain(scheduler, "sampling").get("balanced", False)),
        }
    )


def create_trainer(scheduler: AbstractBaseScheduler, *, monitor: tuple[str, str] | None, metrics_callback: bool) -> Trainer:
    """See ``AbstractBaseScheduler.create_trainer``."""
    worker.prepare_torch()
    from mml_ray.training.fit import find_callback
    from mml_ray.training.loop import MetricsTracker, TrainingCheckpoint
    from mml_ray.training.options import TrainerOptions
    from mml_ray.training.trainer import TrainerContext, create_trainer

    manager = scheduler.fm
    bound = manager.attempt is not None
    trainer = create_trainer(
        options_of(scheduler, TrainerOptions),
        TrainerContext(
            seed=worker.current_seed(),
            monitor=monitor,
            callbacks=plain(scheduler, "cbs"),
            checkpoint_dir=scheduler.get_checkpoints_dir() if bound else None,
            files=manager.files,
            report=manager.report if bound else None,
            should_stop=manager.should_stop if bound else None,
        ),
    )
    scheduler.checkpoint_callback = find_callback(trainer, TrainingCheckpoint)
    if metrics_callback:
        scheduler.metrics_callback = find_callback(trainer, MetricsTracker)
    return trainer


def tune(scheduler: AbstractBaseScheduler, trainer: Any, model: Any, *, datamodule: Any, train_dataloaders: Any) -> None:
    """See ``AbstractBaseScheduler.lightning_tune``. Skipped when the training goes on from a checkpoint."""
    from mml_ray.training.options import TuneOptions

    options = options_of(scheduler, TuneOptions)
    if not (options.lr or options.bs):
        return
    checkpoint = scheduler.checkpoint_callback
    if checkpoint is not None and checkpoint.generations is not None and checkpoint.generations.latest() is not None:
        return
    from lightning.pytorch.tuner.tuning import Tuner

    from mml_ray.training.fit import quiet

    data = {"datamodule": datamodule} if datamodule is not None else {"train_dataloaders": train_dataloaders}
    tuner = Tuner(trainer)
    if options.bs:
        with quiet():
            size = tuner.scale_batch_size(model, **data, **options.bs_kwargs)
        log.info("tune.bs: batches of %s.", size)
    if options.lr:
        with quiet(), _any_number_of_epochs(trainer):
            found = tuner.lr_find(model, **data, **options.lr_kwargs)
        suggestion = found.suggestion() if found is not None else None
        if suggestion is None:
            log.warning("tune.lr found no learning rate: %g is kept.", model.lr)
            return
        model.lr = suggestion
        log.info("tune.lr: learning rate %.3g.", suggestion)


@contextlib.contextmanager
def _any_number_of_epochs(trainer: Any) -> Iterator[None]:
    """A search takes its steps, also where the training itself is shorter: cut off, it would suggest what it saw of the start."""
    loop = trainer.fit_loop
    before, loop.max_epochs = loop.max_epochs, -1
    try:
        yield
    finally:
        loop.max_epochs = before
