"""Plain data: what JSON can hold, and the floats it cannot (nan, inf, -inf)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mml_ray.errors import MMLMisconfigurationException

_MARK = "$float"


def to_plain(value: Any, where: str = "value") -> Any:
    """``value`` as JSON can hold it: tuples become lists, subclasses of str, int and float become those, nan and inf a mark.

    Raises:
        MMLMisconfigurationException: anything else; the message calls the value ``where``.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        whole = int(value)
        if not -(2**63) <= whole < 2**64:
            raise MMLMisconfigurationException(f"{where} holds {whole}, which does not fit into 64 bits. Pass it as text.")
        return whole
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {_MARK: repr(number)}
    if isinstance(value, list | tuple):
        return [to_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {_key(key, where): to_plain(item, where) for key, item in value.items()}
    raise MMLMisconfigurationException(
        f"{where} holds {kind.__module__}.{kind.__qualname__}, which is not plain data. Allowed: str, int, float, bool, None, and "
        "lists and dicts (with str keys) of them. Store anything else as a file and pass its path."
    )


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`, except for the types it unified."""
    if isinstance(value, dict):
        if len(value) == 1 and _MARK in value:
            return float(value[_MARK])
        return {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return value


def normalized(value: Any, where: str = "value") -> Any:
    """``value`` as it will be read back. Errors as :func:`to_plain`."""
    return from_plain(to_plain(value, where))


def _text(value: str, where: str) -> str:
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MMLMisconfigurationException(f"{where} holds a text that is not valid Unicode: {text!r}.") from None
    return text


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str) or key == _MARK:
        raise MMLMisconfigurationException(
            f"{where} holds a dict with the key {key!r} ({type(key).__name__}). Keys must be text other than '{_MARK}'."
        )
    return _text(key, where)
