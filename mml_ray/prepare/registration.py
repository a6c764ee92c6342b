"""Who makes a dataset, who describes a task: the decorators, and how a creator is called.

::

    @register_dsetcreator("my_scans")
    def create_dset(context: CreationContext) -> Path: ...

    @register_taskcreator("my_task", dset_name="my_scans")
    def create_task(dset_path: Path, context: CreationContext) -> Path: ...

Both may leave the context out of their signature (``create_dset()``, ``create_task(dset_path)``); settings such as the number of
folds take effect all the same, since ``split_folds`` asks the running creation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.prepare.context import CreationContext
from mml_ray.registry import registry

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, repr=False)
class TaskEntry:
    """A registered task: its creator and the dataset it is described on."""

    task_name: str
    dset_name: str
    create: Callable[..., Any]
    #: the task's name and dataset come from ``source.name``
    sourced: bool = False

    def __call__(self, dset_path: Path, context: CreationContext) -> Any:
        """Run the creator."""
        return call_creator(self.create, dset_path, context)

    def __repr__(self) -> str:  # what the registry compares to tell a reload from another creator
        creator = f"{getattr(self.create, '__module__', '')}.{getattr(self.create, '__qualname__', repr(self.create))}"
        return f"task '{self.task_name}' on '{self.dset_name}' by {creator}"


def register_dsetcreator(dset_name: str) -> Callable[[F], F]:
    """Register the creator of a dataset."""
    return lambda function: registry.add("dset_creator", dset_name, function)


def register_taskcreator(task_name: str, dset_name: str) -> Callable[[F], F]:
    """Register the creator of a task; one function may be registered for several tasks."""

    def register(function: F) -> F:
        registry.add("task_creator", task_name, TaskEntry(task_name, dset_name, function))
        return function

    return register


def create_creator_func(create_func: Callable[..., Any], **kwargs: Any) -> Callable[[Path], Any]:
    """A creator ``(dset_path) -> ...`` from a function that takes more arguments, which are given here."""

    @functools.wraps(create_func)
    def creator(dset_path: Path) -> Any:
        return create_func(dset_path, **kwargs)

    creator.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("dset_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    )
    return creator


def call_creator(function: Callable[..., Any], *available: Any) -> Any:
    """Call with as many of the ``available`` arguments as the function needs; the last of them is the context, which is also
    given to an optional parameter of this name."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind == inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return function(*available)
    named = {parameter.name for parameter in parameters}
    required = [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]
    if len(required) > len(available):
        raise MMLMisconfigurationException(
            f"The creator {getattr(function, '__qualname__', function)} asks for ({', '.join(required)}), but is given only "
            + ("the dataset folder and the context." if len(available) == 2 else "the context.")
        )
    if "context" not in named:
        return function(*available[: len(required)])
    others = [name for name in required if name != "context"]
    return function(*available[: len(others)], context=available[-1])
