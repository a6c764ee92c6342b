"""The data root: where datasets lie, and which tasks there are.

::

    RAW/DSET_<dataset>/...                 the original files, with TASK_<name>.json; wip.txt until the dataset is complete
    PREPROCESSED/<id>/_definition.yaml
    PREPROCESSED/<id>/DSET_<dataset>/...   the same relative paths, preprocessed
    DOWNLOADS/<dataset>/...

A dataset folder with ``wip.txt`` is ignored. The headers of all descriptions are cached in a file of the root (keyed by path,
modification time and size), so that an index costs one listing of each folder; a root that cannot be written is indexed without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, StorageError, TaskNotFoundError, unknown_name_message
from mml_ray.tasks.description import TaskDescription, description_file_name
from mml_ray.tasks.header import NO_PREPROCESSING, TaskHeader, parse_header, read_header
from mml_ray.tasks.struct import TaskStruct
from mml_ray.tasks.tags import TAG_SEPARATOR, strip_duplicate

RAW, PREPROCESSED, DOWNLOADS = "RAW", "PREPROCESSED", "DOWNLOADS"
DATASET_PREFIX = "DSET_"
WIP_MARKER = "wip.txt"
INDEX_FILE = ".task_index.json"
LOCKS = ".locks"
_INDEX_VERSION = 1
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass
class _Entry:
    """What is cached of one description file."""

    path: str
    mtime_ns: int
    size: int
    header: TaskHeader
    #: (number of samples, number of folds), once they were asked for
    counts: tuple[int, int] | None = None

    def to_json(self) -> list[Any]:
        return [self.path, self.mtime_ns, self.size, self.header.header_json(), self.header.base, self.counts]


@dataclass
class _Scan:
    entries: dict[str, _Entry] = field(default_factory=dict)
    #: task name -> preprocessing id -> relative path of the description
    index: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


class DataRoot:
    """Reads the data root and knows every path in it. Creating one is cheap: nothing is read before it is asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._scanned: _Scan | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # each process reads what it needs
        return type(self), (self.path,)

    # -- paths -------------------------------------------------------------------------------------------------------------
    def dataset_path(self, dataset: str, preprocessing: str = NO_PREPROCESSING) -> Path:
        """The folder of a dataset, whether it exists or not."""
        return self._datasets(preprocessing) / f"{DATASET_PREFIX}{dataset}"

    def download_path(self, dataset: str) -> Path:
        """The folder to which the archives of a dataset are downloaded."""
        return self.path / DOWNLOADS / dataset

    def definition_path(self, preprocessing: str) -> Path:
        """The file that defines a preprocessing id."""
        if preprocessing == NO_PREPROCESSING:
            raise MMLMisconfigurationException(
                f"The preprocessing id '{NO_PREPROCESSING}' means raw data, which has no definition file."
            )
        return self._datasets(preprocessing) / "_definition.yaml"

    def new_description_path(self, name: str, dataset: str, preprocessing: str = NO_PREPROCESSING) -> Path:
        """The path at which the description of a task of ``dataset`` must be written."""
        return self.dataset_path(dataset, preprocessing) / description_file_name(name)

    def _datasets(self, preprocessing: str) -> Path:
        if preprocessing == NO_PREPROCESSING:
            return self.path / RAW
        if not preprocessing or Path(preprocessing).name != preprocessing:
            raise MMLMisconfigurationException(f"A preprocessing id must be a plain name, got {preprocessing!r}.")
        return self.path / PREPROCESSED / preprocessing

    def is_complete(self, dataset: str, preprocessing: str = NO_PREPROCESSING) -> bool:
        """Whether the dataset's folder exists and was finished."""
        folder = self.dataset_path(dataset, preprocessing)
        return folder.is_dir() and not (folder / WIP_MARKER).exists()

    # -- tasks -------------------------------------------------------------------------------------------------------------
    def index(self) -> dict[str, dict[str, str]]:
        """All tasks: name -> preprocessing id (``none`` = raw) -> path of the description relative to the root."""
        return {name: dict(found) for name, found in self._scan().index.items()}

    def refresh(self) -> None:
        """Read the disk again, except for descriptions that did not change."""
        self._scanned = None

    def __contains__(self, name: str) -> bool:
        return strip_duplicate(name) in self._scan().index

    def description_path(self, name: str, preprocessing: str = NO_PREPROCESSING) -> Path:
        """The description of a task in this preprocessing, else of its raw data; raises :class:`TaskNotFoundError`."""
        return self.path / self._entry(name, preprocessing).path

    def header(self, name: str, preprocessing: str = NO_PREPROCESSING) -> TaskHeader:
        """The header of a task, with the preprocessing that its files really have and their folder."""
        return self._entry(name, preprocessing).header

    def description(self, name: str, preprocessing: str = NO_PREPROCESSING) -> TaskDescription:
        """The whole description, read from disk."""
        return TaskDescription.load(self.description_path(name, preprocessing))

    def counts(self, name: str, preprocessing: str = NO_PREPROCESSING) -> tuple[int, int]:
        """The number of training samples and of folds; read once per version of the file, then cached."""
        entry = self._entry(name, preprocessing)
        if entry.counts is None:
            found = TaskDescription.load(self.path / entry.path)
            entry.counts = (found.num_samples, found.n_folds)
            self._write_cache()
        return entry.counts

    def struct(self, name: str, preprocessing: str = NO_PREPROCESSING) -> TaskStruct:
        """A fresh struct of a task; a duplicate (``+duplicate?1``) keeps its own name."""
        num_samples, n_folds = self.counts(name, preprocessing)
        return TaskStruct.from_header(self.header(name, preprocessing), num_samples=num_samples, n_folds=n_folds, name=name)

    def _entry(self, name: str, preprocessing: str) -> _Entry:
        stored = strip_duplicate(name)
        for cached in (True, False):
            if not cached:
                self.refresh()
            found = self._scan().index.get(stored, {})
            relative = found.get(preprocessing, found.get(NO_PREPROCESSING))
            if relative is not None and (self.path / relative).exists():
                return self._scan().entries[relative]
        raise TaskNotFoundError(self._not_found(stored))

    def _not_found(self, name: str) -> str:
        scan = self._scan()
        if name in scan.index:
            stored = ", ".join(scan.index[name])
            return f"Task '{name}' is only stored preprocessed ({stored}); its raw data is not in {self.path}. Create it again."
        base = name.split(TAG_SEPARATOR)[0]
        hint = f"Data root: {self.path}."
        if base != name and base in scan.index:
            hint += f" '{base}' exists; its variants are created by the modes that use them."
        else:
            hint += f" Create it: mml-ray create tasks={base}"
        if scan.broken:
            hint += f" Unreadable: {'; '.join(scan.broken.values())}"
        return unknown_name_message("task", name, scan.index, hint)

    # -- the index ---------------------------------------------------------------------------------------------------------
    def _scan(self) -> _Scan:
        if self._scanned is None:
            cached = self._read_cache()
            scan = _Scan()
            for preprocessing, folder in self._dataset_folders():
                for file in _descriptions(folder):
                    self._index_file(file, preprocessing, cached=cached, scan=scan)
            self._scanned = scan
            if scan.entries.keys() != cached.keys() or any(scan.entries[key] is not cached[key] for key in cached):
                self._write_cache()
        return self._scanned

    def _index_file(self, file: os.DirEntry[str], preprocessing: str, *, cached: dict[str, _Entry], scan: _Scan) -> None:
        relative = os.path.relpath(file.path, self.path)
        try:
            status = file.stat()
            entry = cached.get(relative)
            if entry is None or (entry.mtime_ns, entry.size) != (status.st_mtime_ns, status.st_size):
                entry = _Entry(relative, status.st_mtime_ns, status.st_size, read_header(file.path))
        except FileNotFoundError:  # deleted after the folder was listed
            return
        except DataError as error:
            scan.broken[relative] = str(error)
            warnings.warn(f"Left out of the task index: {error}", UserWarning, stacklevel=5)
            return
        entry.header.preprocessed, entry.header.relative_root = preprocessing, os.path.dirname(relative)
        found = scan.index.setdefault(entry.header.name, {})
        if preprocessing in found:
            warnings.warn(
                f"Task '{entry.header.name}' is described twice, in {found[preprocessing]} and {relative}: "
                "the latter is used. Delete one of them.",
                UserWarning,
                stacklevel=5,
            )
        found[preprocessing] = relative
        scan.entries[relative] = entry

    def _dataset_folders(self) -> Iterator[tuple[str, str]]:
        """(preprocessing id, path) of every dataset that is complete, in a fixed order."""
        tops = [(NO_PREPROCESSING, str(self.path / RAW))]
        tops += [(entry.name, entry.path) for entry in _sorted_entries(self.path / PREPROCESSED) if entry.is_dir()]
        for preprocessing, top in tops:
            for entry in _sorted_entries(top):
                if entry.is_dir() and not os.path.exists(os.path.join(entry.path, WIP_MARKER)):
                    yield preprocessing, entry.path

    def _read_cache(self) -> dict[str, _Entry]:
        """The cache of an earlier index; empty if it is missing, damaged or of another version."""
        try:
            stored = orjson.loads((self.path / INDEX_FILE).read_bytes())
            if stored["version"] != _INDEX_VERSION:
                return {}
            entries = {}
            for path, mtime_ns, size, header, base, counts in stored["entries"]:
                parsed = TaskHeader(**parse_header(header, path), base=base)
                entries[path] = _Entry(path, mtime_ns, size, parsed, counts=tuple(counts) if counts else None)
            return entries
        except (OSError, ValueError, KeyError, TypeError, DataError):
            return {}

    def _write_cache(self) -> None:
        if self._scanned is None or not self.path.is_dir():
            return
        content = {"version": _INDEX_VERSION, "entries": [entry.to_json() for entry in self._scanned.entries.values()]}
        with contextlib.suppress(OSError):  # a read-only root is indexed each time
            atomic.write_bytes(self.path / INDEX_FILE, orjson.dumps(content))

    # -- writing -----------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def locked(self, what: str, *, wait: bool = True) -> Iterator[None]:
        """Let one process of this machine (or of a file system that shares locks) in at a time; a lock ends with its process.

        Without ``wait``, a lock that is held raises ``BlockingIOError``.
        """
        import fcntl

        path = self.path / LOCKS / f"{what}.lock"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn refused writes and full disks into :class:`StorageError` that names the path and says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in atomic.DENIED:
            raise StorageError(
                f"No permission to write {where}: {error.strerror}. Fix the permissions, or choose another data root (MML_DATA_PATH)."
            ) from error
        if error.errno in _FULL:
            raise StorageError(
                f"The disk of {where} is full: {error.strerror}. Free some space and repeat the command."
            ) from error
        raise


def _sorted_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _descriptions(folder: str) -> list[os.DirEntry[str]]:
    """The description files of a dataset folder, without unfinished ones and those a creator keeps for itself."""
    return [
        entry
        for entry in _sorted_entries(folder)
        if "TASK" in entry.name and entry.name.endswith(".json") and not entry.name.startswith((".", "temp"))
    ]
