"""How long commands took in earlier runs of a project."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from mml_ray.errors import JournalError, StorageError
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.inspection import read_run, run_folders


def history(project: Path, *, runs: int = 10, most_bytes: int = 16 * 2**20) -> dict[str, float]:
    """By command name: the median seconds of its commits in the newest runs of a project.

    Broken runs are left out; no more than ``most_bytes`` of journals are read, which takes about a second.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    read = 0
    newest_first = sorted(run_folders(project), key=lambda folder: folder.parts[-2:], reverse=True)
    for folder in newest_first[:runs]:
        journal = RunPaths(folder).journal
        read += journal.stat().st_size if journal.exists() else 0
        if read > most_bytes:
            break
        try:
            state = read_run(folder)
        except (JournalError, StorageError):
            continue
        for key, commit in state.commits.items():
            name = state.commands[key]["name"] if key in state.commands else key.partition("--")[0]
            seconds[str(name)].append(float(commit["seconds"]))
    return {name: statistics.median(values) for name, values in seconds.items()}
