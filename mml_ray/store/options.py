"""What a run takes from earlier runs, and what it deletes at its end."""

from __future__ import annotations

from pydantic import ConfigDict

from mml_ray.options import Options, Text, Texts

Projects = Text | Texts | None


class ReuseOptions(Options):
    """Projects (``name``, ``name#number``, or a list) by the key of an artifact; plugins add keys with their path assignments."""

    model_config = ConfigDict(extra="allow")
    group = "reuse"
    __pydantic_extra__: dict[str, Projects]

    blueprint: Projects = None
    ensemble: Projects = None
    models: Projects = None
    parameters: Projects = None
    pipeline: Projects = None
    #: an older spelling of the group ``remove``
    clean_up: dict[str, bool] = {}


class RemoveOptions(Options):
    """Whether artifacts of a key are deleted when the run has ended well; plugins add keys with their path assignments."""

    model_config = ConfigDict(extra="allow")
    group = "remove"
    __pydantic_extra__: dict[str, bool]

    backup: bool = False
    blueprint: bool = False
    ensemble: bool = False
    img_examples: bool = False
    models: bool = False
    parameters: bool = False
    pipeline: bool = False
    predictions: bool = False
    sample_grid: bool = False
