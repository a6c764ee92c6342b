"""Tags derive tasks from tasks: ``digits+nested?0+subset?0_5``.

``+`` starts a tag, ``?`` an argument, ``_`` is the decimal separator. A tag is a function ``(TaskDescription, *arguments) -> Variant``
registered as kind ``tag``; arguments are strings. ``duplicate`` is not a tag: it gives a task a second name in the task list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.registry import registry
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.modifiers.labels import confuse, subclass
from mml_ray.tasks.modifiers.sizes import shrink_equal, shrink_train, subset
from mml_ray.tasks.modifiers.splits import identity, nested, redistribute_splits
from mml_ray.tasks.variant import Variant, complete

TAG_SEPARATOR = "+"
ARGUMENT_SEPARATOR = "?"
DUPLICATE = "duplicate"

TagFunction = Callable[..., Variant]

for _function in (identity, nested, subset, confuse, shrink_train, shrink_equal, redistribute_splits, subclass):
    registry.add("tag", _function.__name__, _function)


@dataclass(frozen=True)
class Tag:
    """One tag with its arguments as they were written."""

    name: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ARGUMENT_SEPARATOR.join((self.name, *self.args))


@dataclass(frozen=True)
class TaskName:
    """A parsed task name."""

    base: str
    tags: tuple[Tag, ...] = ()

    def __str__(self) -> str:
        return TAG_SEPARATOR.join((self.base, *map(str, self.tags)))

    @property
    def data_name(self) -> str:
        """The name under which the data is stored: without duplicates."""
        return str(TaskName(self.base, tuple(tag for tag in self.tags if tag.name != DUPLICATE)))

    def prefixes(self) -> list[str]:
        """The stored tasks this one is derived from, shortest first, itself last: ``a``, ``a+x``, ``a+x+y``."""
        tags = [tag for tag in self.tags if tag.name != DUPLICATE]
        return [str(TaskName(self.base, tuple(tags[:count]))) for count in range(len(tags) + 1)]


def parse(name: str) -> TaskName:
    """Parse a name; raises on a malformed one. Whether its tags exist is checked by :func:`check`."""
    base, *tags = name.split(TAG_SEPARATOR)
    if not base:
        raise MMLMisconfigurationException(f"The task name {name!r} has no base task, it must be <task>+<tag>?<argument>...")
    parsed = []
    for text in tags:
        tag, *args = text.strip().split(ARGUMENT_SEPARATOR)
        if not tag:
            raise MMLMisconfigurationException(f"The task name {name!r} has an empty tag.")
        if "." in text:
            raise MMLMisconfigurationException(
                f"The tag '{text}' of {name!r} must not contain a dot; write an underscore as the decimal separator."
            )
        parsed.append(Tag(tag, tuple(args)))
    return TaskName(base, tuple(parsed))


def strip_duplicate(name: str) -> str:
    """``name`` without ``+duplicate?...``: the name its data is stored under."""
    return parse(name).data_name


def check(name: str) -> TaskName:
    """Parse ``name``; raises :class:`UnknownNameError` for an unregistered tag, and on a wrong number of arguments."""
    parsed = parse(name)
    for tag in parsed.tags:
        if tag.name != DUPLICATE:
            _function_of(tag)
    return parsed


def _function_of(tag: Tag) -> TagFunction:
    function = registry.lookup("tag", tag.name, hint=f"A duplicate of a task is written +{DUPLICATE}?<number>.")
    signature = inspect.signature(function)
    try:
        signature.bind(None, *tag.args)
    except TypeError as error:
        wanted = [str(parameter.replace(annotation=parameter.empty)) for parameter in list(signature.parameters.values())[1:]]
        raise MMLMisconfigurationException(
            f"The tag '{tag}' has the wrong number of arguments: {tag.name} takes ({', '.join(wanted)})."
        ) from error
    return cast(TagFunction, function)


def modify(description: TaskDescription, tag: Tag) -> Variant:
    """The variant that ``tag`` derives from ``description``; pure, deterministic."""
    function = _function_of(tag)
    try:
        variant = function(description, *tag.args)
    except MMLMisconfigurationException as error:
        if tag.name in str(error):
            raise
        raise type(error)(f"The tag '{tag}': {error}") from error
    variant.note = variant.note or f"tagged '{tag}'; "
    return variant


def derive(description: TaskDescription, tag: Tag) -> TaskDescription:
    """The whole tagged task, in memory."""
    variant = modify(description, tag)
    name = description.name + TAG_SEPARATOR + str(tag)
    parts = complete(variant, description, source=f"tag '{tag}'")
    return TaskDescription(**variant.meta_fields(description, name), **parts, mask_classes=description.mask_classes)
