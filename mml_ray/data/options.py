"""What a data module is told: plain values, no configuration objects. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, model_validator

from mml_ray.options import LIST, AtLeastOne, Count, Options, Text, in_words

if TYPE_CHECKING:
    from mml_ray.tasks.description import TaskDescription


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


def _as_cache(given: Any) -> Any:
    return {True: "auto", False: "off", "none": "off"}.get(given, given) if isinstance(given, bool | str) else given


class SamplingOptions(Options):
    """How the samples of an epoch are drawn and cached."""

    group = "sampling"

    sample_num: Count = 0
    balanced: bool = False
    batch_size: AtLeastOne = 300
    drop_last: bool = False
    enable_caching: bool = False
    cache_max_size: Count = 10000
    cache: Annotated[Literal["auto", "off"], BeforeValidator(_as_cache)] = "off"

    @model_validator(mode="before")
    @classmethod
    def _apply_caching(cls, given: Any) -> Any:
        return {**given, "cache": "auto"} if isinstance(given, dict) and given.get("enable_caching") is True else given


def _check_step(given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given.get("name"), str):
        raise ValueError(f"must be a mapping with a name, got {in_words(given)}.")
    return given


#: one step of a pipeline: its name, and the arguments of the library's class
Step = Annotated[dict[str, Any], AfterValidator(_check_step)]
Steps = Annotated[tuple[Step, ...], LIST, BeforeValidator(lambda given: () if given is None else given)]


class PreprocessingOptions(Options):
    """Steps of albumentations; ``id`` names the stored images."""

    group = "preprocessing"

    id: Text = "none"
    pipeline: Steps = ()


class PipelineOptions(Options):
    """Augmentation by one backend; without steps there is none."""

    backend: Text | None = None
    pipeline: Steps = ()

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.pipeline and self.backend is None:
            raise ValueError("has a pipeline and needs a backend, as in albumentations or kornia.")
        return self


class AugmentationOptions(Options):
    """How images are normalized, and augmented sample by sample (``cpu``) or batch by batch (``gpu``)."""

    group = "augmentations"

    normalization: Literal["imagenet", "task", "pretraining"] | None = None
    cpu: PipelineOptions = PipelineOptions()
    gpu: PipelineOptions = PipelineOptions()


class LoaderOptions(Options):
    """The registered loader of each modality."""

    model_config = ConfigDict(extra="allow")
    group = "loaders"
    __pydantic_extra__: dict[str, Text]


class TtaOptions(Options):
    """The views of an image whose predictions are averaged; ``size`` is there to be referred to."""

    group = "tta"

    mode: Literal["mean"] = "mean"
    size: Annotated[tuple[AtLeastOne, AtLeastOne], LIST] | None = None
    variations: dict[str, Steps] = {}


@dataclass(frozen=True)
class LoadingOptions:
    """How a data module loads. Mappings have the keys of the configuration groups of the same names."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    augmentations: AugmentationOptions = field(default_factory=AugmentationOptions)
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
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
        preprocessing: Mapping[str, Any] | PreprocessingOptions | None = None,
        augmentations: Mapping[str, Any] | AugmentationOptions | None = None,
        **others: Any,
    ) -> LoadingOptions:
        """From plain mappings, checked."""
        return cls(
            sampling=SamplingOptions.of(sampling),
            preprocessing=PreprocessingOptions.of(preprocessing),
            augmentations=AugmentationOptions.of(augmentations),
            **others,
        )
