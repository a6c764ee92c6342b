"""The settings on the top level of the configuration."""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, field_validator, model_validator

from mml_ray.options import Count, Field, Off, Options, Text, Texts


def _absolute(given: str) -> str:
    """A command may run in a process with another working directory."""
    if not given:
        raise ValueError("is empty. Set it, or the variable of the env file that it comes from.")
    return os.path.abspath(os.path.expanduser(given))


Folder = Annotated[Text, AfterValidator(_absolute)]
OffOrText = Annotated[Off | Text, Field(union_mode="left_to_right")]


class GeneralOptions(Options):
    """Project, places, seed, tasks, and which earlier run or study is meant."""

    proj: Text = "default"
    proj_path: Text | None = None
    data_dir: Folder
    out_dir: Folder
    num_workers: Literal["auto"] | Count = "auto"
    seed: Off | Count = 42
    allow_gpu: bool = True
    allow_leakage: bool = False
    continued: OffOrText = Field(False, alias="continue")
    use_best_params: OffOrText = False
    task_list: Texts = ()

    @field_validator("proj")
    @classmethod
    def _check_project(cls, given: str) -> str:
        if given in ("", ".", "..") or "/" in given or given != given.strip():
            raise ValueError(f"must be the name of one folder below the results root, got '{given}'.")
        return given

    @model_validator(mode="after")
    def _check_contradiction(self) -> Self:
        if self.continued and self.use_best_params:
            raise ValueError(
                f"continue={self.continued} and use_best_params={self.use_best_params} contradict each other: a run that is continued "
                "keeps its parameters. Give one of them."
            )
        return self
