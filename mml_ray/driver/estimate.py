"""How long the rest of a plan takes, judged by what this run and earlier ones took so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mml_ray.driver.command import CommandSpec
from mml_ray.driver.graph import Board

#: a running command says how long it takes once this share of it, and this many seconds, are done
_SHARE, _SECONDS = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class Left:
    """Seconds to the end; not ``whole`` if there is more to come of which nothing is known yet."""

    seconds: float
    whole: bool


class Estimate:
    """Follows a run. ``history``: seconds by command name from earlier runs; what this run takes itself counts for more."""

    def __init__(self, history: Mapping[str, float] | None = None) -> None:
        self._history = dict(history or {})
        self._took: dict[str, list[float]] = defaultdict(list)
        self._seen: dict[str, float] = {}
        self._most = 1

    def committed(self, spec: CommandSpec, seconds: float | None) -> None:
        """A command committed after so many seconds (``None``: it is not known)."""
        if seconds is not None:
            self._took[spec.name].append(seconds)

    def saw(self, running: Iterable[str]) -> None:
        """These commands run now; to be called often, so that it is known since when each of them runs."""
        now = time.monotonic()
        self._seen = {key: self._seen.get(key, now) for key in running}
        self._most = max(self._most, len(self._seen))

    def left(self, board: Board, progress: Mapping[str, Mapping[str, Any]]) -> Left | None:
        """How much is left; ``None`` while nothing at all is known. ``progress``: what the commands that run now said."""
        now = time.monotonic()
        running = {key: said for key, said in progress.items() if key in self._seen}
        whole_of = {key: _extrapolated(said, now - self._seen[key]) for key, said in running.items()}
        total, longest, known_any, unknown = 0.0, 0.0, False, False
        for command in board.plan.commands:
            if board.state[command.key] not in ("waiting", "ready", "running"):
                continue
            takes = whole_of.get(command.key) or self._usual(command.name, board, whole_of)
            if takes is None:
                unknown = True
                continue
            rest = max(0.0, takes - (now - self._seen[command.key])) if command.key in running else takes
            total, longest, known_any = total + rest, max(longest, rest), True
        return Left(max(total / self._most, longest), not unknown) if known_any else None

    def _usual(self, name: str, board: Board, running: Mapping[str, float | None]) -> float | None:
        """What a command of this name takes: by this run, by those of its kind that run now, or by history."""
        took = self._took.get(name) or [
            seconds for key, seconds in running.items() if seconds is not None and board.commands[key].name == name
        ]
        return sum(took) / len(took) if took else self._history.get(name)


def _extrapolated(said: Mapping[str, Any], since: float) -> float | None:
    """Seconds in all of a command that has run for ``since`` seconds."""
    done, total = fraction(said)
    share = done / total if total else 0.0
    return since / share if share >= _SHARE and since >= _SECONDS else None


def fraction(said: Mapping[str, Any]) -> tuple[float, float]:
    """``(done, total)`` of what a command reported; ``(0, 0)`` where it does not say."""
    step, steps = float(said.get("step") or 0), float(said.get("steps") or 0)
    if not said.get("epochs"):
        return step, steps
    within = step / steps if steps else 0.0
    epochs = float(said["epochs"])
    return min(epochs, max(0.0, float(said.get("epoch") or 1) - 1 + within)), epochs
