"""Which tasks a run is about."""

from __future__ import annotations

from mml_ray.options import Field, Off, Options, Text, Texts


class PivotOptions(Options):
    """The task that a run is about; false: none."""

    group = "pivot"

    name: Off | Text = Field(False, union_mode="left_to_right")
    tags: Text = ""


class TaggingOptions(Options):
    """Tags for every task of the list; false: none."""

    group = "tagging"

    all: Off | Text = Field(False, union_mode="left_to_right")
    variants: Texts = ()
