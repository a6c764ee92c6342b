"""Task descriptions: the ``TASK_*.json`` files next to the images.

The file has a header (:mod:`mml_ray.tasks.header`) and four lists of samples. Keys and their order are those of the established
format, so descriptions move between systems; ``group`` in a sample (a patient, a video) is our addition.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks import variant as variants
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.classes import Sample, class_names, index_map
from mml_ray.tasks.header import VARIANT_KEY, TaskHeader, TaskMeta, parse_header, read_header, read_json

__all__ = [
    "Sample", "TaskDescription", "TaskHeader", "class_names", "clean_name", "description_file_name", "index_map", "read_header",
]  # fmt: skip

_REPLACED = {" ": "_", "?": "="}
_BODY = ("unlabeled_samples", "train_folds", "train_samples", "test_samples")


@dataclass(kw_only=True)
class TaskDescription(TaskMeta):
    """A whole task. Samples are ``{id: {modality: entry}}``; entry types: :class:`mml_ray.tasks.attributes.Modality`."""

    unlabeled_samples: dict[str, Sample] = field(default_factory=dict)
    train_folds: list[list[str]] = field(default_factory=list)
    train_samples: dict[str, Sample] = field(default_factory=dict)
    test_samples: dict[str, Sample] = field(default_factory=dict)
    #: sample id -> raw values in its mask, once the masks were read; not part of the file
    mask_classes: Mapping[str, Sequence[int]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path | str) -> TaskDescription:
        """Read the file; a tagged variant is completed from its base's file, which must not have changed since."""
        source = Path(path)
        raw = read_json(source)
        header = parse_header(raw, source)
        if VARIANT_KEY in raw:
            return cls._load_variant(raw, header=header, source=source)
        missing = [key for key in _BODY if key not in raw]
        if missing:
            raise DataError(f"{source} lacks {', '.join(missing)}: it is damaged or of an unknown version. Recreate the task.")
        for key in _BODY:
            expected = list if key == "train_folds" else dict
            if not isinstance(raw[key], expected):
                raise DataError(
                    f"{source}: '{key}' is a {type(raw[key]).__name__}, expected {expected.__name__}. Recreate the task."
                )
        return cls(**header, **{key: raw[key] for key in _BODY})

    @classmethod
    def _load_variant(cls, raw: Mapping[str, object], *, header: dict[str, object], source: Path) -> TaskDescription:
        found, base_path, digest = variants.from_json(raw[VARIANT_KEY], source)  # type: ignore[arg-type]
        base = cls.load(base_path)
        if variants.content_digest(base) != digest:
            raise DataError(f"'{base.name}' changed after its variant {source} was made. Delete the variant; it is recreated.")
        return cls(**header, **variants.complete(found, base, source=source))  # type: ignore[arg-type]

    def save(self, path: Path | str) -> None:
        """Write the file atomically."""
        content: dict[str, object] = self.header_json()
        content |= {key: getattr(self, key) for key in _BODY}
        atomic.write_bytes(path, orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS))

    def header(self, *, preprocessed: str = "none", relative_root: str = "") -> TaskHeader:
        """The header alone."""
        return TaskHeader(**self.meta_fields(), preprocessed=preprocessed, relative_root=relative_root)

    @property
    def n_folds(self) -> int:
        """0 for tasks without training data."""
        return len(self.train_folds)

    @property
    def num_samples(self) -> int:
        """Training samples, or unlabelled ones if there are none."""
        return sum(map(len, self.train_folds)) or len(self.unlabeled_samples)

    def sample_ids(self, split: DataSplit | str, fold: int = 0) -> list[str]:
        """The ids of a split, in order. ``fold`` matters for TRAIN and VAL only; one that does not exist raises."""
        chosen = DataSplit(split)
        if chosen == DataSplit.TEST:
            return list(self.test_samples)
        if chosen == DataSplit.UNLABELLED:
            return list(self.unlabeled_samples)
        if chosen == DataSplit.FULL_TRAIN:
            return [sample_id for ids in self.train_folds for sample_id in ids]
        if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < self.n_folds:
            allowed = f"0 to {self.n_folds - 1}" if self.n_folds else "none, since it has no training data"
            raise MMLMisconfigurationException(f"Task '{self.name}' has no fold {fold!r}. Its folds are: {allowed}.")
        if chosen == DataSplit.VAL:
            return list(self.train_folds[fold])
        return [sample_id for number, ids in enumerate(self.train_folds) if number != fold for sample_id in ids]

    def samples(self, split: DataSplit | str, fold: int = 0) -> dict[str, Sample]:
        """The samples of a split by id, in the order of :meth:`sample_ids`; the entries are shared, not copied."""
        chosen = DataSplit(split)
        pool = {DataSplit.TEST: self.test_samples, DataSplit.UNLABELLED: self.unlabeled_samples}.get(chosen, self.train_samples)
        try:
            return {sample_id: pool[sample_id] for sample_id in self.sample_ids(chosen, fold)}
        except KeyError as error:
            raise DataError(f"A fold of task '{self.name}' names the sample {error}, which the description lacks.") from error


def clean_name(task_name: str) -> str:
    """A file or folder name for a task: letters, digits and ``. _ - + =`` only, on every system, for globs and shells.

    Equal names give equal results, different names different ones, except for blanks, which become underscores.
    """
    mapped = re.sub(r"[^A-Za-z0-9._+-]", lambda hit: _REPLACED.get(hit[0]) or f"~{ord(hit[0]):x}", task_name)
    if len(mapped) > 120:
        mapped = f"{mapped[:100]}~{hashlib.blake2b(task_name.encode(), digest_size=8).hexdigest()}"
    return mapped if mapped.strip(".") else f"~{mapped}"


def description_file_name(task_name: str) -> str:
    """``TASK_<clean name>.json``."""
    return f"TASK_{clean_name(task_name)}.json"
