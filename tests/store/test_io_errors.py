"""The n-th file operation fails, for n = 1, 2, ... until none is left to fail: no commit is lost or doubled, and the run goes on
to the same end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mml_ray import atomic
from mml_ray.errors import MMLError
from tests.store.world import World, dead_owner, drive, exhaust, final_state

Step = Callable[..., Any]


class Faulty(atomic.FileSystem):
    """Counts all operations; the n-th one fails as ``fault`` says, and with ``lasting`` every one after it too."""

    def __init__(self, at: int, fault: str, *, lasting: bool) -> None:
        self.at, self.fault, self.lasting, self.count = at, fault, lasting, 0

    def _due(self) -> bool:
        self.count += 1
        return self.count == self.at or (self.lasting and self.count > self.at)

    def _do(self, name: str, *args: Any) -> Any:
        if self._due():
            if name == "write":
                return self._write(*args)
            if name == "close":
                os.close(args[0])  # a close that fails has closed the descriptor all the same
            if self.fault != "short":
                raise _error(self.fault, name)
            if name == "close":
                return None
        return None if name == "fsync" else getattr(atomic.FileSystem, name)(self, *args)

    def _write(self, descriptor: int, data: bytes) -> int:
        """Part of the data arrives; ``short``: and that is said, as ``write`` may, else it fails."""
        written = os.write(descriptor, data[: max(1, len(data) // 2)])
        if self.fault == "short":
            return written
        raise _error(self.fault, "write")


def _error(fault: str, name: str) -> OSError:
    code = errno.ENOSPC if fault == "ENOSPC" else errno.EIO
    return OSError(code, os.strerror(code), f"fault in {name}")


def _forward(name: str) -> Step:
    def operation(self: Faulty, *args: Any) -> Any:
        return self._do(name, *args)

    return operation


for _name in ("open", "write", "fsync", "close", "replace", "unlink", "mkdir", "truncate", "link", "rmdir", "read", "listdir"):
    setattr(Faulty, _name, _forward(_name))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = World(tmp_path_factory.mktemp("undisturbed"))
    exhaust(drive(world))
    return final_state(world)


def attempt_run(world: World, number: int, acknowledged: set[str], persist: Any = None) -> BaseException | None:
    """One driver, which is gone when something is raised; collects the commits it was told of."""
    try:
        for keys in drive(world, owner=dead_owner(number), persist=persist):
            acknowledged.update(keys)
    except (OSError, MMLError) as error:
        return error
    return None


FAULTS = pytest.mark.parametrize(("fault", "lasting"), [("EIO", False), ("ENOSPC", True), ("short", False)])


@FAULTS
def test_every_seventh_operation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any], fault: str, lasting: bool
) -> None:
    fail_in_turn(tmp_path, monkeypatch, undisturbed, Faulty(0, fault, lasting=lasting), step=7)


@pytest.mark.chaos
@FAULTS
def test_every_operation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any], fault: str, lasting: bool
) -> None:
    fail_in_turn(tmp_path, monkeypatch, undisturbed, Faulty(0, fault, lasting=lasting), step=1)


def fail_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any], kind: Faulty, *, step: int
) -> None:
    fault, lasting = kind.fault, kind.lasting
    failures = tried = 0
    n = 1 - step
    while True:
        n += step
        world, told = World(tmp_path / str(n)), set[str]()
        files = Faulty(n, fault, lasting=lasting)
        monkeypatch.setattr(atomic, "fs", files)
        error = attempt_run(world, 1, told)
        monkeypatch.setattr(atomic, "fs", Faulty(0, fault, lasting=False))
        if files.count < n:
            break
        failures += error is not None
        tried += 1
        if fault == "short":
            assert error is None, "a short write is no error"
        counted = (
            {key for key, times in world.commits().items() if times} if (world.run_dir / "journal.jsonl").exists() else set()
        )
        assert told - {"finished"} <= counted, f"operation {n}: a commit that was acknowledged is lost"
        assert attempt_run(world, 2, told) is None, f"operation {n}"
        assert set(world.commits().values()) == {1}, f"operation {n}"
        found, wanted = final_state(world), undisturbed
        if error is not None or fault != "short":
            assert {**found, "left": None} == {**wanted, "left": None}, f"operation {n}"
    assert n > 250 and (fault == "short" or failures > 0.5 * tried)


def test_a_driver_that_waits_for_space_goes_on_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    """Every call to the store can be repeated as it is; the disk is full for three operations, wherever they are."""
    n, waited = 0, 0

    def patiently(call: Callable[[], Any]) -> Any:
        nonlocal waited
        for _ in range(20):
            try:
                return call()
            except OSError as error:
                assert error.errno == errno.ENOSPC
                waited += 1
        return call()

    while True:
        n += 13
        world, told = World(tmp_path / str(n)), set[str]()
        files = Full(n)
        monkeypatch.setattr(atomic, "fs", files)
        error = attempt_run(world, 1, told, patiently)
        monkeypatch.setattr(atomic, "fs", Faulty(0, "EIO", lasting=False))
        if files.count < n:
            break
        if error is not None:  # closing at the very end cannot be repeated
            assert "finished" not in told
            assert attempt_run(world, 2, told) is None
        assert set(world.commits().values()) == {1}, f"operation {n}"
        assert {**final_state(world), "left": None} == {**undisturbed, "left": None}, f"operation {n}"
    assert waited > 20


class Full(Faulty):
    """No space for three operations."""

    def __init__(self, at: int) -> None:
        super().__init__(at, "ENOSPC", lasting=False)

    def _due(self) -> bool:
        self.count += 1
        return self.at <= self.count < self.at + 3
