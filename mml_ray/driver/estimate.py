"""How long the rest of a plan takes, estimated from the durations in this run and earlier ones."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mml_ray.driver.command import CommandSpec
from mml_ray.driver.graph import Board

#: the duration of a running command is extrapolated once this share of it, and this many seconds, are done
_SHARE, _SECONDS = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """Seconds to the end; not ``is_complete`` if there are further commands of which nothing is known yet."""

    seconds: float
    is_complete: bool


class Estimate:
    """Follows a run. ``history``: seconds by command name from earlier runs; durations in this run take precedence."""

    def __init__(self, history: Mapping[str, float] | None = None) -> None:
        self._history = dict(history or {})
        self._durations: dict[str, list[float]] = defaultdict(list)
        self._running_since: dict[str, float] = {}
        self._most_at_once = 1

    def committed(self, spec: CommandSpec, seconds: float) -> None:
        """Record that a command committed after so many seconds."""
        self._durations[spec.name].append(seconds)

    def observe(self, running: Iterable[str]) -> None:
        """Record which commands run now; called often, so that it is known since when each of them runs."""
        now = time.monotonic()
        self._running_since = {key: self._running_since.get(key, now) for key in running}
        self._most_at_once = max(self._most_at_once, len(self._running_since))

    def left(self, board: Board, progress: Mapping[str, Mapping[str, Any]]) -> TimeLeft | None:
        """Estimate how much is left; ``None`` while nothing at all is known. ``progress``: the reports of the running commands."""
        now = time.monotonic()
        since = self._running_since
        running = {key: _extrapolated(reported, now - since[key]) for key, reported in progress.items() if key in since}
        total, longest, known_any, unknown = 0.0, 0.0, False, False
        for command in board.worker_commands:
            if board.state[command.key] not in ("waiting", "ready", "running"):
                continue
            takes = running.get(command.key) or self._usual(command.name, board, running)
            if takes is None:
                unknown = True
                continue
            rest = max(0.0, takes - (now - since[command.key])) if command.key in running else takes
            total, longest, known_any = total + rest, max(longest, rest), True
        return TimeLeft(max(total / self._most_at_once, longest), not unknown) if known_any else None

    def _usual(self, name: str, board: Board, running: Mapping[str, float | None]) -> float | None:
        """How long a command of this name takes: by this run, by those of its name that run now, or by history."""
        durations = self._durations.get(name) or [
            seconds for key, seconds in running.items() if seconds is not None and board.commands[key].name == name
        ]
        return sum(durations) / len(durations) if durations else self._history.get(name)


def _extrapolated(progress: Mapping[str, Any], elapsed: float) -> float | None:
    """Total seconds of a command that has run for ``elapsed`` seconds."""
    done, total = fraction(progress)
    share = done / total if total else 0.0
    return elapsed / share if share >= _SHARE and elapsed >= _SECONDS else None


def fraction(progress: Mapping[str, Any]) -> tuple[float, float]:
    """``(done, total)`` of what a command reported; ``(0, 0)`` where it does not say."""
    step, steps = float(progress.get("step") or 0), float(progress.get("steps") or 0)
    if not progress.get("epochs"):
        return step, steps
    within = step / steps if steps else 0.0
    epochs = float(progress["epochs"])
    return min(epochs, max(0.0, float(progress.get("epoch") or 1) - 1 + within)), epochs
