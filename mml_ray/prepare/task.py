"""From lists of samples to a verified task description.

::

    creator = TaskCreator(dset_path, "my_task", task_type=TaskType.CLASSIFICATION, lic=License.CC_BY_4_0)
    creator.find_data(train_iterator=..., test_iterator=..., idx_to_class={0: "healthy", 1: "ill"})
    creator.split_folds()
    creator.infer_stats()
    path = creator.push_and_test()

The steps have to come in this order. Every file is read once, in :meth:`find_data`: it is verified, measured and hashed together.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from mml_ray.errors import DataError, InvalidTransitionError, MMLMisconfigurationException
from mml_ray.prepare import folds as fold_rules
from mml_ray.prepare.checks.facts import load_facts, save_facts
from mml_ray.prepare.checks.integrity import IntegrityReport, check_integrity
from mml_ray.prepare.checks.samples import SampleCheck, Verdict, check_classes, check_samples
from mml_ray.prepare.checks.stats import ImageFacts, scan_images, summarize
from mml_ray.prepare.context import current, default_workers
from mml_ray.prepare.verifiers import MODALITY_VERIFIER_MAP
from mml_ray.store.data_root import writing
from mml_ray.tasks.attributes import DataSplit, Keyword, License, Modality, RGBInfo, Sizes, TaskType
from mml_ray.tasks.classes import Sample, class_names, count_classes
from mml_ray.tasks.description import TaskDescription, description_file_name

__all__ = ["MODALITY_VERIFIER_MAP", "TaskCreator", "TaskCreatorState"]

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
_FORBIDDEN = " %+?"


class TaskCreatorState(IntEnum):
    """The steps of a creation that are done."""

    INIT = 0
    DATA_FOUND = 1
    FOLDS_SPLIT = 2
    STATS_SET = 3
    FINISHED = 4


def _step(
    allowed: Callable[[TaskCreatorState], bool], after: TaskCreatorState
) -> Callable[[Callable[Concatenate[TaskCreator, P], R]], Callable[Concatenate[TaskCreator, P], R]]:
    """A method that may be called in some states only, and leads to the state ``after`` if it ends well."""

    def decorate(method: Callable[Concatenate[TaskCreator, P], R]) -> Callable[Concatenate[TaskCreator, P], R]:
        @functools.wraps(method)
        def checked(self: TaskCreator, *args: P.args, **kwargs: P.kwargs) -> R:
            if not kwargs.pop("ignore_state", False) and not allowed(self.state):
                raise InvalidTransitionError(
                    f"{method.__name__} cannot be called on task '{self.task.name}' in state {self.state.name}. The order is: "
                    "find_data (or load_existent), split_folds or use_existing_folds, infer_stats or set_stats, push_and_test."
                )
            result = method(self, *args, **kwargs)
            self.state = after
            return result

        return cast("Callable[Concatenate[TaskCreator, P], R]", checked)

    return decorate


class TaskCreator:
    """Builds one task on one dataset. Within a creation it takes folds, workers and what to do with broken samples from it."""

    def __init__(
        self,
        dset_path: Path,
        name: str = "default",
        *,
        task_type: TaskType = TaskType.UNKNOWN,
        desc: str = "",
        ref: str = "",
        url: str = "",
        instr: str = "",
        lic: License = License.UNKNOWN,
        release: str = "",
        keywords: Sequence[Keyword] = (),
    ) -> None:
        if not name or any(letter in name for letter in _FORBIDDEN) or name == "_TOP_LEVEL_":
            raise MMLMisconfigurationException(
                f"The name of a task must not be empty or _TOP_LEVEL_, nor contain blanks, %, + or ?, got {name!r}."
            )
        self.dset_path = dset_path
        self.state = TaskCreatorState.INIT
        self.task = TaskDescription(
            name=name,
            task_type=TaskType(task_type),
            keywords=list(keywords),
            description=desc,
            reference=ref,
            url=url,
            download=instr,
            license=lic,
            release=release,
        )
        self.verdict = Verdict()
        self._loaded_from: Path | None = None
        self.protocol("Started creation of the task.")

    # -- helpers -------------------------------------------------------------------------------------------------------
    def protocol(self, message: str) -> None:
        """Note a step in the creation protocol of the description."""
        self.task.creation_protocol += f"{message} @ {datetime.now():%d/%m/%Y %H:%M:%S}; "

    @property
    def path(self) -> Path:
        """Where the description is (to be) written."""
        return self.dset_path / description_file_name(self.task.name)

    @property
    def _workers(self) -> int:
        context = current()
        return context.workers if context is not None else default_workers()

    # -- step 1 --------------------------------------------------------------------------------------------------------
    @_step(lambda state: state == TaskCreatorState.INIT, TaskCreatorState.DATA_FOUND)
    def find_data(
        self,
        *,
        train_iterator: Iterable[Mapping[Any, Any]] | None = None,
        test_iterator: Iterable[Mapping[Any, Any]] | None = None,
        unlabeled_iterator: Iterable[Mapping[Any, Any]] | None = None,
        idx_to_class: Mapping[int, str] | None = None,
    ) -> None:
        """Verify samples and add them to the task: mappings from modality to entry, each with a ``Modality.SAMPLE_ID`` unique in its split.

        Files may be absolute or relative to the dataset folder, they are stored relative to it. Training and test samples need
        the modalities that the task type requires, and ``idx_to_class`` where there are classes. All files are read, in threads.
        """
        given = {
            DataSplit.FULL_TRAIN: train_iterator,
            DataSplit.TEST: test_iterator,
            DataSplit.UNLABELLED: unlabeled_iterator,
        }
        samples = {split: list(found) for split, found in given.items() if found is not None}
        if not any(samples.values()):
            raise DataError(f"No samples were found for task '{self.task.name}'.")
        self.task.idx_to_class = check_classes(self.task, idx_to_class, labelled=bool(train_iterator or test_iterator))
        check = SampleCheck(dset_path=self.dset_path, task=self.task, context=current(), workers=self._workers)
        self.verdict = check_samples(check, samples)
        self.task.train_samples = self.verdict.samples.get(DataSplit.FULL_TRAIN, {})
        self.task.test_samples = self.verdict.samples.get(DataSplit.TEST, {})
        self.task.unlabeled_samples = self.verdict.samples.get(DataSplit.UNLABELLED, {})
        self.task.modalities = self.verdict.modalities
        self.task.mask_classes = self.verdict.mask_classes if Modality.MASK in self.task.modalities else None
        self.task.class_occ = self._count()
        self._warn_of_missing_classes()
        counts = ", ".join(f"{len(found)} {split.value}" for split, found in self.verdict.samples.items())
        self.protocol(
            f"Found data ({counts})" + (f", left out {len(self.verdict.skipped)} broken" if self.verdict.skipped else "")
        )

    def _count(self) -> dict[str, int]:
        return count_classes(
            self.task.train_samples,
            self.task.task_type,
            idx_to_class=self.task.idx_to_class,
            mask_classes=self.task.mask_classes,
        )

    def _warn_of_missing_classes(self) -> None:
        if not self.task.task_type.has_classes or not self.task.train_samples:
            return
        missing = [name for name, count in self.task.class_occ.items() if count == 0]
        if missing:
            warnings.warn(
                f"Task '{self.task.name}' has no training samples of the classes {', '.join(missing)}.", UserWarning, stacklevel=4
            )

    @_step(lambda state: state == TaskCreatorState.INIT, TaskCreatorState.STATS_SET)
    def load_existent(self, task_path: Path) -> None:
        """Go on from a stored description of the same dataset."""
        self.task = TaskDescription.load(task_path)
        self.dset_path = task_path.parent
        self._loaded_from = task_path
        self.task.mask_classes = load_facts(task_path, self.task).get("mask_classes")
        self.protocol(f"Loaded from {task_path.name}")

    # -- step 2 --------------------------------------------------------------------------------------------------------
    @_step(lambda state: TaskCreatorState.DATA_FOUND <= state < TaskCreatorState.FINISHED, TaskCreatorState.FOLDS_SPLIT)
    def split_folds(
        self,
        n_folds: int | None = None,
        ensure_balancing: bool | None = None,
        *,
        fold_0_fraction: float | None = None,
        seed: int = 42,
    ) -> None:
        """Split the training samples into folds (:func:`mml_ray.prepare.folds.split_folds`).

        What is not given comes from the running creation (``mode.n_folds``, ``mode.ensure_balancing``), else is 5 and true.
        """
        context = current()
        chosen = n_folds if n_folds is not None else (context.n_folds if context is not None else 5)
        balanced = (
            ensure_balancing if ensure_balancing is not None else (context.ensure_balancing if context is not None else True)
        )
        if not self.task.train_samples:
            self.task.train_folds = []
            return
        self.task.train_folds = fold_rules.split_folds(
            self.task.train_samples,
            self.task.task_type,
            idx_to_class=self.task.idx_to_class,
            n_folds=chosen,
            ensure_balancing=balanced,
            fold_0_fraction=fold_0_fraction,
            seed=seed,
            mask_classes=self.task.mask_classes,
        )
        self.protocol(f"Split into {chosen} folds (balanced: {balanced}, seed {seed})")

    @_step(lambda state: TaskCreatorState.DATA_FOUND <= state < TaskCreatorState.FINISHED, TaskCreatorState.FOLDS_SPLIT)
    def use_existing_folds(self, folds: Sequence[Sequence[str]]) -> None:
        """Use given folds: two or more, disjoint, together all training samples. Broken samples that were left out may be
        in them."""
        gone = {sample_id for split, sample_id in self.verdict.skipped if split == DataSplit.FULL_TRAIN}
        kept = [[sample_id for sample_id in fold if sample_id not in gone] for fold in folds]
        self.task.train_folds = fold_rules.check_existing_folds(kept, self.task.train_samples)
        self.protocol(f"Took over {len(folds)} folds")

    # -- step 3 --------------------------------------------------------------------------------------------------------
    @_step(lambda state: TaskCreatorState.FOLDS_SPLIT <= state < TaskCreatorState.FINISHED, TaskCreatorState.STATS_SET)
    def infer_stats(self) -> None:
        """Sizes, channel means and standard deviations of the training images (where there are none, of the unlabeled or test images)."""
        pool = self.task.train_samples or self.task.unlabeled_samples or self.task.test_samples
        stats = summarize(self._facts_of_images(pool))
        self.task.means, self.task.stds, self.task.sizes = stats.means, stats.stds, stats.sizes
        self.protocol("Inferred statistics")

    @_step(lambda state: TaskCreatorState.FOLDS_SPLIT <= state < TaskCreatorState.FINISHED, TaskCreatorState.STATS_SET)
    def set_stats(self, *, means: RGBInfo, stds: RGBInfo, sizes: Sizes) -> None:
        """Use given statistics."""
        self.task.means, self.task.stds, self.task.sizes = means, stds, sizes
        self.protocol("Set statistics")

    # -- step 4 --------------------------------------------------------------------------------------------------------
    @_step(lambda state: state == TaskCreatorState.STATS_SET, TaskCreatorState.FINISHED)
    def push_and_test(self) -> Path:
        """Check the task, write its description and read it back; returns the path."""
        self._check_counts()
        report = self.check_integrity()
        context = current()
        if context is not None and context.forbid_leakage:
            report.refuse(self.task.name)
        for line in report.lines():
            warnings.warn(f"Task '{self.task.name}': {line}.", UserWarning, stacklevel=4)
        if self.path.exists() and self.path != self._loaded_from:
            warnings.warn(f"The description {self.path} is replaced.", UserWarning, stacklevel=4)
        self.protocol("Finished")
        with writing(self.path):
            self.task.save(self.path)
        stored = TaskDescription.load(self.path)
        for number in range(stored.n_folds):
            stored.samples(DataSplit.VAL, number)
        save_facts(self.path, stored, mask_classes=self.task.mask_classes, integrity=report.to_json())
        log.info("Task %s is ready: %s", self.task.name, self.path)
        return self.path

    def check_integrity(self) -> IntegrityReport:
        """Look for images and groups that occur in several splits or folds."""
        for pool in (self.task.train_samples, self.task.test_samples, self.task.unlabeled_samples):
            self._facts_of_images(pool)
        return check_integrity(self.task, {entry: facts.digest for entry, facts in self.verdict.images.items()})

    def _facts_of_images(self, pool: Mapping[str, Sample]) -> list[ImageFacts]:
        """The facts of the image of each sample; images that were not read by :meth:`find_data` are read now."""
        known = self.verdict.images
        entries = [sample[Modality.IMAGE] for sample in pool.values() if Modality.IMAGE in sample]
        missing = [entry for entry in dict.fromkeys(entries) if entry not in known]
        known.update(zip(missing, scan_images([self.dset_path / entry for entry in missing], workers=self._workers), strict=True))
        return [known[entry] for entry in entries]

    def _check_counts(self) -> None:
        task = self.task
        if task.name == "default":
            raise MMLMisconfigurationException("A task must have a name of its own, got 'default'.")
        if task.train_samples and set(class_names(task.idx_to_class)) != set(task.class_occ):
            raise DataError(
                f"Task '{task.name}' counts the classes {sorted(task.class_occ)}, but has {class_names(task.idx_to_class)}."
            )
        if task.kind.exclusive_classes and task.train_samples:
            total = sum(task.class_occ.values())
            whole = len(task.train_samples)
            if total not in (whole, whole - len(task.train_folds[0])):
                raise DataError(f"Task '{task.name}' counts {total} classes in {whole} training samples.")

    def auto_complete(self) -> Path:
        """Do all steps that are left, with default arguments."""
        if self.state == TaskCreatorState.INIT:
            raise InvalidTransitionError("auto_complete needs data: call find_data or load_existent first.")
        if self.state == TaskCreatorState.DATA_FOUND:
            self.split_folds()
        if self.state == TaskCreatorState.FOLDS_SPLIT:
            self.infer_stats()
        return self.push_and_test() if self.state == TaskCreatorState.STATS_SET else self.path
