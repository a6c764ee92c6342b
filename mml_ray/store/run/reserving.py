"""Reserving the path of an artifact: which path it is, and the operations that journal it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import StorageError
from mml_ray.journal.log import Operation
from mml_ray.journal.numbering import FileSeries, number_offset
from mml_ray.journal.opening import now
from mml_ray.store.assignments import PROJ, TEMP, fill_template
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run.markers import occupy, read_marker
from mml_ray.store.run.state import Attempt, RunState

_TRIES = 100


def reserve(
    state: RunState, roots: Roots, attempt: Attempt, *, assignment: Mapping[str, Any], task: str | None, file: str | None
) -> tuple[str, list[Operation]]:
    """The stored path for one artifact of ``attempt``; with numbering its file exists on return, holding a marker.

    Returns:
        The path, and the operations to journal before the path is handed out.
    """
    folders = {PROJ: roots.project, TEMP: RunPaths(roots.run).temp}
    files = fill_template(str(assignment["template"]), roots=folders, task=task, file=file)
    atomic.make_folder(files.folder)
    key = str(assignment["key"])
    if not assignment["numbering"]:
        path = roots.stored(files.unnumbered)
        return path, [_reserved(attempt, key, path, existed=files.unnumbered.exists())]
    series = f"{roots.stored(files.folder)}/{files.stem}#{files.suffix}"
    found, operations = _numbered(state, roots, attempt, files, series)
    path = roots.stored(found)
    return path, [*operations, _reserved(attempt, key, path, series=series)]


def _numbered(state: RunState, roots: Roots, attempt: Attempt, files: FileSeries, series: str) -> tuple[Path, list[Operation]]:
    """The first free file of a series for this attempt; where another run holds that file, the base moves above it."""

    def ours(path: Path) -> bool:
        found = read_marker(path)
        return found is not None and found.get("run") == state.run and not state.is_held(roots.stored(path))

    repeated = attempt.command in state.commits
    generation, base = state.bases.get(series, (0, 0))
    known = generation == state.generation and not repeated
    if not known:
        base = files.highest(ours)
    repetition = sum(item.series == series for item in attempt.reserved)
    step = number_offset(attempt.position, repetition, len(state.commands))
    operations: list[Operation] = [] if known or repeated else [_base(series, base)]
    for _ in range(_TRIES):
        path = files.numbered(base + step)
        held = state.is_held(roots.stored(path))
        if not held and occupy(path, state.run, attempt.command, attempt.number) != "foreign":
            return path, operations
        base = files.highest()
        operations = [] if repeated else [_base(series, base)]
    raise StorageError(
        f"No free number for {files.unnumbered} was found in {_TRIES} tries: other runs take every number first. Continue the run."
    )


def _reserved(attempt: Attempt, key: str, path: str, *, series: str = "", existed: bool = False) -> Operation:
    names = {"command": attempt.command, "attempt": attempt.number, "key": key}
    return "path_reserved", {**names, "path": path, "series": series, "existed": existed}


def _base(series: str, base: int) -> Operation:
    return "numbering", {"series": series, "base": base, "at": now()}
