"""Looking at runs: lists, states and checks that never write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mml_ray.journal.lease import current_holder
from mml_ray.journal.log import encode
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.inspection import find_runs, read_run, verify
from mml_ray.store.run.publish import publish_artifacts
from tests.store.world import World, artifact, done, outcome, start


def one_run(base: Path, run: str, *, opened: float, finish: bool = False) -> World:
    """A run of two commands, the first of which has an artifact; ``opened`` is when its journal says it was opened."""
    world = World(base, run=run)
    store = world.planned(2)
    attempt = start(store, "c0")
    path = artifact(store, attempt, run.encode())
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    if finish:
        done(store, "c1")
        store.finish("finished", remove={})
    store.close()
    file = world.run_dir / "journal.jsonl"
    first, *rest = file.read_bytes().splitlines(keepends=True)
    fields = {**world.journal()[0], "at": opened}
    for name in ("crc", "seq", "op"):
        del fields[name]
    file.write_bytes(encode(1, "run_opened", fields) + b"".join(rest))
    return world


def test_runs_are_listed_by_what_their_journals_say(tmp_path: Path) -> None:
    worlds = [
        one_run(tmp_path, "2024-01-03/x", opened=300.0, finish=True),
        one_run(tmp_path, "2024-01-01/x", opened=500.0),
        one_run(tmp_path, "2024-01-02/x", opened=400.0),
    ]
    for world in worlds:  # copied, synchronised, touched: the times of the files say nothing
        os.utime(world.run_dir / "journal.jsonl", (1, 1))
    damaged = worlds[2].run_dir / "journal.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b'"op":"plan"', b'"op":"plum"'))
    (tmp_path / "results/proj/runs/2024-01-09/never-began").mkdir(parents=True)
    (tmp_path / "results/proj/hpo/study/trials/0").mkdir(parents=True)
    (tmp_path / "results/proj/runs/notes.txt").touch()
    infos = find_runs(tmp_path / "results/proj")
    assert [info.path.parent.name for info in infos[:3]] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert [(bool(info.broken), info.finished) for info in infos] == [
        (False, False),
        (True, False),
        (False, True),
        (True, False),
        (True, False),
    ]
    assert "line 2 is damaged" in infos[1].broken and "no journal" in infos[3].broken
    assert find_runs(tmp_path / "nothing") == []


def test_who_owns_a_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.planned(1)
    token, owner = current_holder(RunPaths(world.run_dir))
    assert token == 1 and owner is not None and owner["pid"] == os.getpid()
    store.close()
    assert current_holder(RunPaths(world.run_dir)) == (1, None)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    world = one_run(tmp_path, "2024-01-01/x", opened=1.0)
    file = world.run_dir / "journal.jsonl"
    file.write_bytes(file.read_bytes() + b'{"crc":"torn')
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    read_run(world.run_dir)
    find_runs(world.project)
    verify(world.run_dir)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_results_that_were_moved_are_verified_where_they_are(tmp_path: Path) -> None:
    world = one_run(tmp_path / "before", "2024-01-01/x", opened=1.0, finish=True)
    moved = tmp_path / "after"
    moved.mkdir()
    shutil.move(world.results, moved / "results")
    run_dir = moved / "results" / world.run_dir.relative_to(world.results)
    assert verify(run_dir) == []
    [path] = (moved / "results/proj/PARAMETERS/t").iterdir()
    path.write_bytes(b"other")
    [problem] = verify(run_dir)
    assert problem.startswith(str(path)) and "committed it (5 bytes now, 12 then)" in problem
    again = World(moved)
    again.run_dir = run_dir
    store = again.open()
    assert store.task_state("t")["models"] == [] and store.roots.results == moved / "results"
    store.close()
