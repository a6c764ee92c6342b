"""The header of a task description: everything but its samples, read without reading the samples.

Files are written header first, so a few kilobytes of a description of any size are enough.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mml_ray.errors import DataError, UnknownNameError
from mml_ray.tasks.attributes import Keyword, License, Modality, RGBInfo, Sizes, TaskType
from mml_ray.tasks.kinds import TaskKind, kind_of

#: the keys of a tagged variant, after the header and in place of the samples: the task it derives from, and what differs
VARIANT_OF = "variant_of"
VARIANT_KEY = "variant"
NO_PREPROCESSING = "none"
_UNKNOWN_CHANNELS, _UNKNOWN_SIZES = RGBInfo(), Sizes()
_CHUNK = 1 << 15
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(kw_only=True)
class TaskMeta:
    """What is known about a task apart from its samples. Fields in the order of the file, whose keys they are."""

    name: str
    task_type: TaskType
    keywords: list[Keyword] = field(default_factory=list)
    #: modality -> the file suffixes that occur, as "png; jpg; "; empty for entries that are not files
    modalities: dict[Modality, str] = field(default_factory=dict)
    means: RGBInfo = _UNKNOWN_CHANNELS
    stds: RGBInfo = _UNKNOWN_CHANNELS
    sizes: Sizes = _UNKNOWN_SIZES
    idx_to_class: dict[int, str] = field(default_factory=dict)
    #: class name -> number of training samples with it
    class_occ: dict[str, int] = field(default_factory=dict)
    description: str = ""
    creation_protocol: str = ""
    reference: str = ""
    url: str = ""
    download: str = ""
    license: License = License.UNKNOWN
    release: str = ""

    @property
    def kind(self) -> TaskKind:
        return kind_of(self.task_type, self.modalities)

    @property
    def target(self) -> Modality | None:
        """The modality to predict, ``None`` for unlabelled tasks."""
        return Modality(self.kind.target) if self.kind.target is not None else None

    def meta_fields(self) -> dict[str, Any]:
        """The fields of the header by name; the values are shared, not copied."""
        return {key: getattr(self, key) for key in HEADER_KEYS}

    def header_json(self) -> dict[str, Any]:
        """The header as plain data, keys in the order of the file."""
        return {key: _plain(value) for key, value in self.meta_fields().items()}


#: the keys of the header in a file, in their order
HEADER_KEYS = tuple(TaskMeta.__dataclass_fields__)


def _plain(value: Any) -> Any:
    if isinstance(value, RGBInfo | Sizes):
        return value.to_list()
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return [str(item) for item in value] if isinstance(value, list) else str(value)


@dataclass(kw_only=True)
class TaskHeader(TaskMeta):
    """The header of a stored description, and where it lies (the last two are filled by the data root)."""

    #: the task this one is a tagged variant of, '' for an independent task
    base: str = ""
    #: id of the preprocessing of the files it refers to
    preprocessed: str = NO_PREPROCESSING
    #: dataset folder relative to the data root; sample paths are relative to it
    relative_root: str = ""


def parse_header(raw: Mapping[str, Any], source: Path | str) -> dict[str, Any]:
    """Typed fields from plain ones; raises :class:`DataError` naming ``source`` if one is missing or invalid."""
    missing = [key for key in HEADER_KEYS if key not in raw]
    if missing:
        raise DataError(
            f"{source} is not a task description of a known version: it lacks {', '.join(missing)}. Recreate the task."
        )
    parsers: dict[str, Callable[[Any], Any]] = {
        "task_type": TaskType,
        "keywords": lambda values: [Keyword.register(value) for value in values],
        "modalities": lambda found: {Modality(name): str(suffixes) for name, suffixes in found.items()},
        "means": lambda values: RGBInfo(*map(float, values)),
        "stds": lambda values: RGBInfo(*map(float, values)),
        "sizes": lambda values: Sizes(*map(int, values)),
        "idx_to_class": lambda found: {int(index): str(name) for index, name in found.items()},
        "class_occ": lambda found: {str(name): int(count) for name, count in found.items()},
        "license": License.register,
    }
    fields: dict[str, Any] = {}
    for key in HEADER_KEYS:
        try:
            fields[key] = parsers.get(key, str)(raw[key])
        except UnknownNameError as error:
            raise DataError(f"{source}: {error} The plugin that adds it may not be installed.") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{source}: the field '{key}' is invalid ({error}).") from error
    return fields


def read_header(path: Path | str) -> TaskHeader:
    """The header of the description at ``path``; reads as much of the file as it takes (all of it if the header comes last)."""
    raw = _read_leading(Path(path)) or read_json(Path(path))
    return TaskHeader(**parse_header(raw, path), base=str(raw.get(VARIANT_OF, "")))


def read_json(path: Path) -> dict[str, Any]:
    """The whole file; :class:`DataError` if it is not readable as a JSON object."""
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"The task description {path} cannot be read: {error.strerror or error}.") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"The task description {path} is damaged: {error}. Delete it and recreate the task.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a task description: it holds a {type(content).__name__} instead of an object.")
    return content


def _read_leading(path: Path) -> dict[str, Any] | None:
    """The header if the file starts with it, else ``None``."""
    try:
        with path.open("rb") as stream:
            data = b""
            while chunk := stream.read(max(_CHUNK, 3 * len(data))):
                data += chunk
                found, complete = _scan(codecs.utf_8_decode(data, "strict", False)[0])
                if complete:
                    return found if len(found) >= len(HEADER_KEYS) else None
    except OSError as error:
        raise DataError(f"The task description {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError:
        return None
    return None


def _scan(text: str) -> tuple[dict[str, Any], bool]:
    """The leading header fields of a JSON object, and whether they end (at another key) within ``text``."""
    found: dict[str, Any] = {}
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        return {}, True
    try:
        while True:
            key, position = _DECODER.raw_decode(text, _skip(text, position + 1))
            if key != VARIANT_OF and key not in HEADER_KEYS:
                return found, True
            position = _skip(text, position)
            value, position = _DECODER.raw_decode(text, _skip(text, position + 1))
            position = _skip(text, position)
            if text[position : position + 1] != ",":  # '}', damage, or the end of what was read so far
                return found, position < len(text)
            found[key] = value
    except json.JSONDecodeError:
        return found, False


def _skip(text: str, position: int) -> int:
    matched = _BLANKS.match(text, position)
    return matched.end() if matched else position
