"""What a journal forgives, what it refuses, and what a failed append leaves behind."""

from __future__ import annotations

import errno
import math
import os
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_ray import atomic
from mml_ray.errors import JournalError, MMLMisconfigurationException, StorageError, StorageFailure
from mml_ray.journal import log as journal
from mml_ray.journal.log import Journal
from mml_ray.journal.plain import normalized
from mml_ray.store.run.state import RunState
from mml_ray.store.run.store import find_runs, read_run
from tests.patience import promised_cpu
from tests.store.world import World, done, outcome, plan, start


@pytest.fixture
def finished(tmp_path: Path) -> World:
    """A run of three commands that has ended, without its owner."""
    world = World(tmp_path)
    store = world.planned(3)
    for number in range(3):
        done(store, f"c{number}", {"value": number})
    store.finish("finished", remove={})
    store.close()
    return world


def lines_of(world: World) -> list[bytes]:
    return (world.run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(world: World, lines: list[bytes]) -> bytes:
    data = b"".join(lines)
    (world.run_dir / "journal.jsonl").write_bytes(data)
    return data


# -- lines -----------------------------------------------------------------------------------------------------------------------------
def test_a_line_is_json_with_a_checksum_over_the_rest() -> None:
    import zlib

    line = journal.encode(7, "committed", {"command": "a", "result": "line\nend"})
    content = orjson.loads(line)
    assert list(content)[:3] == ["crc", "seq", "op"] and line.count(b"\n") == 1
    assert content["crc"] == f"{zlib.crc32(line[18:-1]):08x}"
    assert journal.decode(line[:-1]) == content


@given(st.binary(max_size=200), st.integers(0, 199))
def test_a_flipped_or_cut_line_never_checks(noise: bytes, place: int) -> None:
    line = journal.encode(1, "plan", {"text": noise.hex()})[:-1]
    place %= len(line)
    assert journal.decode(line[:place]) is None
    flipped = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
    assert journal.decode(flipped) is None


def test_floats_that_json_lacks_come_back() -> None:
    line = journal.encode(1, "committed", {"result": {"a": [math.nan, math.inf, -math.inf, 1.5], "b": (1, 2)}})
    content = journal.decode(line[:-1])
    assert content is not None
    nan, inf, minus, number = content["result"]["a"]
    assert math.isnan(nan) and (inf, minus, number) == (math.inf, -math.inf, 1.5)
    assert content["result"]["b"] == [1, 2]


@pytest.mark.parametrize("value", [{1: "a"}, {"$float": "x"}, object(), b"bytes", {1, 2}, 2**64, "\udcff", [Path("x")]])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(MMLMisconfigurationException, match="result"):
        normalized(value, "result")


def test_subclasses_of_plain_types_become_plain() -> None:
    from enum import StrEnum

    import numpy as np

    class Colour(StrEnum):
        RED = "red"

    assert normalized({"a": Colour.RED, "b": np.float64(0.5), "c": True}) == {"a": "red", "b": 0.5, "c": True}
    assert type(normalized(Colour.RED)) is str and type(normalized(np.float64(0.5))) is float


# -- reading ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_cut_off(finished: World, cut: int) -> None:
    lines = lines_of(finished)
    rewrite(finished, [*lines[:-1], lines[-1][:-cut]])
    assert not read_run(finished.run_dir).finished
    store = finished.open()
    assert sorted(store.committed()) == ["c0", "c1", "c2"] and store.finish("finished", remove={})["status"] == "finished"
    store.close()
    assert finished.commits() == {"c0": 1, "c1": 1, "c2": 1}
    assert all(journal.decode(line[:-1]) for line in lines_of(finished))


def test_a_garbled_last_line_with_a_line_end_is_cut_off(finished: World) -> None:
    lines = lines_of(finished)
    rewrite(finished, [*lines[:-1], lines[-1][:30] + b"\n"])
    assert not read_run(finished.run_dir).finished


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_a_torn_middle_line_is_an_error_that_names_file_and_line(finished: World, number: int) -> None:
    lines = lines_of(finished)
    lines[number - 1] = lines[number - 1][:-20] + b"\n"
    self_check_refuses(finished, lines, rf"journal\.jsonl, line {number} is damaged")


def test_an_edited_line_is_an_error_even_at_the_end(finished: World) -> None:
    for number in (4, len(lines_of(finished))):
        lines = lines_of(finished)
        lines[number - 1] = lines[number - 1].replace(b'"at":', b'"At":')
        before = lines_of(finished)
        self_check_refuses(finished, lines, rf"line {number} is damaged or was edited")
        rewrite(finished, before)


def test_a_missing_line_is_an_error(finished: World) -> None:
    lines = lines_of(finished)
    self_check_refuses(finished, lines[:3] + lines[4:], r"line 4: expected operation 4, found 5")


def test_a_doubled_line_is_an_error(finished: World) -> None:
    lines = lines_of(finished)
    self_check_refuses(finished, lines[:4] + lines[3:], r"line 5: expected operation 5, found 4")


def test_an_empty_and_a_missing_journal_are_errors(finished: World) -> None:
    self_check_refuses(finished, [], "is empty")
    (finished.run_dir / "journal.jsonl").unlink()
    with pytest.raises(JournalError, match="There is no journal at"):
        finished.open()
    assert not (finished.run_dir / "journal.jsonl").exists()


def test_a_version_from_the_future_is_an_error(finished: World) -> None:
    first = orjson.loads(lines_of(finished)[0])
    fields = {name: value for name, value in first.items() if name not in ("crc", "seq", "op")}
    newer = journal.encode(1, "run_opened", {**fields, "version": journal.FORMAT + 1})
    self_check_refuses(finished, [newer, *lines_of(finished)[1:]], "written by a newer mml-ray")
    self_check_refuses(finished, [b'{"format":"other","version":99}\n'], "written by a newer mml-ray")


def test_a_run_that_a_newer_version_continued_is_an_error(finished: World) -> None:
    lines = lines_of(finished)
    fields = {**{name: first for name, first in orjson.loads(lines[0]).items() if name not in ("crc", "seq", "op")}, "token": 2}
    continued = journal.encode(len(lines) + 1, "run_opened", {**fields, "version": journal.FORMAT + 1})
    self_check_refuses(finished, [*lines, continued], "written by a newer mml-ray")


def test_an_operation_nobody_knows_is_an_error(finished: World) -> None:
    lines = lines_of(finished)
    self_check_refuses(
        finished, [*lines, journal.encode(len(lines) + 1, "sing", {})], "is 'sing', which this version of mml-ray does not know"
    )


def self_check_refuses(world: World, lines: list[bytes], message: str) -> None:
    """Reading and opening both refuse, nothing is overwritten, and the lease is not kept."""
    data = rewrite(world, lines)
    claims = sorted(path.name for path in (world.run_dir / "claims").iterdir())
    for look in (lambda: read_run(world.run_dir), world.open):
        with pytest.raises(JournalError, match=message):
            look()
    assert (world.run_dir / "journal.jsonl").read_bytes() == data
    assert sorted(path.name for path in (world.run_dir / "claims").iterdir()) == claims or "sing" in message
    [info] = find_runs(world.project)
    assert info.broken and not info.finished


def test_a_hole_in_lines_that_were_not_durable_is_cut_off(tmp_path: Path) -> None:
    """A crash may keep a later write and lose an earlier one: the file then has a hole of NUL bytes."""
    world = World(tmp_path)
    store = world.planned(3)
    done(store, "c0")
    start(store, "c1")  # not made durable
    start(store, "c2")
    lines = lines_of(world)
    hole = [*lines[:-2], b"\0" * len(lines[-2]), lines[-1]]
    rewrite(world, hole)
    state = read_run(world.run_dir)
    assert "c0" in state.commits and "c2" not in state.attempts
    durable = [*lines[:2], b"\0" * (len(lines[2]) - 1) + b"\n", *lines[3:]]
    rewrite(world, durable)
    with pytest.raises(JournalError, match="line 3 is damaged"):
        read_run(world.run_dir)


def test_reading_while_a_line_is_being_written(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.planned(2)
    done(store, "c0")
    data = (world.run_dir / "journal.jsonl").read_bytes()
    for size in range(data.rfind(b"\n", 0, -1) + 1, len(data)):
        rewrite(world, [data[:size]])
        assert set(read_run(world.run_dir).commits) <= {"c0"}
        assert (world.run_dir / "journal.jsonl").read_bytes() == data[:size]


# -- a folder that cannot be written ----------------------------------------------------------------------------------------------------
class ReadOnly(atomic.FileSystem):
    """Refuses whatever would change something, as a file system mounted read-only does."""

    def open(self, path: Path | str, flags: int, mode: int = 0o644) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return super().open(path, flags, mode)

    def mkdir(self, path: Path | str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_read_only_folder(finished: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in finished.run_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr(atomic, "fs", ReadOnly())
    assert read_run(finished.run_dir).finished
    with pytest.raises(StorageError, match="Read-only file system"):
        finished.open()
    with pytest.raises(StorageError, match="Read-only file system"):
        World(finished.base, run="2024-01-03/x").create()
    assert {path: path.read_bytes() for path in finished.run_dir.rglob("*") if path.is_file()} == before


# -- failing appends -------------------------------------------------------------------------------------------------------------------
class Failing(atomic.FileSystem):
    """Fails while ``broken`` is set: ``write`` after half of the data, ``fsync``, or ``truncate`` too."""

    def __init__(self) -> None:
        self.broken: set[str] = set()

    def write(self, descriptor: int, data: bytes) -> int:
        if "write" in self.broken:
            os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if "fsync" in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def truncate(self, path: Path | str | int, size: int) -> None:
        if "truncate" in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(path, size)


@pytest.mark.parametrize("broken", [{"write"}, {"fsync"}, {"write", "truncate"}])
def test_a_failed_commit_does_not_count_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: set[str]
) -> None:
    files = Failing()
    monkeypatch.setattr(atomic, "fs", files)
    world = World(tmp_path)
    store = world.planned(2)
    first, second = start(store, "c0"), start(store, "c1")
    files.broken = broken
    for _ in range(3):
        with pytest.raises(StorageFailure) as caught:
            store.commit([outcome(first)])
        assert store.committed() == {} and caught.value.errno in (errno.ENOSPC, errno.EIO)
    assert isinstance(caught.value, StorageError) and str(world.run_dir) in str(caught.value)
    files.broken = set()
    assert [a["status"] for a in store.commit([outcome(first), outcome(second)])] == ["committed", "committed"]
    assert world.commits() == {"c0": 1, "c1": 1}
    assert RunState.replay(world.journal()).commits.keys() == {"c0", "c1"}


def test_an_interrupt_in_the_middle_of_an_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(atomic.FileSystem):
        def write(self, descriptor: int, data: bytes) -> int:
            os.write(descriptor, data[:10])
            raise KeyboardInterrupt

    world = World(tmp_path)
    store = world.planned(2)
    attempt = start(store, "c0")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic, "fs", Interrupted())
        store.commit([outcome(attempt)])
    assert store.commit([outcome(attempt)])[0]["status"] == "committed"
    assert world.commits() == {"c0": 1}


def test_a_journal_that_an_older_owner_replaced_is_put_back(tmp_path: Path) -> None:
    """Another owner woke up in the middle of its take-over and renamed its copy over the file."""
    world = World(tmp_path)
    store = world.planned(3)
    done(store, "c0")
    stale = world.run_dir / "stale"
    stale.write_bytes(b"".join(lines_of(world)[:2]))
    stale.replace(world.run_dir / "journal.jsonl")
    done(store, "c1")
    assert world.commits() == {"c0": 1, "c1": 1}
    done(store, "c2")
    assert world.commits() == {"c0": 1, "c1": 1, "c2": 1}


# -- speed -----------------------------------------------------------------------------------------------------------------------------
def test_a_journal_of_100_000_lines_is_replayed_in_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    commands = plan(10_000)
    opened = {"run": "r", "manifest": {}, "version": 1, "token": 1, "owner": {}, "roots": {}, "at": 0.0, "adopted": False}
    operations: list[tuple[str, dict[str, Any]]] = [("run_opened", opened), ("plan", {"plan": commands})]
    for number in range(49_999):
        key, attempt = f"c{number % 10_000}", number // 10_000 + 1
        operations.append(
            ("attempt_started", {"command": key, "attempt": attempt, "position": 1, "node": "n", "pid": 1, "at": 0.0})
        )
        if number < 40_000:
            operations.append(
                ("attempt_failed", {"command": key, "attempt": attempt, "reason": "lost", "message": "", "at": 0.0})
            )
        else:
            operations.append(("committed", {"command": key, "attempt": attempt, "at": 0.0, **_commit()}))
    path.write_bytes(b"".join(journal.encode(seq + 1, op, fields) for seq, (op, fields) in enumerate(operations)))
    begun = time.process_time()
    state = RunState.replay(journal.read(path).operations)
    seconds = time.process_time() - begun
    assert len(operations) == 100_000 and len(state.commits) == 9_999
    assert seconds < promised_cpu(2.0)


def _commit() -> dict[str, Any]:
    artifact = {"path": "results:p/PARAMETERS/t/model_0001.bin", "key": "parameters", "size": 1000, "sha256": "0" * 64}
    return {"result": {"score": 0.5}, "artifacts": [artifact], "structs": {}, "models_update": {}, "seconds": 1.0}


def test_nothing_is_appended_once_the_guard_refuses(tmp_path: Path) -> None:
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("another owner")

    path = tmp_path / "journal.jsonl"
    writer, _ = Journal.take_over(path, b"", operations=[("run_opened", {"version": 1})], seq=0, token=1, guard=guard)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="another owner"):
        writer.append([("plan", {})], durable=True)
    assert path.read_bytes() == before
    writer.close()
