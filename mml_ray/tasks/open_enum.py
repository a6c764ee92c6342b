"""Named string constants that plugins extend.

A member *is* its value: ``Modality.IMAGE == "image"``, with the same hash, so members and plain strings find one another
in dictionaries. Equality is therefore exact; what is case-insensitive is the way in: ``DataSplit("test") is DataSplit.TEST``.
(Equality that ignored case could not agree with the hash of a plain string.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self, TypeVar

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

E = TypeVar("E", bound="OpenEnum")


class member:
    """Declares a constant in the body of an :class:`OpenEnum`: ``IMAGE = member("image")``."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __get__(self, instance: object, owner: type[E]) -> E:  # replaced by the member itself when the class is made
        return owner(self.value)


class _Catalogue(type):
    """Makes the classes iterable: members in the order of their registration."""

    _members: dict[str, Any]
    _names: dict[str, Any]

    def __iter__(cls) -> Iterator[Any]:
        return iter(list(cls._members.values()))

    def __len__(cls) -> int:
        return len(cls._members)

    def __contains__(cls, value: object) -> bool:
        return isinstance(value, str) and value in cls._members

    def __getitem__(cls, name: str) -> Any:
        found = cls._names.get(name.upper())
        if found is None:
            raise UnknownNameError.of(cls.__name__, name, cls._names)
        return found


class OpenEnum(str, metaclass=_Catalogue):
    """Base of the vocabularies. ``cls(value)`` gives the member of that value or name, whatever its case."""

    _members: ClassVar[dict[str, Any]]
    _names: ClassVar[dict[str, Any]]
    _folded: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        cls._members, cls._names, cls._folded = {}, {}, {}
        for name, declared in [item for item in vars(cls).items() if isinstance(item[1], member)]:
            cls._add(name, declared.value)

    def __new__(cls, value: str) -> Self:
        text = value if isinstance(value, str) else ""
        found: Self | None = cls._members.get(text) or cls._folded.get(text.casefold()) or cls._names.get(text.upper())
        if found is None:
            raise UnknownNameError.of(cls.__name__, str(value), cls._members)
        return found

    @classmethod
    def _add(cls, name: str, value: str) -> Self:
        found: Self | None = cls._folded.get(value.casefold())
        if found is None:
            found = str.__new__(cls, value)
            cls._members[value] = cls._folded[value.casefold()] = found
        cls._names[name] = found
        setattr(cls, name, found)
        return found

    @classmethod
    def register(cls, value: str, *, name: str | None = None) -> Self:
        """Add a member (or return the one of that value); it is also the attribute ``name``, by default the upper-cased value."""
        if not value or not isinstance(value, str):
            raise MMLMisconfigurationException(f"A {cls.__name__} needs a non-empty string as its value, got {value!r}.")
        found: Self | None = cls._folded.get(value.casefold())
        if found is not None and name is None:
            return found
        return cls._add(name or re.sub(r"\W+", "_", value).strip("_").upper(), value)

    @property
    def value(self) -> str:
        """The plain string."""
        return str(self)

    @property
    def name(self) -> str:
        """The constant's name."""
        return next(name for name, found in type(self)._names.items() if found is self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"
