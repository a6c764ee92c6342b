"""Overviews of runs as plain data, from their journals alone. Nothing is started or changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from mml_ray.driver.command import FRAME, CommandSpec
from mml_ray.driver.environment import started_at
from mml_ray.errors import JournalError
from mml_ray.journal.lease import current_holder
from mml_ray.journal.owner import HEARTBEAT_INTERVAL, living
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.inspection import roots_of, run_folders, salvage
from mml_ray.store.run.state import Attempt, RunState

#: seconds without a heartbeat after which an owner on another machine counts as dead, here where nothing depends on it
_SIGN_OF_LIFE = 2 * HEARTBEAT_INTERVAL + 1


class RunOverview(TypedDict):
    """One run; ``state``: running, finished, failed, interrupted or broken, of which ``broken`` says why. The frame is not counted."""

    project: str
    run: str
    path: str
    mode: str
    state: str
    committed: int
    total: int
    owner: dict[str, Any] | None
    broken: str
    opened: float


class CommandOverview(TypedDict):
    """One command; ``state``: committed, running, queued, waiting, failed or interrupted. ``seconds`` of a running one are those so far."""

    key: str
    position: int
    name: str
    params: list[Any]
    title: str
    unit: str
    resources: str
    state: str
    attempts: list[dict[str, Any]]
    seconds: float | None
    node: str
    artifacts: list[dict[str, Any]]
    result: Any


class RunDetails(RunOverview):
    """One run and its commands."""

    version: str | None
    seed: int | None
    commands: list[CommandOverview]


def list_runs(results: Path, project: str | None) -> list[RunOverview]:
    """The runs of one project or of all, the newest first. Times are seconds since 1970.

    It reads every journal, and takes up to 7 s longer if a run is held on another machine, to see whether its owner is alive.
    """
    projects = [results / project] if project else sorted(folder for folder in results.iterdir() if folder.is_dir())
    found = [(folder, *salvage(folder)) for path in projects for folder in run_folders(path)]
    owners = living_owners([folder for folder, _, _ in found])
    listed = [summary(folder, state, damage, owners.get(folder), results) for folder, state, damage in found]
    return sorted(listed, key=lambda run: (run["opened"], run["run"]), reverse=True)


def summary(folder: Path, state: RunState, damage: str, owner: Mapping[str, Any] | None, results: Path | None) -> RunOverview:
    """One entry of :func:`list_runs`."""
    project, run = names(folder, results)
    keys = [key for key, entry in state.commands.items() if entry["name"] not in FRAME]
    return {
        "project": project,
        "run": run,
        "path": str(folder),
        "mode": str(state.manifest.get("mode", "")),
        "state": _state(state, damage, owner),
        "committed": sum(key in state.commits for key in keys),
        "total": len(keys),
        "owner": dict(owner) if owner else None,
        "broken": damage,
        "opened": state.opened,
    }


def names(folder: Path, results: Path | None) -> tuple[str, str]:
    """Project and run as they are written on the command line: ``default`` and ``2025-01-31/12-00-00-123456``."""
    parts = folder.relative_to(results).parts if results and folder.is_relative_to(results) else folder.parts[-4:]
    inner = [part for place, part in enumerate(parts[1:]) if (place, part) != (0, "runs")]
    return parts[0], "/".join(inner)


def _state(state: RunState, damage: str, owner: Mapping[str, Any] | None) -> str:
    if damage:
        return "broken"
    if owner:
        return "running"
    if state.status != "open":
        return state.status
    latest = [listed[-1] for key, listed in state.attempts.items() if key not in state.commits]
    return "failed" if any(attempt.reason == "failed" for attempt in latest) else "interrupted"


def living_owners(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """By run folder: the owner that holds it and is alive. One on another machine must show a heartbeat within 7 s."""
    held = {folder: owner for folder in folders if (owner := _holder(folder)) is not None}
    alive = living({RunPaths(folder).heartbeat: owner for folder, owner in held.items()}, timeout=_SIGN_OF_LIFE)
    return {folder: owner for folder, owner in held.items() if RunPaths(folder).heartbeat in alive}


def _holder(folder: Path) -> dict[str, Any] | None:
    try:
        return current_holder(RunPaths(folder))[1]
    except (OSError, JournalError):
        return None


def show_run(folder: Path) -> RunDetails:
    """Everything that the journal says about a run, as far as it can be read. A command that was handed to Ray counts as running once its
    log says so.
    """
    state, damage = salvage(folder)
    entry = summary(folder, state, damage, living_owners([folder]).get(folder), None)
    roots = roots_of(state, folder) if state.roots else None
    commands: list[CommandOverview] = []
    for key, planned in state.commands.items():
        spec = CommandSpec.from_json(planned)
        commit = state.commits.get(key)
        attempts = [_attempt(item) for item in state.attempts.get(key, [])]
        status = _command_state(commit is not None, attempts, running=entry["state"] == "running")
        since = _running_since(spec, attempts[-1], RunPaths(folder)) if status == "running" else None
        artifacts = [
            {**item, "path": str(roots.absolute(item["path"])) if roots else item["path"]}
            for item in (commit or {}).get("artifacts", ())
        ]
        commands.append(
            {
                "key": key,
                "position": spec.position,
                "name": spec.name,
                "params": list(spec.params),
                "title": spec.title,
                "unit": spec.unit,
                "resources": spec.resources.describe(),
                "state": "queued" if status == "running" and since is None else status,
                "attempts": attempts,
                "seconds": commit["seconds"] if commit else None if since is None else max(0.0, time.time() - since),
                "node": attempts[-1]["node"] if attempts else "",
                "artifacts": artifacts,
                "result": commit["result"] if commit else None,
            }
        )
    return {**entry, "version": state.manifest.get("version"), "seed": state.manifest.get("seed"), "commands": commands}


def _command_state(committed: bool, attempts: Sequence[Mapping[str, Any]], *, running: bool) -> str:
    if committed:
        return "committed"
    if not attempts:
        return "waiting"
    if attempts[-1]["status"] == "running":
        return "running" if running else "interrupted"
    return "failed" if attempts[-1]["reason"] == "failed" else "interrupted"


def _running_since(spec: CommandSpec, attempt: Mapping[str, Any], paths: RunPaths) -> float | None:
    """When a running command started; ``None`` if it waits in the queue of Ray, where the journal does not say at its start where it runs."""
    if attempt["node"] or spec.where == "driver":
        return float(attempt["started"])
    return started_at(paths.log_of(spec.key), attempt["number"])


def _attempt(item: Attempt) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("number", "status", "reason", "message", "node", "pid", "started", "ended")}
