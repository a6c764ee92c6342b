"""A process killed at any failpoint of the store, at any of its hits: the run continues to the very same end."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mml_ray import atomic, failpoints
from tests.store.world import Unsynced, World, drive, exhaust, final_state, in_child

STORE = sorted(name for name in failpoints.FAILPOINTS if name.split(".")[0] not in ("driver", "worker"))
#: places that the plan of the test reaches only in a run that is continued
LATER = {"open.after_lease", "open.after_replay"}


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "fs", Unsynced())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = World(tmp_path_factory.mktemp("undisturbed"))
    exhaust(drive(world))
    return final_state(world)


def test_the_undisturbed_run_is_what_it_should_be(undisturbed: dict[str, Any]) -> None:
    assert sorted(undisturbed["files"]) == [
        "proj/MODELS/t/fold_0_0001.json",
        "proj/MODELS/t/fold_1_0002.json",
        "proj/PARAMETERS/t/model_0001.bin",
        "proj/PARAMETERS/t/model_0002.bin",
    ]
    assert undisturbed["left"] == ["journal.jsonl", "lease.json", "plan.json"]
    assert undisturbed["status"] == "finished"


@pytest.mark.parametrize("name", STORE)
def test_killed_at_a_failpoint(name: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    fired = 0
    for hit in range(1, 400):
        world = World(tmp_path / str(hit))
        if name in LATER:
            next(drive(world))  # a first driver that is gone after it has planned
            _abandon(world)
        if in_child(partial(_armed_run, world, name, hit)) == 0:
            break
        fired += 1
        assert in_child(partial(_finish, world)) == 0
        assert final_state(world) == undisturbed, f"killed at hit {hit}"
        assert set(world.commits().values()) == {1}
    assert fired >= 1, "the plan never reaches this failpoint"


def _finish(world: World) -> None:
    exhaust(drive(world))


def _armed_run(world: World, name: str, hit: int) -> None:
    failpoints.arm(f"{name}=kill@{hit}")
    exhaust(drive(world))


def _abandon(world: World) -> None:
    """The lease of the first driver looks like that of a process that is gone."""
    for path in (world.run_dir / "lease.json", world.run_dir / "claims" / "1"):
        path.write_text(path.read_text().replace("ticks:", "ticks:-"))


def test_killed_again_and_again(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Every incarnation dies at the n-th of all failpoints, n rising until one gets through."""
    world, n = World(tmp_path), 1
    while in_child(partial(_die_at, world, n)) != 0:
        n += 1
    assert n > 20
    assert final_state(world) == undisturbed
    assert set(world.commits().values()) == {1}


def _die_at(world: World, n: int) -> None:
    """Kills this process when the n-th failpoint is reached, whatever its name."""
    import os
    import signal

    from mml_ray.journal import folder, lease, opening
    from mml_ray.journal import log as journal
    from mml_ray.store.run import cleaning, markers, model_updates, publish
    from mml_ray.store.run import store as run

    count = 0

    def reached(name: str) -> None:
        nonlocal count
        count += 1
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (cleaning, folder, journal, lease, markers, model_updates, opening, publish, run):
        vars(module)["failpoint"] = reached
    exhaust(drive(world))


def test_the_list_of_failpoints_is_that_of_the_source() -> None:
    root = Path(failpoints.__file__).parent
    sources = [*root.rglob("*.py"), *(root.parent / "schedulers").glob("*.py")]
    used = Counter(name for path in sources for name in re.findall(r"[^`]failpoint\(\s*\"([a-z_.]+)\"", path.read_text()))
    assert set(used) == failpoints.FAILPOINTS
    assert len(STORE) >= 25
