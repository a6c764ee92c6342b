"""What a data module is told: plain values, no configuration objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.tasks.description import TaskDescription

_CACHE = {"auto": "auto", "off": "off", "true": "auto", "false": "off", "none": "off"}


@dataclass(frozen=True)
class DataTask:
    """One task: its description (or the path of it), the folder its entries are relative to, and the fold to validate on.

    ``preprocessed`` is the id of the preprocessing that ``root`` holds (``none``: raw files).
    """

    name: str
    description: TaskDescription | Path | str
    root: Path | str
    fold: int = 0
    preprocessed: str = "none"


@dataclass(frozen=True)
class SamplingOptions:
    """The configuration group ``sampling``."""

    #: samples of an epoch, drawn with replacement; 0: every sample once
    sample_num: int = 0
    #: draw all classes equally often
    balanced: bool = False
    #: samples of a batch over all tasks
    batch_size: int = 300
    #: leave out a last, smaller batch; training only
    drop_last: bool = False
    #: the same as ``cache="auto"``
    enable_caching: bool = False
    #: tasks with more samples are not stored by ``cache="auto"``
    cache_max_size: int = 10000
    #: ``auto``: decode and preprocess each image once per node; ``off``
    cache: str = "off"

    @classmethod
    def of(cls, given: Mapping[str, Any] | SamplingOptions) -> SamplingOptions:
        """From a mapping; unknown keys and impossible values raise :class:`MMLMisconfigurationException`."""
        if isinstance(given, SamplingOptions):
            return given
        allowed = [item.name for item in fields(cls)]
        for key in given:
            if key not in allowed:
                raise MMLMisconfigurationException(unknown_name_message("sampling key", str(key), allowed))
        values = dict(given)
        cache = str(values.get("cache", "off")).lower()
        if cache not in _CACHE:
            raise MMLMisconfigurationException(f"sampling.cache is auto or off, got {values['cache']!r}.")
        values["cache"] = "auto" if values.get("enable_caching") else _CACHE[cache]
        values["sample_num"] = int(values.get("sample_num") or 0)
        options = cls(**values)
        if options.batch_size < 1 or options.sample_num < 0:
            raise MMLMisconfigurationException(
                "sampling.batch_size has to be at least 1 and sample_num at least 0, "
                f"got {options.batch_size} and {options.sample_num}."
            )
        return options


@dataclass(frozen=True)
class Preprocessing:
    """The configuration group ``preprocessing``: its id and the albumentations steps."""

    id: str = "none"
    pipeline: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any] | Preprocessing) -> Preprocessing:
        """From a mapping."""
        if isinstance(given, Preprocessing):
            return given
        unknown = sorted(set(given) - {"id", "pipeline"})
        if unknown:
            raise MMLMisconfigurationException(unknown_name_message("preprocessing key", unknown[0], ["id", "pipeline"]))
        return cls(str(given.get("id", "none")), tuple(given.get("pipeline") or ()))


@dataclass(frozen=True)
class LoadingOptions:
    """How a data module loads. Mappings have the keys of the configuration groups of the same names."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    #: ``normalization``: imagenet, task, pretraining or None; ``cpu`` and ``gpu``: ``{}`` or ``{"backend", "pipeline"}``
    augmentations: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    #: modality -> registered name
    loaders: Mapping[str, str] = field(default_factory=dict)
    #: mean and std (three numbers each, images in [0, 1]) for ``normalization=pretraining``
    pretraining_stats: tuple[Sequence[float], Sequence[float]] | None = None
    seed: int = 0
    #: loader processes; None: one for each CPU of this process, none if there is one CPU only
    num_workers: int | None = None
    #: node-local folder for ``cache="auto"``; None: below the system's temporary folder
    cache_dir: Path | None = None

    @classmethod
    def of(
        cls,
        *,
        sampling: Mapping[str, Any] | SamplingOptions | None = None,
        preprocessing: Mapping[str, Any] | Preprocessing | None = None,
        **others: Any,
    ) -> LoadingOptions:
        """From plain mappings, checked."""
        return cls(sampling=SamplingOptions.of(sampling or {}), preprocessing=Preprocessing.of(preprocessing or {}), **others)
