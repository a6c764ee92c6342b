"""The settings of a study."""

from __future__ import annotations

from typing import Literal

from mml_ray.options import AtLeastOne, Options, Text


class SamplerOptions(Options):
    """Who proposes configurations."""

    name: Literal["tpe", "random", "grid"] = "tpe"


class HpoOptions(Options):
    """The group ``hpo``."""

    group = "hpo"

    sampler: SamplerOptions = SamplerOptions()
    storage: Text | None = None
    direction: Literal["minimize", "maximize"] = "minimize"
    pruning: bool = False
    trials: AtLeastOne | None = 100
