"""Reading runs without writing: the state of one, whether its artifacts are intact, and the runs of a project."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import JournalError, StorageError, UserError
from mml_ray.journal import log as journal
from mml_ray.store.files import LOCAL, Files
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run import model_updates
from mml_ray.store.run.publish import measure
from mml_ray.store.run.state import RunState


def read_run(run_dir: Path | str) -> RunState:
    """The state of a run as its journal has it now; a last line that is being written is left out. Never writes.

    Raises:
        JournalError: missing or damaged; names file and line.
    """
    path = RunPaths(run_dir).journal
    return RunState.replay(journal.read(path).operations, source=path)


def salvage(run_dir: Path | str) -> tuple[RunState, str]:
    """The state as far as the journal can be read, and what is wrong with the rest ('' if nothing). For display only."""
    path = RunPaths(run_dir).journal
    try:
        return read_run(run_dir), ""
    except (JournalError, StorageError) as error:
        state, damage = RunState(), str(error)
    with contextlib.suppress(OSError, JournalError, KeyError):
        for line in atomic.read_bytes(path).split(b"\n"):
            operation = journal.decode(line)
            if operation is None:
                break
            state.apply(operation)
    return state, damage


def roots_of(state: RunState, run_dir: Path | str) -> Roots:
    """The roots of a run from where its folder is now."""
    here = Path(os.path.abspath(run_dir))
    found = {name: os.path.normpath(here / path) for name, path in state.roots.items()}
    return Roots.of(found, here)


def holds(run_dir: Path | str, file: Path) -> bool:
    """Whether a run committed this file, or one of its attempts may be writing it. A journal that cannot be read counts as yes."""
    try:
        lines = atomic.read_bytes(RunPaths(run_dir).journal)
    except FileNotFoundError:
        return False
    if file.name.encode() not in lines and json.dumps(file.name)[1:-1].encode() not in lines:
        return False
    try:
        state = read_run(run_dir)
    except UserError:
        return True
    return state.is_held(roots_of(state, run_dir).stored(file))


def verify(run_dir: Path | str, roots: Mapping[str, str] | None = None, *, files: Files = LOCAL) -> list[str]:
    """Measure every artifact again; returns one line for each problem.

    ``roots`` is needed only where the run folder was moved out of its results root. Costs reading every artifact once.
    """
    state = read_run(run_dir)
    known = Roots.of(roots, run_dir) if roots else roots_of(state, run_dir)
    problems = [problem for path, item in state.artifacts.items() if (problem := _check(known.absolute(path), item, files))]
    return problems + _check_updates(state, known, files)


def _check(path: Path, item: Mapping[str, Any], files: Files) -> str:
    try:
        found = measure(path, files)
    except OSError as error:
        return f"{path}: {error.strerror} (committed by {item['command']})"
    if found["sha256"] == item["sha256"]:
        return ""
    committed = model_updates.committed_bytes(path, files) if item["key"] == "models" else None
    if committed is not None and sha256(committed).hexdigest() == item["sha256"]:
        return ""
    return f"{path}: changed since {item['command']} committed it ({found['size']} bytes now, {item['size']} then)"


def _check_updates(state: RunState, roots: Roots, files: Files) -> list[str]:
    problems = []
    for path, entries in pending_updates(state).items():
        try:
            content = model_updates.load(roots.absolute(path), files)
        except (OSError, UserError) as error:
            problems.append(f"{path}: {error}")
            continue
        known = {(item["run"], item["command"]) for item in content.get(model_updates.UPDATES, [])}
        missing = [item["command"] for item in entries if (item["run"], item["command"]) not in known]
        problems += [f"{path}: the changes of {command} are missing (continuing the run restores them)" for command in missing]
    return problems


def pending_updates(state: RunState) -> dict[str, list[dict[str, Any]]]:
    """By stored path of a model storage: everything this run committed to change in it. Storages that the run removed are left
    out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for command in state.commits:
        for path, change in committed_updates(state, command):
            if path not in state.released:
                found.setdefault(path, []).append(change)
    return found


def committed_updates(state: RunState, command: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The stored paths of the model storages that a committed command changed, each with its change."""
    for path, delta in state.commits[command]["models_update"].items():
        yield path, model_updates.entry(state.run, command, state.position(command), delta)


@dataclass(frozen=True)
class RunInfo:
    """One run of a project; ``broken`` says what is wrong with its journal ('' if nothing)."""

    path: Path
    opened: float = 0.0
    mode: str = ""
    finished: bool = False
    broken: str = ""


def find_runs(project_dir: Path | str) -> list[RunInfo]:
    """All runs of a project, the newest first, by the time their journals give; those that never began come last. Never raises for
    a broken one.
    """
    return sorted(map(_run_info, run_folders(project_dir)), key=lambda info: info.opened, reverse=True)


def run_folders(project_dir: Path | str) -> list[Path]:
    """The run folders of a project: ``runs/<day>/<time>`` and the trials of its studies, also those without a journal."""
    project = Path(project_dir)
    return sorted(
        folder
        for pattern in ("runs/*/*", "hpo/*/trials/*")
        for folder in project.glob(pattern)
        if folder.is_dir() and not folder.name.startswith(".")
    )


def _run_info(run_dir: Path) -> RunInfo:
    state, damage = salvage(run_dir)
    if not damage:
        return RunInfo(run_dir, state.opened, mode=str(state.manifest.get("mode", "")), finished=state.finished)
    try:  # the configuration is written just after the first line; there is none of a run that never began
        opened = state.opened or RunPaths(run_dir).config.stat().st_mtime
    except OSError:
        opened = 0.0
    return RunInfo(run_dir, opened, broken=damage)
