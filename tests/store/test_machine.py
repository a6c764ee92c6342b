"""Any order of starting, reserving, committing, failing, dying, adopting and opening again, against an oracle of a few lines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mml_ray import atomic, failpoints
from mml_ray.errors import FencedError, MMLError
from mml_ray.store.run.publish import publish_artifacts
from mml_ray.store.run.store import RunStore, read_run, verify
from tests.store.world import PARAMETERS, Unsynced, World, dead_owner, outcome, plan

KEYS = [f"c{number}" for number in range(4)]
keys = st.sampled_from(KEYS)


class Oracle:
    """What must be true: at most one commit per command, by the attempt that was current."""

    def __init__(self) -> None:
        self.numbers = dict.fromkeys(KEYS, 0)
        self.running: dict[str, int] = {}
        self.committed: dict[str, tuple[int, Any]] = {}

    def start(self, key: str) -> int:
        self.numbers[key] += 1
        self.running[key] = self.numbers[key]
        return self.numbers[key]

    def commit(self, key: str, attempt: int, result: Any) -> str:
        if self.committed.get(key, (None,))[0] == attempt:
            return "committed"
        if key in self.committed or self.running.get(key) != attempt:
            return "refused"
        self.committed[key] = (attempt, result)
        del self.running[key]
        return "committed"

    def fail(self, key: str, attempt: int) -> None:
        if self.running.get(key) == attempt:
            del self.running[key]


class Life(RuleBasedStateMachine):
    """One run; ``self.store`` is its present owner, ``self.old`` those before it, which do not know that they are."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(atomic, "fs", Unsynced())
        self.base = Path(tempfile.mkdtemp(prefix="mml-ray-life-"))
        self.world, self.oracle, self.incarnation = World(self.base), Oracle(), 1
        self.store: RunStore = self.world.create(owner=dead_owner(1))
        self.store.set_plan(plan(len(KEYS)))
        self.old: list[RunStore] = []
        self.written: dict[tuple[str, int], list[Path]] = {}

    def teardown(self) -> None:
        if hasattr(self, "base"):
            self.patch.undo()
            shutil.rmtree(self.base)

    @rule(key=keys)
    def start(self, key: str) -> None:
        [number] = self.store.start([{"command": key, "position": int(key[1]), "node": "", "pid": 0}])
        assert number == self.oracle.start(key)

    @rule(key=keys, back=st.integers(0, 1), write=st.booleans())
    def reserve(self, key: str, back: int, write: bool) -> None:
        attempt = self.oracle.numbers[key] - back
        reference = {"command": key, "attempt": attempt}
        try:
            stored = self.store.reserve(reference, assignment=PARAMETERS, task="t", file=None)
        except FencedError:
            assert self.oracle.running.get(key) != attempt
            return
        assert self.oracle.running[key] == attempt
        path = self.store.roots.absolute(stored)
        assert all(path not in paths for owner, paths in self.written.items() if self._counts(owner)), "a name was given twice"
        if write:
            path.write_text(f"{key} {attempt}")
        self.written.setdefault((key, attempt), []).append(path)

    def _counts(self, owner: tuple[str, int]) -> bool:
        key, attempt = owner
        return self.oracle.running.get(key) == attempt or self.oracle.committed.get(key, (None,))[0] == attempt

    @rule(
        group=st.lists(st.tuples(keys, st.integers(0, 1)), min_size=1, max_size=4, unique_by=lambda item: item[0]),
        value=st.integers(-(2**40), 2**40),
    )
    def commit(self, group: list[tuple[str, int]], value: int) -> None:
        outcomes, expected = [], []
        for key, back in group:
            attempt = self.oracle.numbers[key] - back
            artifacts = publish_artifacts(self.written.get((key, attempt), ())) if self.oracle.running.get(key) == attempt else []
            outcomes.append(outcome({"command": key, "attempt": attempt}, result=value, artifacts=artifacts))
            expected.append(self.oracle.commit(key, attempt, value))
            if artifacts or (key, attempt) in self.written:
                self.written[key, attempt] = [Path(item["path"]) for item in artifacts]
        assert [answer["status"] for answer in self.store.commit(outcomes)] == expected

    @rule(key=keys, back=st.integers(0, 1))
    def fail(self, key: str, back: int) -> None:
        attempt = self.oracle.numbers[key] - back
        self.store.fail([{"command": key, "attempt": attempt, "reason": "lost", "message": ""}])
        self.oracle.fail(key, attempt)

    @rule(torn=st.integers(0, 30))
    def die(self, torn: int) -> None:
        """The driver is killed, perhaps in the middle of writing a line; another one continues."""
        if torn:
            with (self.world.run_dir / "journal.jsonl").open("ab") as file:
                file.write(b'{"crc":"00000000","seq":1,"op":'[:torn])
        self._next(adopt=False)
        self.oracle.running.clear()

    @rule()
    def adopt(self) -> None:
        """The actor restarts: same owner, next incarnation; what runs goes on."""
        self._next(adopt=True)

    def _next(self, *, adopt: bool) -> None:
        self.old.append(self.store)
        self.incarnation += not adopt
        self.store = self.world.open(owner=dead_owner(self.incarnation), adopt=adopt)

    @rule(
        key=keys,
        place=st.sampled_from(["journal.before_append", "journal.after_write", "commit.before_append", "journal.after_fsync"]),
    )
    def die_in_a_commit(self, key: str, place: str) -> None:
        attempt = self.oracle.numbers[key]
        finished = outcome({"command": key, "attempt": attempt}, result="died")
        if self.oracle.running.get(key) != attempt or key in self.oracle.committed:
            return
        with failpoints.armed(f"{place}=raise"), pytest.raises(failpoints.FailpointError):
            self.store.commit([finished])
        self._next(adopt=False)
        if place in ("journal.after_write", "journal.after_fsync"):  # it had reached the file
            self.oracle.commit(key, attempt, "died")
        self.oracle.running.clear()

    @precondition(lambda self: self.old)
    @rule(key=keys, index=st.integers(0, 10))
    def wake_up_late(self, key: str, index: int) -> None:
        """Whatever an older owner still tries is refused, and changes nothing."""
        old = self.old[index % len(self.old)]
        before = (self.world.run_dir / "journal.jsonl").read_bytes()
        calls: tuple[Callable[[], Any], ...] = (
            lambda: old.commit([outcome({"command": key, "attempt": self.oracle.running.get(key, 1)}, result="late")]),
            lambda: old.start([{"command": key, "position": 0, "node": "", "pid": 0}]),
            lambda: old.task_state("t"),
        )
        for call in calls:
            try:
                answers = call()
            except MMLError:
                continue
            assert answers and answers[0]["status"] in ("refused", "committed"), "an older owner got through"
        assert (self.world.run_dir / "journal.jsonl").read_bytes() == before

    @invariant()
    def what_is_committed_is_committed(self) -> None:
        if not hasattr(self, "store"):
            return
        for commits in (self.store.state.commits, read_run(self.world.run_dir).commits):
            assert {key: (item["attempt"], item["result"]) for key, item in commits.items()} == self.oracle.committed
        assert set(self.world.commits().values()) <= {1}
        assert verify(self.world.run_dir) == []


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase
