"""What the user reads at the end of a run: tables, each failure once, and how to continue."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mml_ray.driver.command import Outcome
from mml_ray.driver.executor import RunSummary
from mml_ray.driver.progress import format_clock
from mml_ray.report.tables import Table

#: at most this many logs are named of commands that failed in the same way
_LOGS = 5


def print_ending(
    summary: RunSummary, tables: Sequence[Table], *, run_dir: Path, again: str, stream: TextIO | None = None
) -> None:
    """Print how a run ended. ``again`` is the command line that continues it."""
    out = stream or sys.stdout
    if tables:
        print(file=out)
    for table in tables:
        table.print(out)
    alike: dict[str, list[Outcome]] = defaultdict(list)  # folds often fail for the same reason
    for outcome in summary.failures.values():
        alike[_what_happened(outcome)].append(outcome)
    for what, outcomes in alike.items():
        print(_failure(what, outcomes, run_dir), file=out)
    if summary.skipped:
        print(f"{len(summary.skipped)} command(s) were skipped because they depend on a failed one.", file=out)
    state = "Interrupted" if summary.interrupted else "Finished" if summary.exit_code == 0 else "Not finished"
    print(
        f"{state}: {summary.committed} of {summary.total} commands committed, in {format_duration(summary.seconds)}. Run folder: {run_dir}",
        file=out,
    )
    if summary.return_value is not None:
        print(f"Return value: {summary.return_value:.6g}", file=out)
    if summary.exit_code:
        print(f"Continue with: {again}", file=out)
    out.flush()


def _what_happened(outcome: Outcome) -> str:
    """The traceback where there is one and it is not the user's error; else one line."""
    traceback = "" if outcome.is_user_error else str(outcome.error.get("traceback", "")).rstrip()
    message = str(outcome.error.get("message", "")) or outcome.status
    return traceback or (message if outcome.is_user_error else f"{outcome.error.get('type') or outcome.status}: {message}")


def _failure(what: str, outcomes: Sequence[Outcome], run_dir: Path) -> str:
    first = outcomes[0].command
    names = f"Command {first}" if len(outcomes) == 1 else f"Command {first} and {len(outcomes) - 1} more like it"
    logs = [f"Its log: {run_dir / 'logs' / (outcome.command + '.log')}" for outcome in outcomes[:_LOGS]]
    return "\n".join(["", f"{names} failed:", what, *logs, ""])


def format_duration(seconds: float) -> str:
    """``3.2 s``, ``1:05 min``, ``1:01:05 h``."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{format_clock(seconds)} {'min' if seconds < 3600 else 'h'}"
