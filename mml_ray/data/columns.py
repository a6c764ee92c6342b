"""Entries of many samples in few flat buffers.

A list of 100,000 dicts costs every loader process its own copy, as touching a Python object changes its reference
count; the buffers here are shared by all processes that fork from the one that built them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Column:
    """A read-only sequence: strings, numbers or lists of numbers in Arrow buffers, anything else as JSON text."""

    def __init__(self, entries: Sequence[Any]) -> None:
        """Copy ``entries``; raises ``TypeError`` for what is not JSON-able."""
        self._json = False
        try:
            self._array = pa.array(entries, from_pandas=False)
            plain = _is_plain(self._array.type) and self._array.null_count == 0
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            plain = False
        if not plain and len(entries):
            self._json = True
            self._array = pa.array([json.dumps(entry) for entry in entries], pa.large_string())
        #: offsets and bytes of strings: ten times faster to cut out than an Arrow scalar is to make
        self._text = _text_of(self._array)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._array, self._json)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Any:
        if self._text is not None:
            offsets, data = self._text
            value = data[offsets[index] : offsets[index + 1]].tobytes().decode()
            return json.loads(value) if self._json else value
        return self._array[index].as_py()

    def tolist(self) -> list[Any]:
        """All entries."""
        values = self._array.to_pylist()
        return [json.loads(value) for value in values] if self._json else values


def _restored(array: pa.Array, is_json: bool) -> Column:
    column = Column.__new__(Column)
    column._array, column._json, column._text = array, is_json, _text_of(array)
    return column


def _text_of(array: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]] | None:
    if pa.types.is_large_string(array.type):
        width: Any = np.int64
    elif pa.types.is_string(array.type):
        width = np.int32
    else:
        return None
    _, offsets, data = array.buffers()
    start = array.offset
    return np.frombuffer(offsets, width)[start : start + len(array) + 1], np.frombuffer(data or b"", np.uint8)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind))
