"""Who may write a run: races, dead owners, owners on other machines, and owners that wake up late."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import FencedError, JournalError, MMLError, RunLockedError
from mml_ray.journal import owner
from mml_ray.journal.lease import Lease, current_holder
from mml_ray.journal.owner import Heartbeat, current_owner, living, process_start, read_heartbeat
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.state import RunState
from tests.patience import GUARD, promised
from tests.store.world import World, dead_owner, done, outcome, plan, start

FORK = multiprocessing.get_context("fork")


def test_a_live_owner_keeps_the_run_and_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.planned(1)
    with pytest.raises(RunLockedError, match=rf"process {os.getpid()} on .*, since 20\d\d-.*which is alive"):
        world.open()
    done(store, "c0")  # the refusal changed nothing
    store.close()
    world.open().close()


def test_closing_gives_the_run_free_although_the_process_lives(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.planned(1)
    assert store.token == 1
    store.close()
    store.close()
    again = world.open()
    assert again.token == 2
    with pytest.raises(MMLError, match="closed"):
        store.start([{"command": "c0", "position": 0, "node": "", "pid": 0}])
    again.close()


def test_a_dead_owner_is_replaced_without_any_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    code = (
        "from pathlib import Path; from tests.store.world import World, done; import os, sys\n"
        f"store = World(Path({str(tmp_path)!r})).planned(2); done(store, 'c0'); print('ready', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        with pytest.raises(RunLockedError, match=f"process {child.pid} on"):
            world.open()
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(RunLockedError, match=f"process {child.pid} on"):
            world.open()
        child.kill()
        while process_start(child.pid) is not None:  # it stays a zombie until it is waited for, which counts as dead
            time.sleep(0.01)
        begun = time.monotonic()
        store = world.open()
        assert time.monotonic() - begun < promised(2) and store.committed().keys() == {"c0"}
        store.close()


def test_a_process_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    world = World(tmp_path)
    reused = {**current_owner(), "start_time": "ticks:1"}
    world.planned(1, owner=reused)
    world.open().close()
    assert not living({tmp_path / "none": reused})
    assert living({tmp_path / "none": current_owner()}) == {tmp_path / "none"}


def test_the_start_of_this_process_does_not_change() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) is not None
    assert process_start(2**22 + 1) is None


# -- another machine -------------------------------------------------------------------------------------------------------------------
ELSEWHERE: dict[str, Any] = {"host": "far", "machine": "other-boot/pid:[1]", "pid": 17, "start_time": "ticks:3"}


def test_an_owner_elsewhere_lives_while_it_beats(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.planned(1, owner=ELSEWHERE)
    paths = RunPaths(world.run_dir)
    beat = Heartbeat(paths.heartbeat, ELSEWHERE, still_mine=lambda: True, interval=0.05)
    beat.start()
    with pytest.raises(RunLockedError, match="process 17 on far"):
        world.open(timeout=10.0)
    beat.close()
    begun = time.monotonic()
    store = world.open(timeout=0.5)
    assert 0.4 < time.monotonic() - begun < promised(5)
    store.close()


def test_only_the_readers_monotonic_clock_and_the_owners_own_beats_count(tmp_path: Path) -> None:
    file, now = tmp_path / "beat", [0.0]
    other = {**ELSEWHERE, "pid": 99}

    def sleep(seconds: float) -> None:
        now[0] += seconds
        Heartbeat(file, other, still_mine=lambda: True)._beat()  # somebody else beats into the same file

    assert not living({file: ELSEWHERE}, timeout=30.0, clock=lambda: now[0], sleep=sleep)
    assert 30.0 <= now[0] < 32.0
    assert read_heartbeat(file, ELSEWHERE) is None and read_heartbeat(file, other) is not None


def test_beats_are_of_one_width_and_stop_when_the_run_is_somebody_elses(tmp_path: Path) -> None:
    file, mine = tmp_path / "beat", [True]
    beat = Heartbeat(file, current_owner(), still_mine=lambda: mine[0], interval=0.01)
    beat.start()
    sizes = set()
    for _ in range(20):
        sizes.add(file.stat().st_size)
        time.sleep(0.005)
    assert len(sizes) == 1
    mine[0] = False
    beat._thread.join(GUARD)
    assert not beat._thread.is_alive()
    last = read_heartbeat(file, current_owner())
    time.sleep(0.05)
    assert read_heartbeat(file, current_owner()) == last
    beat.close()


def test_a_store_beats_while_it_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner.Heartbeat.__init__, "__kwdefaults__", {"interval": 0.02})
    world = World(tmp_path)
    store = world.planned(1, heartbeat=True)
    paths = RunPaths(world.run_dir)
    first = read_heartbeat(paths.heartbeat, current_owner())
    deadline = time.monotonic() + promised(5)
    while read_heartbeat(paths.heartbeat, current_owner()) == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert first is not None and read_heartbeat(paths.heartbeat, current_owner()) != first
    store.close()


# -- races -----------------------------------------------------------------------------------------------------------------------------
def _claim_often(base: Path, number: int, go: Any, results: Any) -> None:
    """Take the run again and again; each time alone, or refused."""
    world = World(base)
    won: list[int] = []
    go.wait()
    while len(won) < 8:
        try:
            store = world.open()
        except RunLockedError:
            time.sleep(0.001)
            continue
        held = (world.run_dir / "held").open("x")  # fails if another one is in here as well
        store.commit([outcome(start(store, f"c{number * 8 + len(won)}"), result=store.token)])
        won.append(store.token)
        held.close()
        (world.run_dir / "held").unlink()
        store.close()
    results.put(won)


def test_ten_processes_take_the_run_from_one_another(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.create()
    store.set_plan(plan(80))
    store.close()
    go, results = FORK.Event(), FORK.Queue()
    processes = [FORK.Process(target=_claim_often, args=(tmp_path, number, go, results)) for number in range(10)]
    for process in processes:
        process.start()
    go.set()
    tokens = [token for _ in processes for token in results.get(timeout=GUARD)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 10
    assert len(tokens) == len(set(tokens)) == 80
    assert len(world.commits()) == 80 and set(world.commits().values()) == {1}


def _claim_once(base: Path, go: Any, end: Any, results: Any) -> None:
    paths = RunPaths(base)
    go.wait()
    try:
        lease, _ = Lease.acquire(paths, current_owner())
        results.put(lease.token)
    except RunLockedError:
        results.put(None)
    end.wait()  # alive while the others try


def test_of_those_that_find_the_same_dead_owner_one_wins(tmp_path: Path) -> None:
    for round_ in range(5):
        base = tmp_path / str(round_)
        base.mkdir()
        Lease.acquire(RunPaths(base), dead_owner(1))
        go, end, results = FORK.Event(), FORK.Event(), FORK.Queue()
        processes = [FORK.Process(target=_claim_once, args=(base, go, end, results)) for _ in range(10)]
        for process in processes:
            process.start()
        go.set()
        won = Counter(results.get(timeout=GUARD) for _ in processes)
        end.set()
        for process in processes:
            process.join()
        assert won[None] == 9 and len(won) == 2


def test_two_creators_of_one_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.planned(1)
    with pytest.raises(MMLError, match="already holds a run"):
        world.create()


# -- owners that wake up late ----------------------------------------------------------------------------------------------------------
def test_a_writer_that_was_replaced_is_refused_and_its_line_is_not_there(tmp_path: Path) -> None:
    """As after SIGSTOP: the older store knows nothing of the new one."""
    world = World(tmp_path)
    old = world.planned(3, owner=dead_owner(1))
    done(old, "c0")
    late = start(old, "c1")
    new = world.open(owner=dead_owner(2))
    for late_call in (
        lambda: old.commit([outcome(late)]),
        lambda: start(old, "c2"),
        lambda: old.fail([{**late, "reason": "x", "message": ""}]),
        lambda: old.finish("failed", remove={}),
        lambda: old.task_state("t"),
        lambda: old.results("step"),
        lambda: old.committed(),
    ):
        with pytest.raises(FencedError, match=r"was taken over by process .* \(token 1\) can no longer write to it"):
            late_call()
    assert old.report(late, {})["stop"]
    [answer] = new.commit([outcome(late)])
    assert answer["status"] == "refused" and "lost" in answer["reason"]
    done(new, "c1")
    assert world.commits() == {"c0": 1, "c1": 1}
    old.close()
    assert current_holder(RunPaths(world.run_dir))[0] == 2, "closing the old one does not give the run of the new one free"
    done(new, "c2")


def test_stopped_between_the_check_and_the_write(tmp_path: Path) -> None:
    """The check had passed when the process was stopped: what it then writes goes to a file that nobody reads, and is not
    acknowledged.
    """
    world = World(tmp_path)
    old = world.planned(3, owner=dead_owner(1))
    late = start(old, "c0")
    taken: list[Any] = []
    check, calls = old._lease.check, []

    def stopped_after_the_check() -> None:
        calls.append(1)
        check()
        if len(calls) == 1:
            taken.append(world.open(owner=dead_owner(2)))
            done(taken[0], "c0", "by the new owner")

    old._journal._guard = stopped_after_the_check
    with pytest.raises(FencedError):
        old.commit([outcome(late, result="by the old owner")])
    assert world.commits() == {"c0": 1} and taken[0].result("c0") == "by the new owner"
    done(taken[0], "c1")
    assert world.commits() == {"c0": 1, "c1": 1}


def test_taken_over_while_the_write_is_under_way(tmp_path: Path) -> None:
    """The line was durable before the other one came: it counts there, although the old owner cannot acknowledge it."""
    world = World(tmp_path)
    old = world.planned(2, owner=dead_owner(1))
    late = start(old, "c0")
    check, calls, taken = old._lease.check, [], []

    def taken_after_the_write() -> None:
        calls.append(1)
        if len(calls) == 2:
            taken.append(world.open(owner=dead_owner(2)))
        check()

    old._journal._guard = taken_after_the_write
    with pytest.raises(FencedError):
        old.commit([outcome(late, result=1)])
    assert taken[0].result("c0") == 1 and world.commits() == {"c0": 1}


def test_an_older_claimer_that_writes_its_lease_late_does_not_lower_the_token(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    old, _ = Lease.acquire(paths, dead_owner(1))
    new, _ = Lease.acquire(paths, dead_owner(2))
    old._write(old.owner)  # it had claimed token 1, and was stopped before it wrote the lease
    assert json.loads(paths.lease.read_text())["token"] == 1
    assert current_holder(paths)[0] == 2
    new.check()
    assert json.loads(paths.lease.read_text())["token"] == 2
    with pytest.raises(FencedError):
        old.check()


def test_a_taker_that_was_itself_replaced_does_not_replace_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.planned(2, owner=dead_owner(1))
    replay = RunState.replay
    taken: list[Any] = []

    def stopped_in_between(operations: Any, **more: Any) -> Any:
        monkeypatch.undo()
        taken.append(world.open(owner=dead_owner(3)))
        done(taken[0], "c0")
        return replay(operations, **more)

    monkeypatch.setattr(RunState, "replay", stopped_in_between)
    with pytest.raises(FencedError):
        world.open(owner=dead_owner(2))
    assert world.commits() == {"c0": 1}
    done(taken[0], "c1")


def test_a_claimer_that_died_before_it_wrote_the_lease(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.planned(1, owner=dead_owner(1))
    (world.run_dir / "claims" / "2").write_text(json.dumps(dead_owner(2)))
    store = world.open()
    assert store.token == 3
    store.close()
    (world.run_dir / "claims" / "4").write_text(json.dumps(current_owner()))
    with pytest.raises(RunLockedError):
        world.open()


def test_a_damaged_lease_is_a_clear_error(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.planned(1, owner=dead_owner(1))
    (world.run_dir / "lease.json").write_text('{"token": ')
    with pytest.raises(JournalError, match=r"lease\.json is damaged"):
        world.open()
    (world.run_dir / "lease.json").unlink()
    store = world.open()
    assert store.token == 2
    store.close()


# -- incarnations of one owner -----------------------------------------------------------------------------------------------------------
def test_a_further_incarnation_goes_on_where_the_first_was(tmp_path: Path) -> None:
    """The actor restarts: running attempts may still commit, dead ones are cleaned up."""
    world = World(tmp_path)
    driver = world.planned(3, heartbeat=True)
    driver.hand_over()
    with pytest.raises(MMLError, match="handed over"):
        start(driver, "c0")
    actor = world.open(owner=current_owner(), adopt=True)
    running, dead = start(actor, "c0"), start(actor, "c1")
    actor.fail([{**dead, "reason": "lost", "message": ""}])
    again = world.open(owner=current_owner(), adopt=True)
    assert [store.token for store in (driver, actor, again)] == [1, 2, 3]
    with pytest.raises(FencedError):
        actor.commit([outcome(running)])
    assert again.commit([outcome(running)])[0]["status"] == "committed"
    assert again.commit([outcome(dead)])[0]["status"] == "refused"
    driver.close()
    assert current_holder(RunPaths(world.run_dir)) == (3, None)


def test_adopting_the_run_of_another_live_process_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.planned(1)
    with pytest.raises(RunLockedError):
        world.open(owner=dead_owner(1), adopt=True)


def test_the_run_of_another_driver_is_not_adopted_and_opening_it_loses_its_attempts(tmp_path: Path) -> None:
    world = World(tmp_path)
    old = world.planned(1, owner=dead_owner(1))
    attempt = start(old, "c0")
    with pytest.raises(RunLockedError, match="belongs to"):
        world.open(adopt=True)
    store = world.open()
    assert store.commit([outcome(attempt)])[0]["status"] == "refused"
    store.close()
