"""Removing files of a run, so that a file of the same name that another run wrote meanwhile is never touched.

Before a file is removed the journal says so, with the file's inode, time of change and size: after a kill in between only that
very file is removed at the next open, not a later one of the same name.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.failpoints import failpoint
from mml_ray.journal.log import Operation
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run import model_updates
from mml_ray.store.run.inspection import holds, pending_updates, run_folders
from mml_ray.store.run.markers import read_marker
from mml_ray.store.run.state import Identity, RunState

_MISSING: Identity = (0, 0, 0)
_MODELS = "models"
#: the name that :func:`mml_ray.atomic.replacing` gives a file until it is whole
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp(\.[^.]+)?")
UNCOMMITTED = "uncommitted"


class Cleaner:
    """Removes files of one run; ``append`` journals durably."""

    def __init__(self, paths: RunPaths, roots: Roots, state: RunState, append: Callable[[Sequence[Operation]], None]) -> None:
        self._paths, self._roots, self._state, self._append = paths, roots, state, append
        #: what was released, by former owners too, and is not known to be removed
        self._released: dict[str, Identity] = dict(state.released)

    def release(self, stored: Iterable[str], why: str) -> None:
        """Release these stored paths and remove their files, and those that an earlier call could not remove.

        ``why=uncommitted``: a file whose name another run of the project has taken meanwhile stays.
        """
        self._remove_released()
        identities = {path: _identity(self._roots.absolute(path)) for path in dict.fromkeys(stored)}
        if why == UNCOMMITTED:
            for path, found in identities.items():
                if found != _MISSING and self._is_of_another_run(self._roots.absolute(path)):
                    identities[path] = _MISSING
        if identities:
            self._append([("paths_released", {"paths": {path: list(item) for path, item in identities.items()}, "why": why})])
            self._released.update(identities)
            self._remove_released()
        if why == UNCOMMITTED:
            files = [self._roots.absolute(path) for path in identities]
            _sweep_beside(file for file in files if not self._is_of_another_run(file))

    def _is_of_another_run(self, file: Path) -> bool:
        marker = read_marker(file)
        if marker is not None:
            return bool(marker.get("run") != self._state.run)
        others = (folder for folder in run_folders(self._roots.project) if not folder.samefile(self._paths.run_dir))
        return any(holds(folder, file) for folder in others)

    def _remove_released(self) -> None:
        folders: dict[Path, None] = {}
        for path, identity in list(self._released.items()):
            file = self._roots.absolute(path)
            if _unlink(file, identity):
                folders[file.parent] = None
            del self._released[path]
        for folder in folders:
            atomic.sync(folder)

    def sweep(self, token: int) -> None:
        """Remove the temporary files of owners before ``token`` that were killed.

        Only those not younger than the claim of this token: a process that competes for the run may be writing others now.
        """
        claimed = os.stat(self._paths.claims / str(token)).st_mtime_ns
        run = self._state.run[:12]
        places = {self._roots.absolute(series.rpartition("/")[0]): rf"\..*\.{run}\.tmp" for series in self._state.bases}
        for path in pending_updates(self._state):
            file = self._roots.absolute(path)
            own = rf"\.{re.escape(file.stem)}\.[0-9a-f]{{12}}\.tmp{re.escape(file.suffix)}"
            places[file.parent] = f"{places[file.parent]}|{own}" if file.parent in places else own
        places[self._paths.run_dir] = r"\..*\.tmp(\..*)?"
        places[self._paths.claims] = r"\..*\.tmp"
        for folder, pattern in places.items():
            with contextlib.suppress(FileNotFoundError):
                _unlink_matching(folder, re.compile(pattern).fullmatch, claimed)
        self._sweep_beside_artifacts(claimed)

    def _sweep_beside_artifacts(self, until: int | None = None) -> None:
        """Remove the temporary files of killed attempts beside the artifacts that others have committed since. Another run may be
        changing a model storage, so their folders are locked meanwhile.
        """
        for wanted, lock in ((False, contextlib.nullcontext), (True, model_updates.exclusive_lock)):
            found = [path for path, item in self._state.artifacts.items() if (item["key"] == _MODELS) is wanted]
            _sweep_beside(map(self._roots.absolute, found), until, lock=lock)

    def remove(self, remove: Mapping[str, bool]) -> dict[str, Any]:
        """Remove the artifacts of the enabled keys, TEMP and CHECKPOINTS at the end of a run; returns what was removed."""
        wanted = {key for key, enabled in remove.items() if enabled}
        artifacts = {path: item["key"] for path, item in self._state.artifacts.items() if item["key"] in wanted}
        temp = self._roots.stored(self._paths.temp) + "/"
        temporary = [path for path in self._state.artifacts if path.startswith(temp)]
        failpoint("finish.before_remove")
        self._sweep_beside_artifacts()
        self.release([*artifacts, *temporary], "finished")
        failpoint("finish.after_remove")
        atomic.remove_tree(self._paths.temp)
        atomic.remove_tree(self._paths.checkpoints)
        failpoint("finish.after_folders")
        return {"removed": dict(Counter(artifacts.values())), "unused": sorted(wanted - set(artifacts.values()))}


def _sweep_beside(
    files: Iterable[Path],
    until: int | None = None,
    *,
    lock: Callable[[Path], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> None:
    """Remove the temporary files that unfinished writes of these files left; ``until``: only those not younger (``st_mtime_ns``)."""
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(file.name)
    for folder, known in names.items():

        def is_temporary(name: str, known: set[str] = known) -> bool:
            found = _TEMPORARY.fullmatch(name)
            return found is not None and f"{found[1]}{found[2] or ''}" in known

        with contextlib.suppress(FileNotFoundError, NotADirectoryError), lock(folder):
            _unlink_matching(folder, is_temporary, until)


def _unlink_matching(folder: Path, matches: Callable[[str], object], until: int | None) -> None:
    for name in atomic.fs.listdir(folder):
        if matches(name) and (until is None or os.stat(folder / name).st_mtime_ns <= until):
            atomic.fs.unlink(folder / name)


def _unlink(path: Path, identity: Identity) -> bool:
    if identity == _MISSING or _identity(path) != identity:
        return False
    failpoint("clean.before_unlink")
    if path.is_dir() and not path.is_symlink():
        atomic.remove_tree(path)
    else:
        atomic.fs.unlink(path)
    failpoint("clean.after_unlink")
    return True


def _identity(path: Path) -> Identity:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    return status.st_ino, status.st_mtime_ns, status.st_size
