"""Verification of the samples of a task, file by file, in threads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.prepare.checks.stats import ImageFacts, in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.verifiers import MODALITY_VERIFIER_MAP, VerifierContext
from mml_ray.tasks.attributes import PATH_MODALITIES, DataSplit, Modality, TaskType
from mml_ray.tasks.classes import Sample
from mml_ray.tasks.description import TaskDescription


@dataclass(frozen=True)
class SampleCheck:
    """The settings of a check."""

    dset_path: Path
    task: TaskDescription
    context: CreationContext | None
    workers: int


@dataclass
class Verdict:
    """The samples as they will be stored, and what was learned while reading them."""

    samples: dict[DataSplit, dict[str, Sample]] = field(default_factory=dict)
    modalities: dict[Modality, str] = field(default_factory=dict)
    #: entry of modality image -> what one look at it told
    images: dict[str, ImageFacts] = field(default_factory=dict)
    #: sample id -> values in its mask
    mask_classes: dict[str, Sequence[int]] = field(default_factory=dict)
    #: broken samples that were left out, and why
    skipped: dict[tuple[DataSplit, str], str] = field(default_factory=dict)


@dataclass
class _Checked:
    entries: Sample
    image: ImageFacts | None = None
    present: tuple[int, ...] | None = None
    broken: str = ""


def check_classes(task: TaskDescription, given: Mapping[int, str] | None, *, labelled: bool) -> dict[int, str]:
    """The class mapping, ordered by index; raises if the task type needs one and it is missing or too small."""
    if task.task_type == TaskType.UNKNOWN:
        raise MMLMisconfigurationException(f"Task '{task.name}' must have one of the task types {', '.join(sorted(TaskType))}.")
    mapping = dict(given or {})
    for index, name in mapping.items():
        if isinstance(index, bool) or not isinstance(index, int) or index < 0 or not isinstance(name, str) or not name:
            raise MMLMisconfigurationException(f"idx_to_class must map integers from 0 to names, got {index!r}: {name!r}.")
    if labelled and task.task_type.has_classes and len(set(mapping.values())) < 2:
        raise MMLMisconfigurationException(
            f"Task '{task.name}' ({task.task_type.value}) needs at least two classes in idx_to_class, got {mapping}."
        )
    return {int(index): mapping[index] for index in sorted(mapping)}


def check_samples(check: SampleCheck, samples: Mapping[DataSplit, Sequence[Mapping[Any, Any]]]) -> Verdict:
    """Verify every entry. A broken one raises :class:`BrokenSampleError`, or is left out where the creation says ``skip``."""
    verdict = Verdict()
    suffixes: dict[Modality, dict[str, None]] = {}
    total = sum(map(len, samples.values()))
    done = 0
    for split, found in samples.items():
        keyed = _by_id(found, split, check.task)
        job = partial(_check_one, check=check, split=split)
        progress = _progress(check, done, total)
        results = in_threads(job, list(keyed.items()), workers=check.workers, progress=progress, what="samples")
        done += len(found)
        kept: dict[str, Sample] = {}
        for sample_id, result in zip(keyed, results, strict=True):
            if result.broken:
                verdict.skipped[split, sample_id] = result.broken
                continue
            kept[sample_id] = result.entries
            _learn(verdict, suffixes, sample_id=sample_id, result=result)
        verdict.samples[split] = kept
    if verdict.skipped:
        first = next(iter(verdict.skipped.values()))
        warnings.warn(f"{len(verdict.skipped)} broken sample(s) were left out, the first: {first}", UserWarning, stacklevel=5)
    verdict.modalities = {
        modality: "".join(f"{suffix}; " for suffix in sorted(suffixes[modality])) for modality in sorted(suffixes)
    }
    return verdict


def _progress(check: SampleCheck, before: int, total: int) -> Any:
    if check.context is None or check.context.progress is None:
        return None
    report = check.context.report
    return lambda done, _, what: report(before + done, total, what)


def _by_id(found: Sequence[Mapping[Any, Any]], split: DataSplit, task: TaskDescription) -> dict[str, dict[Modality, Any]]:
    keyed: dict[str, dict[Modality, Any]] = {}
    options = task.task_type.requires()
    for sample in found:
        entries = {Modality(key): value for key, value in sample.items()}
        sample_id = entries.pop(Modality.SAMPLE_ID, None)
        if not isinstance(sample_id, str) or not sample_id:
            raise DataError(
                f"A {split.value} sample of task '{task.name}' has no id: Modality.SAMPLE_ID must be a text, got {sample_id!r}."
            )
        if sample_id in keyed:
            raise DataError(
                f"Two {split.value} samples of task '{task.name}' have the id '{sample_id}'. Ids must be unique in a split."
            )
        labelled = split != DataSplit.UNLABELLED
        if labelled and not any(all(modality in entries for modality in option) for option in options):
            needed = " or ".join(" and ".join(modality.value for modality in option) for option in options)
            raise DataError(f"Sample '{sample_id}' of task '{task.name}' needs {needed}; it has {', '.join(map(str, entries))}.")
        keyed[sample_id] = entries
    return keyed


def _check_one(item: tuple[str, dict[Modality, Any]], *, check: SampleCheck, split: DataSplit) -> _Checked:
    sample_id, entries = item
    known = VerifierContext(check.dset_path, check.task.task_type, check.task.idx_to_class)
    checked = _Checked({})
    size: tuple[int, int] | None = None
    try:
        for modality, value in entries.items():
            verifier = MODALITY_VERIFIER_MAP.get(modality)
            if verifier is None:
                raise MMLMisconfigurationException(
                    f"The modality '{modality.value}' has no verifier. Add a function to MODALITY_VERIFIER_MAP."
                )
            found = verifier(value, known)
            checked.entries[modality.value] = found.entry
            checked.image = found.image or checked.image
            checked.present = found.present if found.present is not None else checked.present
            if found.size is not None and size is not None and found.size != size:
                raise BrokenSampleError(f"Image and mask {check.dset_path / str(value)} differ in size: {size} and {found.size}.")
            size = found.size or size
    except BrokenSampleError as error:
        if check.context is None or check.context.on_broken != "skip":
            raise BrokenSampleError(
                f"{error} (sample '{sample_id}', {split.value}; mode.on_broken=skip leaves it out)"
            ) from error
        return _Checked({}, broken=str(error))
    except DataError as error:
        raise DataError(f"Sample '{sample_id}' of task '{check.task.name}': {error}") from error
    return checked


def _learn(verdict: Verdict, suffixes: dict[Modality, dict[str, None]], *, sample_id: str, result: _Checked) -> None:
    for name, entry in result.entries.items():
        modality = Modality(name)
        if modality == Modality.GROUP:
            continue
        seen = suffixes.setdefault(modality, {})
        if modality in PATH_MODALITIES and Path(entry).suffix:
            seen[Path(entry).suffix[1:]] = None
    if result.image is not None:
        verdict.images[result.entries[Modality.IMAGE]] = result.image
    if result.present is not None:
        verdict.mask_classes.setdefault(sample_id, result.present)  # training samples come first
