"""The mode ``pp``: preprocess the images of tasks once, so that trainings read arrays instead of decoding files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mml_ray.driver import worker
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.preflight.facts import ModeOptions
from mml_ray.report.tables import Table
from mml_ray.schedulers import components
from mml_ray.schedulers.base import AbstractBaseScheduler, Handle
from mml_ray.schedulers.folds import base_of
from mml_ray.schedulers.reporting import Reporter

if TYPE_CHECKING:
    from mml_ray.data.options import PreprocessingOptions
    from mml_ray.data.preprocess import StoreSummary


class PreprocessOptions(ModeOptions):
    """Of the mode ``pp``."""


class PreprocessScheduler(AbstractBaseScheduler):
    """Stores images (and masks) of each task, or of the pivot alone if one is given, as ``preprocessing`` says.

    Safe to repeat: only new and changed images are processed. For a tagged task its base is preprocessed.
    """

    mode_options = PreprocessOptions
    uses = {"preprocess": ("preprocessing", "loaders", "num_workers")}
    uses_preprocessed = False  # it updates stored images that other modes would refuse

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["preprocess"])
        if str(cfg.preprocessing.id) == "none":
            raise MMLMisconfigurationException(
                "preprocessing=none stores nothing. Choose another one, such as mml-ray pp preprocessing=size224."
            )

    def create_routine(self) -> None:
        """One command for each task; tasks of one dataset share its files, so they run in sequence."""
        from mml_ray.prepare.preprocessed import check_definition

        pipeline = components.plain(self, "preprocessing").get("pipeline") or []
        check_definition(self.fm.data, str(self.cfg.preprocessing.id), pipeline)
        last: dict[str, Handle] = {}
        for task in self._tasks():
            dataset = str(self.fm.data.header(task).relative_root)
            last[dataset] = self.add(self.preprocess, task, after=[last[dataset]] if dataset in last else [])

    def _tasks(self) -> list[str]:
        """The untagged tasks to be preprocessed."""
        listed = [str(name) for name in self.cfg.task_list]
        if self.pivot:
            others = [name for name in listed if name != self.pivot]
            if others:
                print(f"Only the pivot {self.pivot} is preprocessed. For all tasks set pivot.name=false.")
            listed = [str(self.pivot)]
        if not listed:
            raise MMLMisconfigurationException(
                "There is no task to preprocess. Choose some with tasks=<option>, or task_list=[<task>]."
            )
        bases = list(dict.fromkeys(base_of(name) for name in listed))
        if any(name not in bases for name in listed):
            print("Tagged tasks use the stored images of the task they derive from.")
        return bases

    def prepare_exp(self) -> None:
        """There are no structs to prepare: the modes that use tagged variants create them."""
        self.after_preparation_hook()

    def preprocess(self, name: str) -> dict[str, Any]:
        """Update the stored images of one task; returns what was done, and the path of the description."""
        from mml_ray.data.cache.arrow import STORE_FOLDER, is_store
        from mml_ray.data.options import PreprocessingOptions
        from mml_ray.prepare.preprocessed import is_described, write_definition

        root, chosen = self.fm.data, PreprocessingOptions.of(components.plain(self, "preprocessing"))
        dataset = str(root.header(name).relative_root).rpartition("DSET_")[2]
        folder = root.dataset_path(dataset, chosen.id) / STORE_FOLDER
        with root.locked(f"PP_{chosen.id}_{dataset}"):
            root.refresh()
            write_definition(root, chosen.id, chosen.pipeline)
            described = is_described(root, name, chosen.id)
            if described and not is_store(folder):
                print(f"Task '{name}' already exists in {chosen.id} as image files, which are used unchanged.")
                return {"task": name, "written": 0, "kept": 0, "bytes": 0, "description": ""}
            summary = self._store(name, folder, chosen)
            if summary.written or not described:
                self._describe(name, folder, chosen)
        path = self.fm.stored(root.description_path(name, chosen.id))
        return {"task": name, "written": summary.written, "kept": summary.kept, "bytes": summary.size, "description": path}

    def _store(self, name: str, folder: Path, chosen: PreprocessingOptions) -> StoreSummary:
        from mml_ray.data.preprocess import store_arrays
        from mml_ray.prepare.preprocessed import raw_description
        from mml_ray.store.data_root import writing

        with writing(folder):
            return store_arrays(
                raw_description(self.fm.data, name),
                self.fm.data_path / self.fm.data.header(name).relative_root,
                folder=folder,
                preprocessing=chosen,
                loaders={str(key): str(value) for key, value in components.plain(self, "loaders").items()},
                workers=worker.current_threads(),
                progress=Reporter(self.fm, "images"),
            )

    def _describe(self, name: str, folder: Path, chosen: PreprocessingOptions) -> None:
        from mml_ray.data.cache.arrow import ArrowReader
        from mml_ray.prepare.preprocessed import describe_preprocessed

        reader = ArrowReader(folder)
        describe_preprocessed(
            self.fm.data,
            name,
            preprocessing=chosen.id,
            image_of=lambda entry: reader.array(int(reader.rows([entry])[0])),
            workers=worker.current_threads(),
        )

    def summary_tables(self) -> list[Table]:
        """The numbers of arrays of each task."""
        rows = [
            [done["task"], str(done["written"]), str(done["kept"]), f"{done['bytes'] / 2**20:.1f}"]
            for done in self.results(self.preprocess)
        ]
        columns = ["task", "arrays written", "kept", "MiB of its dataset"]
        return [Table(f"Preprocessed with {self.cfg.preprocessing.id}", columns, rows)] if rows else []
