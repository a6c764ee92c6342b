"""Augmentation backends, by name (registry kind ``augmentation``): ``cpu/<backend>`` for samples, ``gpu/<backend>`` for batches.

The heavy libraries are imported when a backend is built, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mml_ray.data.augment.base import BatchAugmentation, Pipeline, SampleAugmentation, build_cpu, build_gpu
from mml_ray.registry import registry

__all__ = ["BatchAugmentation", "Pipeline", "SampleAugmentation", "build_cpu", "build_gpu", "build_preprocessing"]


def _albumentations(pipeline: Pipeline, modalities: Sequence[str]) -> SampleAugmentation:
    from mml_ray.data.augment.cpu import AlbumentationsPipeline

    return AlbumentationsPipeline(pipeline, modalities)


def _kornia(pipeline: Pipeline) -> BatchAugmentation:
    from mml_ray.data.augment.gpu import KorniaPipeline

    return KorniaPipeline(pipeline)


def _kornia_samples(pipeline: Pipeline, modalities: Sequence[str]) -> SampleAugmentation:
    from mml_ray.data.augment.gpu import KorniaSamples

    return KorniaSamples(pipeline, modalities)


def _torchvision(pipeline: Pipeline) -> BatchAugmentation:
    from mml_ray.data.augment.vision import TorchvisionPipeline

    return TorchvisionPipeline(pipeline)


def _torchvision_samples(pipeline: Pipeline, modalities: Sequence[str]) -> SampleAugmentation:
    from mml_ray.data.augment.vision import TorchvisionSamples

    return TorchvisionSamples(pipeline, modalities)


for _name, _factory in {
    "cpu/albumentations": _albumentations,
    "cpu/kornia": _kornia_samples,
    "cpu/torchvision": _torchvision_samples,
    "gpu/kornia": _kornia,
    "gpu/torchvision": _torchvision,
}.items():
    registry.add("augmentation", _name, _factory)


def build_preprocessing(pipeline: Pipeline, modalities: Sequence[str] = ("image", "mask")) -> Any | None:
    """A callable on samples (albumentations steps without chance); ``None`` for an empty pipeline.

    What is done on the fly and what is stored come from here, so both give the same pixels.
    """
    if not pipeline:
        return None
    from mml_ray.data.augment.cpu import AlbumentationsPreprocessing

    return AlbumentationsPreprocessing(pipeline, modalities)
