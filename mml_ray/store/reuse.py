"""Artifacts of earlier runs, named by project: ``reuse.<key>`` is ``project``, ``project#number``, or a list of them.

Only what was committed is offered: files that a run of the project reserved and did not commit are left out. Files that no
journal mentions (a project of mml, or one whose run folders were removed) are taken as they are. The newest is the one with the
highest number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mml_ray.errors import MMLMisconfigurationException, unknown_name_message
from mml_ray.journal.numbering import FileSeries
from mml_ray.store.assignments import FILE, TASK, TOP_LEVEL, AssignmentError, PathAssignment
from mml_ray.store.files import Files
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.inspection import roots_of, run_folders, salvage
from mml_ray.store.run.markers import read_marker

log = logging.getLogger(__name__)
MODELS = "models"
Found = dict[str, dict[str, Path | list[Path]]]


@dataclass
class Project:
    """One project folder, and which of its files may be reused."""

    name: str
    path: Path
    files: Files
    _uncommitted: set[Path] | None = field(default=None, repr=False)

    @property
    def uncommitted(self) -> set[Path]:
        """What runs of the project reserved and neither committed nor released."""
        if self._uncommitted is None:
            self._uncommitted = {path for folder in run_folders(self.path) for path in _uncommitted(folder)}
        return self._uncommitted

    def offers(self, path: Path) -> bool:
        """Whether a file may be reused."""
        if path.name.startswith(".") or not self.files.exists(path) or path in self.uncommitted:
            return False
        return read_marker(path, self.files) is None


def resolve(
    reuse: Mapping[str, Any], *, results: Path, assignments: Mapping[str, PathAssignment], own: Path, files: Files
) -> Found:
    """``{task: {key: path, "models": [paths]}}`` for the group ``reuse``; task-independent artifacts under ``_TOP_LEVEL_``.

    ``own``: this run's project, which need not exist yet. Costs reading the journals of the projects named.

    Raises:
        MMLMisconfigurationException: a project that does not exist, a key that cannot be reused, ``models`` with a number.
        AssignmentError: a number on a key without numbers, or one that does not exist (a ValueError).
    """
    found: Found = {}
    projects: dict[str, Project] = {}
    for key, value in reuse.items():
        if value is None:
            continue
        assignment = assignments.get(key)
        if assignment is None:
            log.warning(unknown_name_message("key in reuse", key, assignments, "It is ignored."))
            continue
        if assignment.reusable is False:
            able = ", ".join(sorted(name for name, item in assignments.items() if item.reusable is not False))
            raise MMLMisconfigurationException(f"reuse.{key}: artifacts of '{key}' cannot be reused. Those that can are {able}.")
        for name, number in _references(key, value):
            path = results / name
            if path != own or path.is_dir():
                _check_project(path, key)
                project = projects.setdefault(name, Project(name, path, files))
                _collect(found, assignment, project, number)
    return found


def _references(key: str, value: Any) -> list[tuple[str, int | None]]:
    if isinstance(value, str):
        listed = [value]
    elif isinstance(value, Sequence) and value and all(isinstance(item, str) for item in value):
        listed = list(value)
        rule = "models add up" if key == MODELS else "for each task the last project that has one counts"
        log.warning("reuse.%s is a list: %s.", key, rule)
    else:
        raise MMLMisconfigurationException(f"reuse.{key} must be a project, project#number or a list of them, got {value!r}.")
    return [_reference(key, item) for item in listed]


def _reference(key: str, text: str) -> tuple[str, int | None]:
    name, sign, number = text.partition("#")
    if not name or (sign and not number.isdigit()):
        raise AssignmentError(f"reuse.{key} must be a project or project#number, got '{text}'.")
    return name, int(number) if sign else None


def _check_project(path: Path, key: str) -> None:
    if not path.is_dir():
        known = sorted(entry.name for entry in path.parent.iterdir() if entry.is_dir()) if path.parent.is_dir() else []
        hint = f"It is named by reuse.{key} and was looked for in {path.parent}."
        raise MMLMisconfigurationException(unknown_name_message("project", path.name, known, hint))


def _collect(found: Found, assignment: PathAssignment, project: Project, number: int | None) -> None:
    if number is not None and assignment.key == MODELS:
        raise MMLMisconfigurationException(
            f"reuse.models must be a project without a number, got '{project.name}#{number}': all its models are loaded."
        )
    if number is not None and not assignment.numbering:
        raise AssignmentError(f"reuse.{assignment.key} must be a project without a number, got '{project.name}#{number}'.")
    numbers: set[int] = set()
    hits = 0
    for task, files in stored(assignment, project):
        numbers.update(item for item, _ in files)
        if files and assignment.key == MODELS:
            models = found.setdefault(task, {}).setdefault(MODELS, [])
            assert isinstance(models, list)
            models += [path for _, path in files if path.suffix == ".json" and path not in models]
        wanted = [path for item, path in files if number is None or item == number]
        if wanted and assignment.key != MODELS:
            found.setdefault(task, {})[assignment.key] = wanted[-1]
        hits += len(wanted)
    if number is not None and not hits:
        have = ", ".join(map(str, sorted(numbers))) or "none"
        raise AssignmentError(f"reuse.{assignment.key}={project.name}#{number} does not exist. Existing numbers: {have}.")
    if not hits:
        log.warning("reuse.%s: project '%s' has no such artifacts.", assignment.key, project.name)


def stored(assignment: PathAssignment, project: Project) -> Iterator[tuple[str, list[tuple[int, Path]]]]:
    """For each task the files of this key that may be reused, by number (-1 where they have none) and name."""
    for task, folder in _folders(assignment, project):
        named = ((_number(assignment, path), path) for path in map(folder.joinpath, project.files.names(folder)))
        yield task, sorted((number, path) for number, path in named if number is not None and project.offers(path))


def _folders(assignment: PathAssignment, project: Project) -> Iterable[tuple[str, Path]]:
    """Tasks and the folders their artifacts of this key lie in."""
    if TASK not in assignment.parts:
        return [(TOP_LEVEL, project.path.joinpath(*assignment.parts[1:-1]))]
    parent = project.path.joinpath(*assignment.parts[1 : assignment.parts.index(TASK)])
    return [(name, parent / name) for name in project.files.names(parent)]


def _number(assignment: PathAssignment, path: Path) -> int | None:
    """The number of a file; -1 if it has none, ``None`` if the file is not of this key."""
    last = Path(assignment.parts[-1])
    if last.name == FILE:
        found = re.search(r"_(\d+)$", path.stem)
        return int(found[1]) if found and assignment.numbering else -1
    if not assignment.numbering:
        return -1 if path.name == last.name else None
    return FileSeries(path.parent, last.stem, last.suffix).number_of(path.name)


def _uncommitted(run_dir: Path) -> Iterator[Path]:
    if not RunPaths(run_dir).journal.exists():
        return
    state, damage = salvage(run_dir)
    if damage:
        log.warning("%s Artifacts of this run are judged by what can still be read of it.", damage)
    if state.run:
        roots = roots_of(state, run_dir)
        yield from (roots.absolute(path) for path in state.uncommitted())
