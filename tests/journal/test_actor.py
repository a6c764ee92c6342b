"""What the actor does with its stores, and what a client makes of its answers; no Ray is running."""

from __future__ import annotations

import copy
import inspect
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import FencedError, RunLockedError
from mml_ray.journal import actor
from mml_ray.journal.actor import HostedStore
from mml_ray.journal.owner import current_owner
from mml_ray.store.run.client import RunStoreClient
from mml_ray.store.run.protocol import RunStoreProtocol
from mml_ray.store.run.store import RunStore, read_run
from tests.store.world import World, dead_owner, done, outcome, start


class _Near(RunStoreClient):
    """The actor is an object of this process."""

    def __init__(self, host: Any, store: HostedStore) -> None:
        super().__init__(None, store)
        self.host = host

    def _request(self, what: str, *args: Any) -> Any:
        return getattr(self.host, what)(*args)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(actor, "die_with_parent", lambda: None)
    return actor._Host()


def hosted(world: World) -> HostedStore:
    """The run of ``world``, handed over by this process."""
    world.planned(3).hand_over()
    arguments = {"run_dir": str(world.run_dir), "roots": world.roots, "owner": current_owner(), "adopt": True}
    return HostedStore(str(world.run_dir), "mml_ray.store.run.store:RunStore.open", arguments)


# -- the host --------------------------------------------------------------------------------------------------------------------------
def test_one_host_writes_several_runs_and_a_restarted_one_goes_on_with_each(tmp_path: Path, host: Any) -> None:
    worlds = [World(tmp_path, run=f"2024-01-02/03-04-0{number}-000006") for number in (1, 2)]
    one, two = (_Near(host, hosted(world)).open() for world in worlds)
    done(one, "c0", "first")
    done(two, "c0", "second")
    running = start(two, "c1")
    one.host = two.host = actor._Host()  # neither store is open in it
    assert one.result("c0") == "first" and two.result("c0") == "second"
    [answer] = two.commit([outcome(running)])
    assert answer["status"] == "committed", "what ran while the actor was away counts"
    assert [read_run(world.run_dir).token for world in worlds] == [3, 3]


def test_a_store_that_was_closed_is_not_opened_again_by_a_late_worker(tmp_path: Path, host: Any) -> None:
    world, other = World(tmp_path), World(tmp_path, run="2024-01-02/03-04-05-000007")
    client, neighbor = _Near(host, hosted(world)).open(), _Near(host, hosted(other)).open()
    late = start(client, "c0")
    client.close()
    client.close()
    before = (world.run_dir / "journal.jsonl").read_bytes()
    with pytest.raises(RunLockedError, match="was closed"):
        client.commit([outcome(late)])
    assert (world.run_dir / "journal.jsonl").read_bytes() == before
    done(neighbor, "c0")
    world.open().close()  # the lease is released


def test_a_store_that_another_driver_took_over_is_not_opened_again(tmp_path: Path, host: Any) -> None:
    world = World(tmp_path)
    client = _Near(host, hosted(world)).open()
    attempt = start(client, "c0")
    host._stores[client.store.name].close()  # the driver is gone, and another one came
    again = world.open(owner=dead_owner(7))
    with pytest.raises(RunLockedError, match="belongs to process"):
        _Near(actor._Host(), client.store).commit([outcome(attempt)])
    again.close()


def test_errors_of_a_store_reach_the_caller(tmp_path: Path, host: Any) -> None:
    client = _Near(host, hosted(World(tmp_path))).open()
    with pytest.raises(FencedError, match="was never started"):
        client.reserve({"command": "c0", "attempt": 1}, assignment={}, task=None, file=None)


# -- the interface ---------------------------------------------------------------------------------------------------------------------
METHODS = [name for name, value in vars(RunStoreProtocol).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cls", [RunStore, RunStoreClient])
def test_the_store_and_its_client_have_the_methods_of_the_protocol(cls: type, name: str) -> None:
    wanted, found = (inspect.signature(getattr(owner, name), eval_str=True) for owner in (RunStoreProtocol, cls))
    assert found.parameters == wanted.parameters
    assert getattr(cls, name) is not getattr(RunStoreProtocol, name), "the empty one of the protocol"
    assert inspect.getdoc(getattr(RunStoreProtocol, name))


def test_the_protocol_is_complete() -> None:
    extra = {"create", "open", "hand_over"}  # how a plain one comes to be
    public = {name for name, value in inspect.getmembers(RunStore, callable) if not name.startswith("_")}
    assert public - extra == set(METHODS)


def test_a_client_travels_to_a_worker() -> None:
    client = RunStoreClient("handle", HostedStore("run", "module:open", {"a": 1}))
    for travelled in (pickle.loads(pickle.dumps(client)), copy.copy(client)):
        assert travelled.handle == "handle" and travelled.store == client.store and travelled._in_worker
        assert not client._in_worker and type(travelled) is RunStoreClient


# -- reports ---------------------------------------------------------------------------------------------------------------------------
class _Late(RunStoreClient):
    """The actor answers after ``lag`` seconds that every attempt but ``current`` has to stop."""

    def __init__(self) -> None:
        super().__init__(None, HostedStore("run", ""))
        self.current, self.lag = ("a", 1), 0.0
        self.received: list[dict[str, Any]] = []

    def _call_once(self, method: str, args: Sequence[Any]) -> Any:
        attempt, progress = args
        time.sleep(self.lag)
        self.received.append(progress)
        return {"stop": (attempt["command"], attempt["attempt"]) != self.current}


@pytest.mark.parametrize("following", [("b", 1), ("a", 2)])
def test_a_late_answer_is_not_for_the_next_attempt(following: tuple[str, int]) -> None:
    client = _Late()
    client.lag = 0.05
    client.report({"command": "a", "attempt": 1}, {"step": 9})
    client.current = following  # the first one has committed before its last report was answered
    time.sleep(0.2)
    client.lag = 0.0
    attempt = {"command": following[0], "attempt": following[1]}
    for step in range(5):
        assert client.report(attempt, {"step": step}) == {"stop": False}
        time.sleep(0.02)


def test_a_request_to_stop_arrives_with_the_next_report() -> None:
    client = _Late()
    client.current = ("somebody", 1)
    client.report({"command": "a", "attempt": 1}, {})
    time.sleep(0.1)
    assert client.report({"command": "a", "attempt": 1}, {}) == {"stop": True}


def test_no_epoch_is_left_out_however_slow_the_actor_is() -> None:
    client = _Late()
    client.lag = 0.01
    for epoch in range(1, 8):
        client.report({"command": "a", "attempt": 1}, {"step": epoch})
        client.report({"command": "a", "attempt": 1}, {"epoch": epoch, "values": {"loss": 1.0}})
    assert client._pending is not None
    client._pending.result()
    time.sleep(0.05)
    assert sorted(item["epoch"] for item in client.received if "values" in item) == list(range(1, 8))
