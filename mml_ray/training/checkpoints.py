"""Checkpoints of a training as generations in one folder: written atomically, verified when read, the newest good one counts.

A generation is ``checkpoint-000007.ckpt`` (what ``torch.save`` wrote: tensors and plain data, opened with
``weights_only=True``) and, written after it, ``checkpoint-000007.json`` with its size, sha256 and position. Without the
second file the first one does not count. The newest and the one before are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from mml_ray.atomic import fs, write_all
from mml_ray.driver.disk_space import FULL
from mml_ray.errors import DataError, DiskFullError, StorageError
from mml_ray.store.files import LOCAL, Files

logger = logging.getLogger(__name__)

#: version of the side file
FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d{6,})\.(ckpt|json)")


@dataclass(frozen=True)
class Position:
    """Where a training stands: ``epoch`` epochs and ``batch`` batches of the next are done, in ``step`` optimizer steps.

    ``finished`` is ``epochs`` when all epochs are done, ``stopped`` when a callback ended the training, else empty.
    """

    epoch: int
    batch: int
    step: int = 0
    finished: str = ""


@dataclass(frozen=True)
class Generation:
    """A checkpoint that was written completely."""

    number: int
    path: Path
    position: Position
    sha256: str
    size: int


class VerifiedCheckpointIO(CheckpointIO):
    """How Lightning reads and writes files: a checkpoint exists as a whole or not at all, and is opened with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write atomically; raises :class:`StorageError`, for a full disk :class:`DiskFullError`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint on the CPU; ``weights_only`` is always true."""
        return read_checkpoint(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, if it exists."""
        Path(path).unlink(missing_ok=True)


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path, files: Files = LOCAL) -> tuple[str, int]:
    """Write ``checkpoint`` to ``path`` atomically; returns sha256 and size."""
    return _write(path, files, lambda stream: torch.save(dict(checkpoint), stream))  # type: ignore[arg-type]  # it only writes


def _write(path: Path, files: Files, save: Callable[[_HashingStream], object]) -> tuple[str, int]:
    try:
        with files.replacing(path) as temporary:
            stream = _HashingStream(temporary)
            try:
                save(stream)
            except RuntimeError as error:  # torch hides what its file raised
                raise stream.error or error from None
            finally:
                stream.close()
    except OSError as error:
        raise _unwritable(path, error) from error
    return stream.digest.hexdigest(), stream.size


def _unwritable(path: Path, error: OSError) -> StorageError:
    kind = DiskFullError if error.errno in FULL else StorageError
    return kind(f"The checkpoint '{path}' cannot be written: {error}. Free some space, then continue the run.")


def read_checkpoint(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint; a damaged one raises :class:`DataError`."""
    try:
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"The checkpoint '{path}' does not exist.") from None
    except (RuntimeError, EOFError, UnpicklingError, zipfile.BadZipFile, OSError) as error:
        raise DataError(f"The checkpoint '{path}' is damaged: {error}") from error
    return content


class _HashingStream:
    """A file for ``torch.save`` whose content is hashed while it is written, so that nothing has to be read again."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None
        self._descriptor = fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write(self, data: bytes) -> int:
        """Write all of ``data``."""
        content = bytes(data)
        try:
            write_all(self._descriptor, content)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(content)
        self.size += len(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        fs.close(self._descriptor)


class Generations:
    """The checkpoints of one training in ``folder``."""

    def __init__(self, folder: Path | str, files: Files = LOCAL, *, keep: int = 2) -> None:
        self.folder = Path(folder)
        self._files = files
        self._keep = keep

    def write(self, checkpoint: Mapping[str, Any], position: Position) -> Generation:
        """Add a generation, then remove those that are not kept any more."""
        number = max((number for number, _ in self._listed()), default=0) + 1
        path = self.folder / f"checkpoint-{number:06}.ckpt"
        sha256, size = write_checkpoint(checkpoint, path, self._files)
        side = json.dumps({"format": FORMAT, "sha256": sha256, "size": size, **asdict(position)}, indent=2) + "\n"
        _write(path.with_suffix(".json"), self._files, lambda stream: stream.write(side.encode()))
        try:
            self._remove_old(number)
        except OSError as error:
            raise _unwritable(path, error) from error
        return Generation(number, path, position, sha256, size)

    def latest(self) -> Generation | None:
        """The newest generation whose content is what was written, at a local path; torn ones are passed over, and the log says so."""
        for number in self._complete():
            generation = self._read(number)
            if generation is not None:
                return generation
        return None

    def _listed(self) -> list[tuple[int, str]]:
        """Number and name of every file of a generation."""
        return [(int(match[1]), match[0]) for match in map(_NAME.fullmatch, self._files.names(self.folder)) if match]

    def _complete(self) -> list[int]:
        """The numbers of the generations with a side file, the newest first."""
        return sorted((number for number, name in self._listed() if name.endswith(".json")), reverse=True)

    def _read(self, number: int) -> Generation | None:
        path = self.folder / f"checkpoint-{number:06}.ckpt"
        try:
            side = json.loads(self._files.read(path.with_suffix(".json")))
            version, sha256, size = int(side.pop("format")), str(side.pop("sha256")), int(side.pop("size"))
            if version > FORMAT:
                raise DataError(
                    f"The checkpoint '{path}' was written by a newer version of mml-ray. Update, or remove '{self.folder}' to train again."
                )
            position = Position(**side)
            if self._files.size(path) != size or self._files.digest(path) != sha256:
                raise ValueError("its content is not what was written")
            local = self._files.get(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("The checkpoint %s is torn (%s); the one before it is used.", path, error)
            return None
        return Generation(number, local, position, sha256, size)

    def _remove_old(self, newest: int) -> None:
        kept = {*self._complete()[: self._keep], newest}
        for number, name in self._listed():
            if number not in kept:
                self._files.remove(self.folder / name)
