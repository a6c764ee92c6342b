"""The interface of a run store: what the plain :class:`~mml_ray.store.run.store.RunStore` and its client in other processes both are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict


class CommitAnswer(TypedDict):
    """What became of one outcome. ``committed``: also when this attempt had committed before; ``refused``: it is not the current
    attempt, or an artifact is missing; ``conflict``: another command set the same path key of a struct, so the attempt has failed.
    """

    command: str
    status: Literal["committed", "refused", "conflict"]
    reason: str


class CommandResult(TypedDict):
    """The return value of a committed command; ``unit`` is empty where it belongs to none."""

    key: str
    params: list[Any]
    unit: str
    result: Any


class EpochRow(TypedDict):
    """The values of one epoch (from 1), and the attempt that reported them."""

    attempt: int
    epoch: int
    values: dict[str, float]


class RunStoreProtocol(Protocol):
    """One opened run. Everything given and returned is plain data; every method is idempotent, so that a call whose answer was lost
    can be repeated.

    ``attempt`` is ``{"command", "attempt"}``: the key of a command, and which attempt at it (from 1).
    """

    # -- writing -----------------------------------------------------------------------------------------------------------
    def set_plan(self, plan: Mapping[str, Any], extend: bool = False) -> None:
        """Journal the plan ``{"fingerprint", "commands": [{"key", "position", "name", "params", ...}]}`` the first time; later
        compare.

        With ``extend`` another plan takes its place if it holds every command that has committed.

        Raises:
            PlanMismatchError: names the first difference.
        """

    def start(self, requests: Sequence[Mapping[str, Any]]) -> list[int]:
        """Start attempts ``[{"command", "position", "node", "pid"}]``; returns their numbers (from 1, by command).

        An older attempt at the same command is fenced, and the files it had reserved are removed. Does not wait for the disk.
        """

    def reserve(self, attempt: Mapping[str, Any], *, assignment: Mapping[str, Any], task: str | None, file: str | None) -> str:
        """Reserve the path of an artifact for a running attempt; returns the stored path (``results:...``, see
        ``store/paths.py``).

        ``assignment``: ``{"key", "template", "numbering"}``. With numbering the file is created, holding a marker; without it is
        not. ``attempt`` may say how many paths it has got so far (``reserved``), so that a repeated call returns the same path.

        Raises:
            FencedError: the attempt is not the current one of its command.
        """

    def commit(self, outcomes: Sequence[Mapping[str, Any]]) -> list[CommitAnswer]:
        """Commit finished attempts together, with one append and one fsync; returns an answer to each. What is committed is durable,
        and its changes to model storages can be read.

        Raises:
            StorageFailure: it may be durable or not; the same call again (when there is space, say) finds out.
        """

    def fail(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Record attempts that ended without a commit: ``[{"command", "attempt", "reason", "message", "node", "pid"}]``; without
        the last two, the place is the one it last reported from. Attempts that are not running are left as they are.
        """

    def finish(self, status: str, *, remove: Mapping[str, bool]) -> dict[str, Any]:
        """End the run as ``finished``, ``failed`` or ``interrupted``.

        ``finished``: removes the artifacts of this run whose key is enabled in ``remove`` (missing files are fine), TEMP and
        CHECKPOINTS. Returns ``{"status", "removed": {key: number}, "unused": [enabled keys without artifacts]}``.

        Raises:
            CommandError: ``finished``, but a command of the plan has not committed.
        """

    def close(self) -> None:
        """Release the run; harmless when repeated. Nothing is lost without it: the next owner finds this one dead."""

    # -- progress ----------------------------------------------------------------------------------------------------------
    def report(self, attempt: Mapping[str, Any], progress: Mapping[str, Any]) -> Mapping[str, bool]:
        """Keep the progress of an attempt in memory. The answer ``{"stop"}`` says whether it is to stop: a stop was requested, or
        it is no longer the current attempt.

        With ``epoch`` (from 1) and ``values`` (name: number) the values of that epoch are journaled, without waiting for it.
        """

    def progress(self) -> dict[str, dict[str, Any]]:
        """By command: the latest report of its running attempt."""

    def request_stop(self) -> None:
        """Answer every report with ``stop`` from now on."""

    # -- reading -----------------------------------------------------------------------------------------------------------
    def task_state(self, task: str) -> dict[str, Any]:
        """``{"paths": {key: stored path}, "models": [stored path]}`` of everything committed for a task; models in the order of
        the plan.
        """

    def results(self, name: str) -> list[CommandResult]:
        """The results of the committed commands of this name, in the order of the plan."""

    def result(self, key: str) -> Any:
        """The return value of one command.

        Raises:
            CommandError: it has not committed.
        """

    def committed(self) -> dict[str, dict[str, Any]]:
        """By command: attempt, result, artifacts, structs, models_update, seconds, at."""
