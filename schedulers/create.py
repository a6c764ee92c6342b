"""The mode ``create``: datasets from raw data, and the tasks described on them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from mml_ray.driver import worker
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import Field
from mml_ray.preflight.facts import ModeOptions
from mml_ray.schedulers import components
from mml_ray.schedulers.base import AbstractBaseScheduler, Handle
from mml_ray.schedulers.reporting import Reporter, warnings_as_messages

log = logging.getLogger(__name__)


class CreateOptions(ModeOptions):
    """Of the mode ``create``."""

    n_folds: int = Field(5, gt=1)
    ensure_balancing: bool = True
    forbid_leakage: bool = False
    on_broken: Literal["refuse", "skip"] = "refuse"


class CreateScheduler(AbstractBaseScheduler):
    """Creates missing datasets and tasks; safe to repeat. Subroutines: ``dataset`` (download, unpack), ``task`` (describe, verify, split)."""

    requires_tasks = False
    mode_options = CreateOptions
    uses = {"dataset": (), "task": ()}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["dataset", "task"])
        components.options_of(self, CreateOptions)  # that of a caller who composed nothing

    def create_routine(self) -> None:
        """One command for each dataset, then one for each task; a task waits for its own dataset only.

        While one task is missing, those that exist are planned as well (their commands find them and end): the plan of a
        continued run must not depend on its progress.
        """
        names = self._untagged()
        existing = [name for name in names if self._exists(name)]
        if len(existing) == len(names) and not self.continue_status:
            for name in existing:
                folder = self.fm.data.path / self.fm.data.header(name).relative_root
                print(f"Task '{self.highlight_text(name)}' already exists. To recreate it, delete {folder}.")
            return
        created: dict[str, Handle] = {}
        for name in names:
            dataset = self._dataset(name)
            if "dataset" in self.subroutines and dataset not in created:
                self._check_source(dataset)
                created[dataset] = self.add(self.create_dataset, dataset, after=[])
            if "task" in self.subroutines:
                self.add(self.create_task, name, after=[created[dataset]] if dataset in created else [])

    def _untagged(self) -> list[str]:
        names = list(dict.fromkeys(str(task) for task in self.cfg.task_list))
        if not names:
            raise MMLMisconfigurationException(
                "There is no task to create. Choose some with tasks=<option>, such as tasks=digits or tasks=from_folder."
            )
        own = str(components.plain(self, "source").get("name", ""))
        if "+" in own or "?" in own:
            raise MMLMisconfigurationException(
                f"source.name must not contain '+' or '?', which separate the tags of a task, got '{own}'."
            )
        for name in names:
            if "+" in name:
                log.warning("Task %s is tagged, so it is derived when it is first used.", name)
        return [name for name in names if "+" not in name]

    def _exists(self, name: str) -> bool:
        return "none" in self.fm.data.index().get(name, {})

    def _dataset(self, name: str) -> str:
        """The dataset of a task; read from an existing task itself, since its creator may not be installed any more."""
        from mml_ray.prepare.create import dataset_of_task

        if self._exists(name):
            return str(self.fm.data.header(name).relative_root).rpartition("DSET_")[2]
        return dataset_of_task(name, components.plain(self, "source"))

    def prepare_exp(self) -> None:
        """There are no structs to prepare: the tasks do not exist yet."""
        self.after_preparation_hook()

    def create_dataset(self, name: str) -> str:
        """Download, verify and unpack one dataset; returns its folder, relative to the data root."""
        from mml_ray.prepare.create import create_dataset

        with warnings_as_messages(log):
            return self.fm.stored(create_dataset(name, self._context()))

    def create_task(self, name: str) -> str:
        """Describe one task on its dataset; returns the description's path, relative to the data root."""
        from mml_ray.prepare.create import create_task

        with warnings_as_messages(log):
            return self.fm.stored(create_task(name, self._context()))

    def _check_source(self, dataset: str) -> None:
        """Refuse raw data that is missing or cannot be copied, before anything starts."""
        from mml_ray.prepare.dataset import check_source

        source = components.plain(self, "source")
        if "path" not in source or self.fm.data.is_complete(dataset):
            return
        if not source["path"]:
            raise MMLMisconfigurationException(
                f"source.path is missing. Set it to the raw data of '{dataset}', a folder or an archive."
            )
        for key in ("path", "images"):
            if source.get(key):
                check_source(Path(str(source[key])), self.fm.data_path, f"source.{key}")

    def _context(self) -> Any:
        from mml_ray.prepare.create import CreationContext

        options = components.options_of(self, CreateOptions)
        return CreationContext(
            data_root=self.fm.data,
            n_folds=options.n_folds,
            ensure_balancing=options.ensure_balancing,
            source=components.plain(self, "source"),
            on_broken=options.on_broken,
            forbid_leakage=options.forbid_leakage,
            workers=worker.current_threads(),
            progress=Reporter(self.fm),
        )
