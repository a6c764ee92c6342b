"""Decoded images and masks in Arrow IPC files: written once, memory-mapped by every process, read without a copy.

A store is a folder::

    store.json              {"format", "version", "definition"}: what was done to the images
    part-<time>-<id>.arrow  Arrow IPC files, never changed once they are there

Columns: ``key`` and ``modality`` identify an array, ``sample_id`` says whose it is, ``source`` what it was made from (for
incremental work), ``height width channels`` its shape (0 channels: two-dimensional), ``bits`` 8 or 16, ``data`` its bytes, padded
to 64. Of several rows with one key the newest counts, so a store grows by adding parts; pages are shared by all processes.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import ipc

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import EMPTY_MASK_TOKEN

Pixels = NDArray[Any]
_FORMAT, _VERSION = "mml-ray arrays", 1
_STORE = "store.json"
#: the folder of stored arrays within a preprocessed dataset
STORE_FOLDER = "arrays"
_ALIGNMENT = 64
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "modality": pa.string(),
        "sample_id": pa.string(),
        "source": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "channels": pa.int32(),
        "bits": pa.int32(),
        "data": pa.large_binary(),
    }
)


def mask_key(mask_entry: str, image_entry: str) -> str:
    """The key of a mask: its entry, or for an empty one a name of its own for each image."""
    return f"{EMPTY_MASK_TOKEN}:{image_entry}" if mask_entry == EMPTY_MASK_TOKEN else mask_entry


def is_store(folder: Path | str) -> bool:
    """Whether there is a store."""
    return (Path(folder) / _STORE).is_file()


class ArrowWriter:
    """Adds arrays to the store in ``folder``, as one new part that is whole or not there.

    Use it as a context manager, or call :meth:`close` (or :meth:`abort`). Several writers, also of several processes, may add
    to one store at the same time. It holds at most ``batch_bytes`` in memory.
    """

    def __init__(self, folder: Path | str, *, definition: Mapping[str, Any], batch_bytes: int = 16 << 20) -> None:
        """Opens (or starts) the store; one of another ``definition`` raises :class:`MMLMisconfigurationException`."""
        self.folder = Path(folder)
        _open_definition(self.folder, definition)
        self._batch_bytes = batch_bytes
        self._rows: list[tuple[Any, ...]] = []
        self._chunks: list[Pixels] = []
        self._pending = 0
        self._stack = contextlib.ExitStack()
        self._writer: Any = None
        self.written = 0

    def add(self, array: Pixels, *, key: str, modality: str = "image", sample_id: str = "", source: str = "") -> None:
        """Add ``uint8`` or ``uint16`` ``[H, W]`` or ``[H, W, C]``; the array is copied."""
        if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3):
            raise DataError(
                f"A store holds uint8 or uint16 arrays of 2 or 3 dimensions, but '{key}' is {array.dtype} {array.shape}."
            )
        channels = array.shape[2] if array.ndim == 3 else 0
        self._rows.append((key, modality, sample_id, source, array.shape[0], array.shape[1], channels, 8 * array.itemsize))
        self._chunks.append(np.array(array, order="C", copy=True))
        self._pending += array.nbytes
        self.written += 1
        if self._pending >= self._batch_bytes:
            self._flush()

    def close(self) -> Path | None:
        """Finish the part: durable and visible to readers. Nothing added: no part."""
        self._flush()
        if self._writer is None:
            return None
        self._writer = None
        self._stack.close()
        return self._target

    def abort(self) -> None:
        """Throw away what was added."""
        self._rows, self._chunks, self._pending = [], [], 0
        self._writer = None
        with contextlib.suppress(_Aborted), self._stack:
            raise _Aborted

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._target = self.folder / f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.arrow"
            temporary = self._stack.enter_context(atomic.replacing(self._target))
            sink = self._stack.enter_context(pa.OSFile(str(temporary), "wb"))
            self._writer = self._stack.enter_context(ipc.new_file(sink, _SCHEMA))
        columns = [pa.array(values, field.type) for values, field in zip(zip(*self._rows, strict=True), _SCHEMA, strict=False)]
        self._writer.write_batch(pa.record_batch([*columns, self._data()], schema=_SCHEMA))
        self._rows, self._chunks, self._pending = [], [], 0

    def _data(self) -> pa.Array:
        sizes = np.array([-(-chunk.nbytes // _ALIGNMENT) * _ALIGNMENT for chunk in self._chunks], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        data = np.zeros(int(offsets[-1]), np.uint8)
        for start, chunk in zip(offsets[:-1].tolist(), self._chunks, strict=True):
            data[start : start + chunk.nbytes] = chunk.reshape(-1).view(np.uint8)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self._chunks), buffers)

    def __enter__(self) -> ArrowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class _Aborted(Exception):
    """Tells the temporary file that it is not wanted."""


class ArrowReader:
    """Reads the store in ``folder``: a row is found by key, an array is a read-only view into the mapped file.

    Survives forking and pickling. Opening maps the parts and reads their keys, a few microseconds a row.
    """

    def __init__(self, folder: Path | str, *, definition: Mapping[str, Any] | None = None) -> None:
        """No store, or one of another ``definition``: :class:`MMLMisconfigurationException`. Damage: :class:`DataError`."""
        self.folder = Path(folder)
        self.definition = _read_definition(self.folder)
        if definition is not None:
            self.check(definition)
        self._parts: dict[str, pa.Table] = {}
        self.refresh()

    def check(self, definition: Mapping[str, Any]) -> None:
        """Raise :class:`MMLMisconfigurationException` if the store's definition differs in one of these keys."""
        _compare(self.folder, self.definition, definition)

    def refresh(self) -> bool:
        """Take up parts that were added since; whether there were any."""
        found = sorted(path.name for path in self.folder.glob("part-*.arrow"))
        added = [name for name in found if name not in self._parts]
        for name in added:
            self._parts[name] = _map(self.folder / name)
        if added or not hasattr(self, "_index"):
            self._lay_out()
        return bool(added)

    def _lay_out(self) -> None:
        """Number the rows, newest part first, so that the first hit of a key is the one that counts."""
        batches = [batch for name in sorted(self._parts, reverse=True) for batch in reversed(self._parts[name].to_batches())]
        table = pa.Table.from_batches(batches, _SCHEMA) if batches else _SCHEMA.empty_table()
        self._keys = {
            modality: (chosen, table["key"].combine_chunks().take(pa.array(chosen)))
            for modality, chosen in _by_modality(table).items()
        }
        self._sources = table["source"]
        self._ids = table["sample_id"]
        self._shapes = np.stack([np.asarray(table[name]) for name in ("height", "width", "channels", "bits")], axis=1)
        self._batch = np.repeat(np.arange(len(batches)), [batch.num_rows for batch in batches])
        self._data = [_bytes_of(batch) for batch in batches]
        self._offsets = np.concatenate([_offsets_of(batch) for batch in batches]) if batches else np.zeros(0, np.int64)
        self._index = True

    def __len__(self) -> int:
        """Rows, outdated ones included."""
        return len(self._offsets)

    def rows(self, keys: Sequence[str] | pa.Array, modality: str = "image") -> NDArray[np.int64]:
        """The row of each key, -1 where there is none."""
        wanted = keys if isinstance(keys, pa.Array) else pa.array(list(keys), pa.string())
        if modality not in self._keys or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        chosen, stored = self._keys[modality]
        positions = pc.index_in(wanted, value_set=stored).fill_null(-1).to_numpy(zero_copy_only=False)
        found: NDArray[np.int64] = np.where(positions < 0, -1, chosen[positions])
        return found

    def array(self, row: int) -> Pixels:
        """The array of a row: a read-only view, ``uint8`` or ``uint16``, ``[H, W]`` or ``[H, W, C]``."""
        height, width, channels, bits = self._shapes[row].tolist()
        shape = (height, width, channels) if channels else (height, width)
        size = height * width * (channels or 1)
        start = int(self._offsets[row])
        data: Pixels = self._data[self._batch[row]]
        if bits == 16:
            return data[start : start + 2 * size].view(np.uint16).reshape(shape)
        return data[start : start + size].reshape(shape)

    def sources(self, modality: str = "image") -> dict[str, str]:
        """What each key was made from, as its writer said."""
        if modality not in self._keys:
            return {}
        chosen, stored = self._keys[modality]
        made = self._sources.take(pa.array(chosen)).to_pylist()
        return dict(zip(reversed(stored.to_pylist()), reversed(made), strict=True))

    def sample_ids(self, modality: str = "image") -> dict[str, str]:
        """The sample id of each key."""
        if modality not in self._keys:
            return {}
        chosen, stored = self._keys[modality]
        return dict(zip(reversed(stored.to_pylist()), reversed(self._ids.take(pa.array(chosen)).to_pylist()), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowReader, (self.folder,)


def compact(folder: Path | str) -> int:
    """Write the rows that count into one new part and delete the others; returns the bytes gained.

    Not while somebody writes; readers that have the old parts mapped go on with them.
    """
    reader = ArrowReader(folder)
    before = {name: (reader.folder / name).stat().st_size for name in reader._parts}
    with ArrowWriter(folder, definition=reader.definition) as writer:
        for modality in reader._keys:
            ids, sources = reader.sample_ids(modality), reader.sources(modality)
            for key, row in zip(sources, reader.rows(list(sources), modality).tolist(), strict=True):
                writer.add(reader.array(row), key=key, modality=modality, sample_id=ids[key], source=sources[key])
    for name in before:
        (reader.folder / name).unlink()
    after = sum(path.stat().st_size for path in reader.folder.glob("part-*.arrow"))
    return sum(before.values()) - after


# -- files ---------------------------------------------------------------------------------------------------------
def _open_definition(folder: Path, definition: Mapping[str, Any]) -> None:
    if is_store(folder):
        _compare(folder, _read_definition(folder), definition)
    else:
        atomic.write_json(folder / _STORE, {"format": _FORMAT, "version": _VERSION, "definition": _plain(definition)})


def _read_definition(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _STORE).read_text(encoding="utf-8"))
        version, definition = content["version"], dict(content["definition"])
    except FileNotFoundError:
        raise MMLMisconfigurationException(
            f"{folder} contains no stored arrays. Preprocess the task first (mml-ray pp)."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _STORE} is damaged ({error}). Delete the folder and preprocess again.") from error
    if version != _VERSION:
        raise DataError(
            f"{folder} was written by another version (format {version}, this one reads {_VERSION}). Delete it and preprocess again."
        )
    return definition


def _compare(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    given = _plain(wanted)
    for key in given:
        if stored.get(key) != given[key]:
            raise MMLMisconfigurationException(
                f"{folder} was made with {key}={json.dumps(stored.get(key))}, asked for is {json.dumps(given[key])}. "
                "Use another preprocessing id, or delete the folder and preprocess again."
            )


def _plain(definition: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(definition, sort_keys=True))
    return plain


def _map(path: Path) -> pa.Table:
    try:
        return ipc.open_file(pa.memory_map(str(path), "r")).read_all().cast(_SCHEMA)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise DataError(f"The stored arrays {path} are damaged ({error}). Delete the file and preprocess again.") from error


def _by_modality(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    column = table["modality"]
    return {
        str(modality): np.flatnonzero(pc.equal(column, modality).to_numpy(zero_copy_only=False))
        for modality in pc.unique(column).to_pylist()
    }


def _bytes_of(batch: pa.RecordBatch) -> Pixels:
    return np.frombuffer(batch.column("data").buffers()[2], np.uint8)


def _offsets_of(batch: pa.RecordBatch) -> NDArray[np.int64]:
    column = batch.column("data")
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column)]
