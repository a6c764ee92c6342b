"""Where the raw data of a new task comes from."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict

from mml_ray.options import Field, Options, Text, Texts

#: relative to the folder of the call, since a command may run in a process with another one
Place = Annotated[Text, AfterValidator(lambda given: os.path.abspath(os.path.expanduser(given)) if given else given)]


class SourceOptions(Options):
    """Raw data of a creator; further keys are its own."""

    model_config = ConfigDict(extra="allow")
    group = "source"

    creator: Text | None = None
    path: Place | None = None


class FolderOptions(SourceOptions):
    """``from_folder``: images of one's own in folders."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    password: Text | None = None
    task_type: Text | None = None
    classes: dict[Any, Any] | Texts | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    # what the description of the task says of its origin
    description: Text | None = None
    reference: Text | None = None
    url: Text | None = None
    license: Text | None = None
    release: Text | None = None
    keywords: Texts | None = None


class TableOptions(FolderOptions):
    """``from_table``: images of one's own with a table."""

    images: Place | None = None
    table: Text | None = None
    columns: dict[str, Text | None] = {}
    class_columns: Texts | None = None


#: creator to options; any other creator takes what its plugin says
SOURCES: dict[str, type[SourceOptions]] = {"from_folder": FolderOptions, "from_table": TableOptions}
