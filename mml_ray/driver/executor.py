"""What the driver's loop works with: where commands run, who records them, who shows them, and what to do about failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mml_ray.driver.command import CommandSpec, Outcome
from mml_ray.driver.graph import Board
from mml_ray.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER


class Executor(Protocol):
    """Where commands run."""

    #: how many commands may be with the executor at once, and how many that ask for the same resources: commands that wait for one
    #: kind of device must not keep others idle
    window: int
    share: int
    #: name of the place, for the journal
    node: str

    def submit(self, spec: CommandSpec, attempt: int) -> None:
        """Start one attempt; returns at once (inline: it runs at the next :meth:`wait`)."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Return all attempts that ended; wait up to ``timeout`` seconds for the first of them."""

    def stop(self, *, force: bool) -> None:
        """Ask running attempts to stop: on their own at the next good moment, or (``force``) at once."""

    def abort(self, key: str) -> str:
        """End the running attempt of one command at once; returns what its stack looked like, if that is known."""

    def close(self) -> None:
        """Free everything; no process of the run is left."""


class Display(Protocol):
    """What shows the user how far the run is."""

    def event(self, spec: CommandSpec, state: str, detail: str = "") -> None: ...
    def tick(self, board: Board, progress: Mapping[str, Mapping[str, Any]]) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What to do when something fails. Times in seconds."""

    retries_system: int = 3
    retries_exception: int = 0
    stop_on_failure: bool = False
    backoff: float = 1.0
    backoff_limit: float = 60.0
    stall_timeout: float = 0.0
    min_free_bytes: int = 0
    watch: tuple[Path, ...] = ()
    grace: float = 120.0

    def delay(self, failures: int) -> float:
        """How long to wait before the attempt after ``failures`` failed ones: doubles, up to a limit."""
        return float(min(self.backoff_limit, self.backoff * 2.0 ** (failures - 1)))


@dataclass(slots=True)
class RunSummary:
    """How a run ended. The frame is not counted in ``committed``, ``total`` and ``skipped``; it is in ``failures``."""

    committed: int = 0
    total: int = 0
    failures: dict[str, Outcome] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    return_value: float | None = None

    @property
    def exit_code(self) -> int:
        """0: all committed; 1: some failed; 2: all that failed did so because of something the user can fix; 130: interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.failures and all(outcome.is_user_error for outcome in self.failures.values()):
            return EXIT_USER
        return EXIT_OK if self.committed == self.total and not self.failures else EXIT_FAILED
