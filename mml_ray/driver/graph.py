"""The order of commands: a plan is built once and is pure data; a board follows it while it runs.

Stage rule: a run of consecutive entries of the same command is a stage, whose entries may run side by side; a stage starts when
everything before it has committed. Entries added with explicit edges wait for exactly those instead.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mml_ray.driver.command import FINISH, PREPARE, CommandSpec, command_key
from mml_ray.driver.resources import Resources
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.journal.plain import to_plain


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a scheduler's lists: ``after`` holds the indices it waits for, or ``None`` for the stage rule; ``unit`` the group
    of commands it belongs to.
    """

    name: str
    params: Sequence[Any]
    after: Sequence[int] | None = None
    sequential: bool = False
    retries: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All commands of a run, in the order of the scheduler's lists."""

    commands: tuple[CommandSpec, ...]
    scheduler: str

    @property
    def fingerprint(self) -> str:
        """Decides whether a run may be continued: the scheduler, and names, parameters and edges of all commands.

        The frame, which is the same for every plan, and units, which only group commands, are not part of it.
        """
        content = [self.scheduler, [[c.key, c.name, c.params, c.needs, c.barrier] for c in self.worker_commands]]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def worker_commands(self) -> tuple[CommandSpec, ...]:
        """Those of the scheduler's lists, without the frame that the driver runs itself."""
        return tuple(command for command in self.commands if command.where == "worker")

    def framed(self) -> Plan:
        """The same plan with ``prepare_exp`` before everything else and ``finish_exp`` after everything else."""
        last = len(self.commands) + 1
        first = CommandSpec(PREPARE, 0, PREPARE, (), resources=Resources(num_cpus=0), where="driver")
        return replace(
            self, commands=(first, *self.commands, replace(first, key=FINISH, position=last, name=FINISH, barrier=last))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``plan.json`` of a run."""
        return {
            "scheduler": self.scheduler,
            "fingerprint": self.fingerprint,
            "commands": [command.to_json() for command in self.commands],
        }

    def with_resources(self, choose: Callable[[CommandSpec, int], CommandSpec]) -> Plan:
        """The same plan with ``choose(command, width)`` in place of each command that a worker runs."""
        widths = self.widths()
        chosen = (choose(command, widths[command.name]) if command.where == "worker" else command for command in self.commands)
        return replace(self, commands=tuple(chosen))

    def widths(self) -> dict[str, int]:
        """By command name: how many of them could run side by side (an upper bound: chains of one name count once)."""
        names = {command.key: command.name for command in self.commands}
        return Counter(command.name for command in self.commands if all(names[key] != command.name for key in command.needs))

    def is_chain(self) -> bool:
        """Whether at most one command can ever run at a time (judged by the edges written down, not by their closure)."""
        pairs = itertools.pairwise(self.commands)
        return all(after.barrier >= after.position or before.key in after.needs for before, after in pairs)


def build_plan(entries: Iterable[Entry], *, scheduler: str) -> Plan:
    """The plan of a scheduler's lists.

    Raises:
        MMLMisconfigurationException: parameters that are not plain data, or an edge to an entry that does not come before.
    """
    commands: list[CommandSpec] = []
    seen: Counter[tuple[str, str]] = Counter()
    taken: set[str] = set()
    stage_start, stage_name = 0, ""
    for index, entry in enumerate(entries):
        params = tuple(entry.params)
        to_plain(list(params), f"A parameter of command '{entry.name}'")
        identity = (entry.name, json.dumps(list(params), sort_keys=True))
        key = command_key(entry.name, params, repetition=seen[identity])
        if key in taken:  # by one that looks alike
            key = command_key(entry.name, params, repetition=seen[identity], digest_size=16)
        taken.add(key)
        seen[identity] += 1
        if entry.name != stage_name:
            stage_start, stage_name = index, entry.name
        needs = _needs(entry, index, commands)
        barrier = 0 if entry.after is not None else (index if entry.sequential else stage_start) + 1
        commands.append(CommandSpec(key, index + 1, entry.name, params, needs, barrier, retries=entry.retries, unit=entry.unit))
    return Plan(tuple(commands), scheduler)


def _needs(entry: Entry, index: int, commands: Sequence[CommandSpec]) -> tuple[str, ...]:
    wrong = [number for number in entry.after or () if not 0 <= number < index]
    if wrong:
        raise MMLMisconfigurationException(
            f"Entry {index} ({entry.name}) waits for entry {wrong[0]}, which does not come before it: add what it needs first."
        )
    return tuple(dict.fromkeys(commands[number].key for number in entry.after or ()))


class Board:
    """Where every command of a plan stands. Every step costs O(log n) or the number of edges it follows.

    States: ``waiting``, ``ready``, ``running``, ``committed``, ``failed``, ``skipped``. Of the commands that are ``committed`` already,
    ``prepare_exp`` runs again, before everything else: every start needs what it sets up in this process.
    """

    def __init__(self, plan: Plan, committed: Iterable[str] = ()) -> None:
        self.plan = plan
        self.worker_commands = plan.worker_commands
        self.commands = {command.key: command for command in plan.commands}
        self.state = dict.fromkeys(self.commands, "waiting")
        self._followers: dict[str, list[str]] = defaultdict(list)
        self._open_needs: dict[str, int] = {}
        self._ready: dict[Resources, list[tuple[int, str]]] = defaultdict(list)
        self._barriers: list[tuple[int, int, str]] = []
        self._prefix = 0
        done = set(committed)
        self.repeated = done & {PREPARE}
        done -= self.repeated
        for command in plan.commands:
            if command.key in done:
                self.state[command.key] = "committed"
        for command in plan.commands:
            if command.key not in done:
                self._enter(command)
        self._advance()

    def _enter(self, command: CommandSpec) -> None:
        open_needs = [key for key in command.needs if self.state[key] != "committed"]
        for key in open_needs:
            self._followers[key].append(command.key)
        self._open_needs[command.key] = len(open_needs)
        if not open_needs:  # also what needs nothing waits for position 0, the preparation
            barrier = max(command.barrier, min(1, command.position))
            heapq.heappush(self._barriers, (barrier, command.position, command.key))

    def make_ready(self, key: str) -> None:
        """Let a command start: what it needs has committed (or its own last attempt did not)."""
        self.state[key] = "ready"
        command = self.commands[key]
        heapq.heappush(self._ready[command.resources], (command.position, key))

    def _advance(self) -> None:
        order = self.plan.commands
        while self._prefix < len(order) and self.state[order[self._prefix].key] == "committed":
            self._prefix += 1
        frontier = order[self._prefix].position if self._prefix < len(order) else math.inf
        while self._barriers and self._barriers[0][0] <= frontier:
            key = heapq.heappop(self._barriers)[2]
            if self.state[key] == "waiting":
                self.make_ready(key)

    def take(self, full: Container[Resources] = ()) -> CommandSpec | None:
        """Mark the next ready command in plan order as ``running`` and return it; ``None`` if there is none. Those that ask for what is in
        ``full`` wait.
        """
        heaps = [heap for request, heap in self._ready.items() if request not in full]
        for heap in heaps:
            while heap and self.state[heap[0][1]] != "ready":
                heapq.heappop(heap)
        found = min((heap for heap in heaps if heap), default=None, key=lambda heap: heap[0])
        if found is None:
            return None
        key = heapq.heappop(found)[1]
        self.state[key] = "running"
        return self.commands[key]

    def has_ready(self) -> bool:
        """Whether a command is ready."""
        return any(self.state[key] == "ready" for heap in self._ready.values() for _, key in heap)

    def commit(self, key: str) -> None:
        """Record that a command committed: what waited for it may become ready."""
        self.state[key] = "committed"
        for follower in self._followers.pop(key, ()):
            self._open_needs[follower] -= 1
            if not self._open_needs[follower] and self.state[follower] == "waiting":
                self.make_ready(follower)
        self._advance()

    def fail(self, key: str) -> list[str]:
        """Record that a command failed for good; returns the keys of all commands of the plan that are skipped because of it."""
        self.state[key] = "failed"
        skipped: list[str] = []
        blocked = [key]
        while blocked:
            gone = blocked.pop()
            position = self.commands[gone].position
            behind = [k for barrier, _, k in self._barriers if barrier > position]
            for follower in [*self._followers.get(gone, ()), *behind]:
                if self.state[follower] == "waiting":
                    self.state[follower] = "skipped"
                    blocked.append(follower)
                    if self.commands[follower].where == "worker":
                        skipped.append(follower)
            self._barriers = [item for item in self._barriers if self.state[item[2]] == "waiting"]
            heapq.heapify(self._barriers)
        return skipped

    def count(self) -> Counter[str]:
        """How many commands are in each state, the frame apart."""
        return Counter(self.state[command.key] for command in self.worker_commands)

    @property
    def all_committed(self) -> bool:
        """Whether nothing is left to do."""
        return self._prefix == len(self.plan.commands)
