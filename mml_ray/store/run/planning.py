"""Whether a run may be continued with a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from mml_ray.errors import PlanMismatchError
from mml_ray.store.run.state import RunState

_FIELDS = ("key", "name", "params", "needs", "barrier")


def check_plan(state: RunState, plan: Mapping[str, Any], *, extend: bool) -> None:
    """Refuse a plan with another fingerprint than the run's; with ``extend``, only one that lacks a command which has committed.

    Raises:
        PlanMismatchError: names the first difference, or the first missing command.
    """
    if not extend:
        raise PlanMismatchError(
            f"This run has another plan. {first_difference(state.plan['commands'], plan['commands'])} "
            "Continue it with the configuration it was started with, or start a new run."
        )
    keys = {entry["key"] for entry in plan["commands"]}
    lost = [key for key in state.commits if key not in keys]
    if lost:
        raise PlanMismatchError(
            f"The run cannot be extended: {len(lost)} command(s) that have committed are not in the new plan, first {lost[0]}. "
            "An extension may add commands, but not remove any."
        )


def first_difference(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """The first difference between two plans, as a sentence. Units do not count: they only group commands."""
    for number, (old, new) in enumerate(zip_longest(before, now)):
        if old is None:
            return f"Command {number}, {describe(new)}, is new ({len(before)} commands before, {len(now)} now)."
        if new is None:
            return f"Command {number}, {describe(old)}, is missing ({len(before)} commands before, {len(now)} now)."
        differing = [name for name in _FIELDS if _plain(old.get(name)) != _plain(new.get(name))]
        if differing:
            detail = "" if {"name", "params"} & set(differing) else f" (differs in {', '.join(differing)})"
            return f"Command {number} was {describe(old)} and is {describe(new)} now{detail}."
    return "The commands are the same, but something else that the fingerprint covers differs (the scheduler, or its settings)."


def describe(entry: Mapping[str, Any]) -> str:
    """A command as a call, for messages."""
    return f"{entry.get('name')}({', '.join(repr(param) for param in entry.get('params') or ())})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
