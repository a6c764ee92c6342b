"""The mode ``info``: lists tasks, models and samples. Reads headers only; loads neither torch nor Ray."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mml_ray.errors import UnknownNameError
from mml_ray.options import Text
from mml_ray.preflight.facts import ModeOptions
from mml_ray.report.tables import Table, number
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.tasks.attributes import DataSplit, Modality
from mml_ray.tasks.tags import strip_duplicate

if TYPE_CHECKING:
    from mml_ray.prepare.checks.integrity import IntegrityReport


#: at most this many classes are listed
_CLASSES = 30


class InfoOptions(ModeOptions):
    """Of the mode ``info``."""

    study_name: Text | None = None
    info_grid: bool = True
    info_individual: bool = True


class InfoScheduler(AbstractBaseScheduler):
    """Shows ``tasks``, ``samples`` (pictures), ``models`` and ``hpo`` studies; without a task list: all tasks of the data root."""

    mode_options = InfoOptions
    uses = {"tasks": ("preprocessing",), "hpo": (), "samples": ("preprocessing", "loaders"), "models": ("reuse.models",)}
    uses_preprocessed = False  # it shows raw images

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["tasks", "hpo", "samples", "models"])

    def create_routine(self) -> None:
        """One command for each subroutine."""
        steps = {"tasks": self.show_tasks, "samples": self.show_samples, "models": self.show_models, "hpo": self.show_studies}
        for name, step in steps.items():
            if name in self.subroutines and (name != "samples" or self.cfg.task_list):
                self.add(step)

    def prepare_exp(self) -> None:
        """Without a task list there are no structs to prepare."""
        if self.cfg.task_list:
            super().prepare_exp()
        else:
            self.after_preparation_hook()

    def _names(self) -> list[str]:
        return [str(name) for name in self.cfg.task_list] or sorted(self.fm.data.index())

    def show_tasks(self) -> list[str]:
        """Show a table of the tasks, and which of their data is in two splits that must be disjoint; returns their names."""
        names = self._names()
        reports = {name: self._integrity(name) for name in names}
        rows = [self._row(name, reports[name]) for name in names]
        columns = ["task", "type", "classes", "samples", "folds", "size", "modalities", "preprocessed", "leaks"]
        if rows:
            Table(f"Tasks in {self.fm.data_path}", columns, rows).print()
        else:
            print(f"No tasks in {self.fm.data_path}. Create one: mml-ray create tasks=digits")
        for name in names if self.cfg.task_list else ():
            if (occurrences := self._occurrences(name)) is not None:
                print(occurrences)
        for name, report in reports.items():
            for line in report.lines() if report is not None else ():
                print(f"Task {name} leaks: {line}.")
        return names

    def _occurrences(self, name: str) -> str | None:
        """How often each class occurs in the training data, for a task that has classes."""
        counts = self.fm.data.header(name, self._version(name)).class_occ
        shown = [f"{label} {count}" for label, count in list(counts.items())[:_CLASSES]]
        more = f" and {len(counts) - _CLASSES} more" if len(counts) > _CLASSES else ""
        return f"Classes of {name}: {', '.join(shown)}{more}." if counts else None

    def _integrity(self, name: str) -> IntegrityReport | None:
        """The report of the task's creation; ``None`` for a variant, and if nothing was checked."""
        from mml_ray.prepare.checks.integrity import stored_report

        return stored_report(self.fm.data, name) if "+" not in name and "none" in self.fm.data.index()[name] else None

    def _version(self, name: str) -> str:
        """The preprocessing of the data that is shown: none, unless the raw data was deleted."""
        stored = self.fm.data.index().get(name, {})
        return "none" if "none" in stored else next(iter(stored), "none")

    def _row(self, name: str, report: IntegrityReport | None) -> list[str]:
        versions = [version for version in self.fm.data.index().get(name, {}) if version != "none"]
        looked_at = self._version(name)
        header = self.fm.data.header(name, looked_at)
        samples, folds = self.fm.data.counts(name, looked_at)
        sizes = header.sizes
        return [
            name,
            header.task_type.value,
            str(len(set(header.idx_to_class.values())) or ""),
            str(samples),
            str(folds or ""),
            f"{_span(sizes.min_height, sizes.max_height)}x{_span(sizes.min_width, sizes.max_width)}",
            ", ".join(modality.value for modality in header.modalities),
            ", ".join(versions),
            "" if "+" in name else _leaks(report),
        ]

    def show_models(self) -> int:
        """Show a table of the models of the project (and of those loaded with ``reuse.models``); returns their number."""
        loaded = {model.path: model for task in self.fm.reusables.values() for model in task.get("models", [])}
        for path in self.fm.committed("models"):
            if path.suffix == ".json" and path not in loaded:
                loaded[path] = self.fm.load_model(path)
        rows = [
            [
                str(model.task or ""),
                str(model.fold),
                number(model.performance),
                "" if model.training_time < 0 else f"{model.training_time:.1f}",
                str(model.created or "").replace("T", " "),
                "yes" if model.parameters is not None and self.fm.files.exists(model.parameters) else "no",
                str(len(model.predictions)),
            ]
            for model in loaded.values()
        ]
        columns = ["task", "fold", "score", "training\nseconds", "created", "weights", "predictions"]
        if rows:
            Table(f"Models of project {self.cfg.proj}", columns, rows).print()
        else:
            print(f"No models in project {self.cfg.proj}. Train some: mml-ray train tasks=... proj={self.cfg.proj}")
        return len(rows)

    def show_studies(self) -> list[str]:
        """Show the studies of the project; returns their names."""
        wanted = self.cfg.mode.study_name
        studies = sorted(path.parent.name for path in (self.fm.proj_path / "hpo").glob("*/study.json"))
        if wanted is not None and wanted not in studies:
            raise UnknownNameError.of("study", str(wanted), studies)
        for name in studies if wanted is None else [str(wanted)]:
            print(f"Study {name}: {self.fm.proj_path / 'hpo' / name}")
        return studies

    def show_samples(self) -> int:
        """Store a picture of each task and one of all (``mode.info_individual``, ``mode.info_grid``); returns the number of tasks."""
        pictures = [picture for name in self._names() if (picture := self._sample(name)) is not None]
        if self.cfg.mode.info_grid and pictures:
            self._write(_grid([image for _, image in pictures]), "sample_grid", None)
        for name, image in pictures if self.cfg.mode.info_individual else ():
            self._write(image, "img_examples", name)
        return len(pictures)

    def _sample(self, name: str) -> tuple[str, Any] | None:
        """The last training sample of fold 0, or an unlabelled one."""
        from mml_ray.data.loaders import build_loader

        if "none" not in self.fm.data.index().get(strip_duplicate(name), {"none": ""}):
            print(f"Task {name} has no picture: its raw images were deleted.")
            return None
        description = self.fm.data.description(name)
        for split in (DataSplit.FULL_TRAIN, DataSplit.UNLABELLED, DataSplit.TEST):
            samples = description.samples(split, 0)
            if samples:
                entry = list(samples.values())[-1][Modality.IMAGE]
                loader = build_loader("image", str(self.cfg.loaders.image), description)
                root = self.fm.data_path / self.fm.data.header(name).relative_root
                return name, loader.load(str(entry), root)
        return None

    def _write(self, image: Any, key: str, task: str | None) -> None:
        import cv2

        path = self.fm.construct_saving_path(image, key, task_name=task)
        if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path} could not be written.")
        print(f"Picture: {path}")


def _leaks(report: IntegrityReport | None) -> str:
    if report is None:
        return "not checked"
    found = [f"{report.duplicated_images} images"] if report.duplicated_images else []
    return ", ".join([*found, f"{report.torn_groups} groups"] if report.torn_groups else found) or "none"


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def _grid(images: list[Any], size: int = 128) -> Any:
    """All images as tiles of one picture that is about twice as wide as high."""
    import cv2
    import numpy as np

    columns = max(1, min(len(images), int(math.sqrt(len(images) * 11 / 5))))
    rows = math.ceil(len(images) / columns)
    grid = np.full((rows * (size + 4), columns * (size + 4), 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = (place // columns) * (size + 4) + 2, (place % columns) * (size + 4) + 2
        scale = size / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:size, :size]
        grid[top : top + small.shape[0], left : left + small.shape[1]] = small if small.ndim == 3 else small[..., None]
    return grid
