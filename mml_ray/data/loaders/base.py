"""What a loader is: it turns one entry of a task description into an array or a number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mml_ray.errors import DataError
from mml_ray.imaging import Pixels, refuse_file


class ModalityLoader(ABC):
    """Reads the entries of one modality. One object serves one task; it must survive pickling.

    Register a subclass with ``registry.add("loader", "<name>", Loader)``.
    """

    def __init__(self, idx_to_class: Mapping[int, str]) -> None:
        """``idx_to_class`` as in the task's description: raw index to class name; may be empty."""
        self.idx_to_class = dict(idx_to_class)

    @abstractmethod
    def raw(self, entry: Any, root: str) -> Any:
        """The value of ``entry`` as it is preprocessed and stored; relative paths start at the folder ``root``.

        Raises :class:`DataError` (for a file: :class:`BrokenSampleError`) that names the entry.
        """

    def final(self, raw: Any) -> Any:
        """What the task makes of a raw value, after preprocessing (masks: the mapping to class indices)."""
        return raw

    def load(self, entry: Any, root: str) -> Any:
        """The final value of ``entry``."""
        return self.final(self.raw(entry, root))


class FileLoader(ModalityLoader):
    """A loader of files; subclasses implement :meth:`read`."""

    def raw(self, entry: Any, root: str) -> Pixels:
        """The content of the file ``entry``."""
        if not isinstance(entry, str):
            raise DataError(f"{type(self).__name__} reads files, so the entry must be a path, got {entry!r}.")
        path = os.path.join(root, entry)
        try:
            return self.read(path)
        except Exception as error:
            refuse_file(path, error)

    @abstractmethod
    def read(self, path: str) -> Pixels:
        """The content of the file at ``path``; any exception becomes a :class:`BrokenSampleError`."""
