"""What the user reads at the end of a run: tables, each failure once, and how to go on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mml_ray.driver.command import Outcome
from mml_ray.driver.executor import RunSummary
from mml_ray.driver.progress import clock
from mml_ray.report.tables import Table

#: logs of commands that failed alike that are named
_LOGS = 5


def print_ending(
    summary: RunSummary, tables: Sequence[Table], *, run_dir: Path, again: str, stream: TextIO | None = None
) -> None:
    """Print it. ``again`` is the command line that continues the run."""
    out = stream or sys.stdout
    if tables:
        print(file=out)
    for table in tables:
        table.print(out)
    for outcomes in _alike(summary):
        print(_failure(outcomes, run_dir), file=out)
    if summary.skipped:
        print(f"{len(summary.skipped)} command(s) were skipped because they depend on a failed one.", file=out)
    state = "Interrupted" if summary.interrupted else "Finished" if summary.exit_code == 0 else "Not finished"
    print(
        f"{state}: {summary.committed} of {summary.total} commands committed, in {took(summary.seconds)}. Run folder: {run_dir}",
        file=out,
    )
    if summary.return_value is not None:
        print(f"Return value: {summary.return_value:.6g}", file=out)
    if summary.exit_code:
        print(f"Continue with: {again}", file=out)
    out.flush()


def _alike(summary: RunSummary) -> list[list[Outcome]]:
    """The failures by what went wrong. Folds often fail of the same thing."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in summary.failures.values():
        groups.setdefault(_what_happened(outcome), []).append(outcome)
    return list(groups.values())


def _what_happened(outcome: Outcome) -> str:
    """The traceback where there is one and the user is not to blame; else one line."""
    traceback = "" if outcome.users_mistake else str(outcome.error.get("traceback", "")).rstrip()
    message = str(outcome.error.get("message", "")) or outcome.status
    return traceback or (message if outcome.users_mistake else f"{outcome.error.get('type') or outcome.status}: {message}")


def _failure(outcomes: Sequence[Outcome], run_dir: Path) -> str:
    first = outcomes[0].command
    names = f"Command {first}" if len(outcomes) == 1 else f"Command {first} and {len(outcomes) - 1} more of the same"
    logs = [f"Its log: {run_dir / 'logs' / (outcome.command + '.log')}" for outcome in outcomes[:_LOGS]]
    return "\n".join(["", f"{names} failed:", _what_happened(outcomes[0]), *logs, ""])


def took(seconds: float) -> str:
    """``3.2 s``, ``1:05 min``, ``1:01:05 h``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} min" if seconds < 3600 else f"{clock(seconds)} h"
