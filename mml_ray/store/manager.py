"""MMLFileManager: what user code sees of the store, as ``self.fm``; plugins may also call ``MMLFileManager.instance()``.

There is one per process, and it is cheap. It reads the data root itself; every path it hands out is reserved with the run store behind
it, for the attempt it is bound to.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, unknown_name_message
from mml_ray.store import assignments, reuse
from mml_ray.store.artifacts import ModelStorage
from mml_ray.store.assignments import TEMP, TOP_LEVEL, PathAssignment, fill_template
from mml_ray.store.files import LOCAL, Files
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run.protocol import CommandResult, RunStoreProtocol
from mml_ray.store.run.publish import publish_artifacts
from mml_ray.tasks.description import TaskDescription

log = logging.getLogger(__name__)
Stored = dict[str, dict[str, Any]]


class MMLFileManager:
    """The file manager of this process. A new one takes the place of the old one, with nothing left of it.

    Args:
        data_path, proj_path: the data root, and the project's folder below ``results_path`` (default: its parent).
        log_path: the run folder, where there is one already.
        reuse_cfg: the group ``reuse``; resolved at once. remove_cfg: the group ``remove``.
        backend: the run store; may be attached later. files: where artifacts, checkpoints and logs lie.
        reused, extra: what :meth:`arguments` of the manager in the driver gave.

    Raises:
        MMLMisconfigurationException: a folder is a file, ``#`` in the project's name, or a setting of ``reuse`` is not possible.
    """

    _instance: ClassVar[MMLFileManager | None] = None

    def __init__(
        self,
        *,
        data_path: Path | str,
        proj_path: Path | str,
        log_path: Path | str | None = None,
        results_path: Path | str | None = None,
        reuse_cfg: Mapping[str, Any] | None = None,
        remove_cfg: Mapping[str, bool] | None = None,
        backend: RunStoreProtocol | None = None,
        reused: Stored | None = None,
        extra: list[dict[str, Any]] | None = None,
        files: Files = LOCAL,
    ) -> None:
        assignments.add_missing(extra or [])
        self.data_path, self.proj_path = Path(data_path).absolute(), Path(proj_path).absolute()
        self.results_path = Path(results_path).absolute() if results_path is not None else self.proj_path.parent
        _check_folders(self.data_path, self.proj_path, self.results_path)
        self.log_path = Path(log_path).absolute() if log_path is not None else None
        self.roots = self._roots()
        self.files = files
        self.attempt: dict[str, Any] | None = None
        self.reserved: list[Path] = []
        self.model_updates: dict[str, dict[str, Any]] = {}
        self.on_report: Callable[[], Any] | None = None
        self.backend = backend
        wanted = dict(reuse_cfg or {})
        # reuse.clean_up.<key>=true means the same as remove.<key>=true
        self.remove_keys = _checked_removal({**(remove_cfg or {}), **(wanted.pop("clean_up", None) or {})})
        self._reused = self._resolve(wanted) if reused is None else reused
        self._data: Any = None
        self._scratch: Path | None = None
        MMLFileManager._instance = self

    # -- the instance of this process -------------------------------------------------------------------------------------------
    @classmethod
    def instance(cls) -> MMLFileManager:
        """The manager of this process.

        Raises:
            MMLMisconfigurationException: none was created yet.
        """
        if cls._instance is None:
            raise MMLMisconfigurationException(
                "This process has no file manager yet. Create a scheduler, or an MMLFileManager(...), first."
            )
        return cls._instance

    @classmethod
    def exists(cls) -> bool:
        """Whether this process has one."""
        return cls._instance is not None

    @classmethod
    def clear_instance(cls) -> None:
        """Forget the manager of this process."""
        cls._instance = None

    @classmethod
    def add_assignment_path(
        cls,
        obj_cls: type | str | None,
        key: str,
        path: Path | str,
        enable_numbering: bool = True,
        reusable: bool | str = False,
    ) -> None:
        """Set where artifacts of a new key go; may be called before a manager exists.

        ``obj_cls``: the class of the objects, its full name, or None for any; ``path``: a template
        (``mml_ray/store/assignments.py``).

        Raises:
            KeyError: the key already exists. ValueError: anything else is not allowed. Both are MMLMisconfigurationException.
        """
        types = assignments.types_of(obj_cls)
        template = path.as_posix() if isinstance(path, Path) else str(path)
        assignments.add(PathAssignment(key, template, types, numbering=enable_numbering, reusable=reusable))

    # -- the run behind it -------------------------------------------------------------------------------------------------
    def attach(self, backend: RunStoreProtocol, run_dir: Path | str | None = None) -> None:
        """Use this run store from now on. A run that is continued keeps what it reused before."""
        self.backend = backend
        if run_dir is not None:
            self.log_path = Path(run_dir).absolute()
            self.roots = self._roots()
            self._keep_reused(RunPaths(self.log_path).reused)

    def detach(self) -> None:
        """Forget the run store."""
        self.backend = None
        self.unbind()

    def bind(self, attempt: Mapping[str, Any], backend: RunStoreProtocol | None = None) -> None:
        """Reserve paths for this attempt (``{"command", "attempt", "position"}``) from now on."""
        self.attempt, self.reserved, self.model_updates = dict(attempt), [], {}
        self.backend = backend or self.backend

    def unbind(self) -> None:
        """End the attempt: no more paths are reserved for it."""
        self.attempt, self.reserved, self.model_updates = None, [], {}

    def arguments(self) -> dict[str, Any]:
        """Plain arguments from which a worker makes its manager (with its own ``backend`` and ``files``): the same folders, assignments, and reused
        artifacts.
        """
        return {
            "data_path": str(self.data_path),
            "proj_path": str(self.proj_path),
            "results_path": str(self.results_path),
            "log_path": None if self.log_path is None else str(self.log_path),
            "remove_cfg": dict(self.remove_keys),
            "reused": copy.deepcopy(self._reused),
            "extra": assignments.added(),
        }

    @property
    def run_paths(self) -> RunPaths:
        """The files of the run.

        Raises:
            MMLMisconfigurationException: no run is open.
        """
        if self.log_path is None:
            raise MMLMisconfigurationException("The file manager has no run folder, since no run is open.")
        return RunPaths(self.log_path)

    # -- paths -------------------------------------------------------------------------------------------------------------
    def construct_saving_path(self, obj: Any, key: str, task_name: str | None = None, file_name: str | None = None) -> Path:
        """The final path for ``obj``, reserved for the running command; its folder exists. Always ask here before writing an
        artifact.

        Outside a run only keys of ``TEMP_PATH`` work; their files lie in a scratch folder that goes with the manager.

        Raises:
            UnknownNameError: the key is unknown (a KeyError).
            AssignmentTypeError: ``obj`` is of another type (an AssertionError).
            AssignmentError: a name is missing or not allowed (a ValueError).
            FencedError: the command was given to another attempt.
        """
        assignment = assignments.lookup(key)
        assignment.check(obj, task=task_name, file=file_name)
        if self.backend is not None and self.attempt is not None:
            attempt = {**self.attempt, "reserved": len(self.reserved)}
            stored = self.backend.reserve(attempt, assignment=assignment.request(), task=task_name, file=file_name)
            path = self.absolute(stored)
            self.reserved.append(path)
        elif assignment.parts[0] == TEMP and self.backend is None:
            path = self._scratch_path(assignment, task_name, file_name)
        else:
            raise MMLMisconfigurationException(
                f"A path for key '{key}' is only available inside a command of a run, since it is committed with the command. "
                "Elsewhere write to a path of your own, or use the key 'temp'."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self) -> list[dict[str, Any]]:
        """Publish what the bound attempt wrote; see :func:`~mml_ray.store.run.publish.publish_artifacts`. Paths are stored ones."""
        return [{**item, "path": self.stored(item["path"])} for item in publish_artifacts(self.reserved, self.files)]

    def note_model_update(self, path: Path, delta: Mapping[str, Any]) -> None:
        """Remember a change of a model storage, to be committed with the running command."""
        self.model_updates[self.stored(path)] = dict(delta)

    def stored(self, path: Path | str) -> str:
        """The form in which a path is journaled: relative to its root, so that folders may be moved."""
        return self.roots.stored(path)

    def absolute(self, stored: str) -> Path:
        """The inverse of :meth:`stored`."""
        return self.roots.absolute(stored)

    def committed(self, key: str) -> list[Path]:
        """The artifacts of one key that the runs of this project have committed, by task and number. Costs reading their journals."""
        project = reuse.Project(self.proj_path.name, self.proj_path, self.files)
        return [path for _, listed in reuse.stored(assignments.lookup(key), project) for _, path in listed]

    def load_model(self, path: Path | str) -> ModelStorage:
        """Read a model storage, with everything that was committed to change in it. Errors as :meth:`ModelStorage.load`."""
        return ModelStorage.load(path, self.results_path, self.files)

    # -- what is known -----------------------------------------------------------------------------------------------------
    @property
    def data(self) -> Any:
        """The data root (``store/data_root.py``): task index, descriptions, dataset folders."""
        if self._data is None:
            from mml_ray.store.data_root import DataRoot

            self._data = DataRoot(self.data_path)
        return self._data

    @property
    def task_index(self) -> dict[str, dict[str, str]]:
        """Task name -> preprocessing id (or ``none``) -> path of its description relative to the data root."""
        index: dict[str, dict[str, str]] = self.data.index()
        return index

    def get_task_info(self, name: str, preprocessing: str = "none") -> Any:
        """The header of a task in this preprocessing, else of its raw data.

        Raises:
            TaskNotFoundError: neither exists.
        """
        return self.data.header(name, preprocessing)

    def load_task_description(self, path: Path | str) -> TaskDescription:
        """The whole description in a file; relative paths are taken from the data root."""
        return TaskDescription.load(self.data_path / path)

    @property
    def reusables(self) -> Mapping[str, dict[str, Any]]:
        """By task: ``{key: path, "models": [ModelStorage]}`` of what ``reuse`` names; models are read from their files each time."""
        return _Reusables(self._reused, self)

    @property
    def global_reusables(self) -> dict[str, Any]:
        """Task-independent artifacts of what ``reuse`` names, by key."""
        return self.reusables.get(TOP_LEVEL, {})

    def task_state(self, name: str) -> dict[str, Any]:
        """``{"paths": {key: stored path}, "models": [stored path]}`` that the run has committed for a task."""
        if self.backend is None:
            return {"paths": {}, "models": []}
        return self.backend.task_state(name)

    def results(self, name: str) -> list[CommandResult]:
        """``[{"key", "params", "result"}]`` of the committed commands of this name, in the order of the plan."""
        return [] if self.backend is None else self.backend.results(name)

    # -- progress ----------------------------------------------------------------------------------------------------------
    def report(self, progress: Mapping[str, Any], command: str | None = None, attempt: int | None = None) -> bool:
        """Report the progress of a command (default: the bound one); returns whether it has to stop."""
        reference = self.attempt if command is None else {"command": command, "attempt": attempt}
        if self.backend is None or reference is None:
            return False
        answer = self.backend.report(reference, dict(progress))
        if self.on_report is not None:
            self.on_report()
        return bool(answer["stop"])

    def should_stop(self) -> bool:
        """Whether the running command has to stop at its next boundary."""
        return self.report({})

    # -- details -----------------------------------------------------------------------------------------------------------
    def _roots(self) -> Roots:
        given = {"results": self.results_path, "data": self.data_path, "project": self.proj_path}
        return Roots.of(given, self.log_path or self.proj_path)

    def _scratch_path(self, assignment: PathAssignment, task: str | None, file: str | None) -> Path:
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="mml-ray-scratch-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        place = fill_template(assignment.template, roots={TEMP: self._scratch}, task=task, file=file)
        if not assignment.numbering:
            return place.unnumbered
        path = place.numbered(place.highest() + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        return path

    def _resolve(self, reuse_cfg: Mapping[str, Any]) -> Stored:
        known = assignments.assignments()
        found = reuse.resolve(reuse_cfg, results=self.results_path, assignments=known, own=self.proj_path, files=self.files)
        return {
            task: {key: list(map(self.stored, it)) if isinstance(it, list) else self.stored(it) for key, it in entry.items()}
            for task, entry in found.items()
        }

    def _keep_reused(self, path: Path) -> None:
        """Store what the first driver of a run reuses; later ones read it, whatever was added to the projects meanwhile."""
        try:
            self._reused = json.loads(atomic.read_bytes(path))
        except FileNotFoundError:
            atomic.write_json(path, self._reused)
        except ValueError as error:
            raise DataError(
                f"{path} is damaged ({error}). It is always written whole, so another program changed it. Remove it to resolve reuse again."
            ) from error


class _Reusables(Mapping[str, dict[str, Any]]):
    """Gives absolute paths and freshly read storages, so that what one command does to them is not seen by the next."""

    def __init__(self, stored: Stored, manager: MMLFileManager) -> None:
        self._stored, self._manager = stored, manager

    def __getitem__(self, task: str) -> dict[str, Any]:
        given, manager = self._stored[task], self._manager
        found: dict[str, Any] = {key: manager.absolute(value) for key, value in given.items() if key != reuse.MODELS}
        if reuse.MODELS in given:
            found[reuse.MODELS] = [manager.load_model(manager.absolute(path)) for path in given[reuse.MODELS]]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _check_folders(data: Path, project: Path, results: Path) -> None:
    for name, folder in (("data root", data), ("results root", results), ("project folder", project)):
        if folder.exists() and not folder.is_dir():
            raise MMLMisconfigurationException(f"The {name} must be a folder, but '{folder}' is a file.")
    if "#" in project.name:
        raise MMLMisconfigurationException(
            f"The name of a project must not contain '#', which marks a number in the reuse group; got '{project.name}'."
        )


def _checked_removal(remove: Mapping[str, Any]) -> dict[str, bool]:
    known = assignments.assignments()
    for key in remove:
        if key not in known:
            log.warning(unknown_name_message("key in remove", str(key), known, "It is ignored."))
    return {str(key): bool(value) for key, value in remove.items() if key in known}
