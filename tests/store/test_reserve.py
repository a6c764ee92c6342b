"""Names of artifacts follow from the plan, runs that share a project never collide, and nothing of a dead attempt is left."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_ray import atomic, failpoints
from mml_ray.errors import MMLMisconfigurationException, StorageError
from mml_ray.journal.numbering import FileSeries, number_offset
from mml_ray.store.assignments import fill_template
from mml_ray.store.paths import Roots
from mml_ray.store.run.markers import read_marker
from mml_ray.store.run.publish import publish_artifacts
from tests.store.world import MODELS, PARAMETERS, PLAIN, TEMP, Unsynced, World, artifact, dead_owner, outcome, plan, start


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def reserve(store: Any, attempt: dict[str, Any], assignment: dict[str, Any] = PARAMETERS, **names: Any) -> str:
    found: str = store.reserve(attempt, assignment=assignment, **{"task": "t", "file": None, **names})
    return found


# -- pure ------------------------------------------------------------------------------------------------------------------------------
@given(st.integers(1, 40), st.integers(0, 4))
def test_slots_are_distinct_and_start_at_one(commands: int, rounds: int) -> None:
    slots = [number_offset(position, repetition, commands) for position in range(commands) for repetition in range(rounds + 1)]
    assert sorted(slots) == list(range(1, commands * (rounds + 1) + 1))
    assert all(number_offset(position, 0, commands) == position for position in range(1, commands))


def test_only_names_of_the_series_count(tmp_path: Path) -> None:
    place = FileSeries(tmp_path, "fold_1", ".json")
    names = [
        "fold_1_0003.json",
        "fold_10_0009.json",
        "fold_1_0007.yaml",
        "fold_1_x.json",
        "fold_1_12345.json",
        ".fold_1_99999.json",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert place.highest() == 12345 and place.numbered(7).name == "fold_1_0007.json"
    assert place.highest(ignore=lambda path: "12345" in path.name) == 3


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\0b", None])
def test_names_that_are_no_single_path_part_are_refused(tmp_path: Path, name: str | None) -> None:
    roots = {"PROJ_PATH": tmp_path, "TEMP_PATH": tmp_path}
    with pytest.raises(MMLMisconfigurationException):
        fill_template("PROJ_PATH/X/TASK_NAME/FILE_NAME", roots=roots, task="t", file=name)
    with pytest.raises(MMLMisconfigurationException):
        fill_template("PROJ_PATH/X/TASK_NAME/FILE_NAME", roots=roots, task=name, file="f.txt")
    tagged = fill_template("PROJ_PATH/X/TASK_NAME/FILE_NAME", roots=roots, task="digits+nested?2", file="f.tar.gz")
    assert tagged.numbered(3) == tmp_path / "X" / "digits+nested?2" / "f.tar_0003.gz"


def test_stored_paths_move_with_their_roots(tmp_path: Path) -> None:
    world = World(tmp_path)
    roots = Roots.of(world.roots, world.run_dir)
    moved = Roots.of(World(tmp_path / "elsewhere").roots, tmp_path / "elsewhere/results/proj/runs/d/t")
    for path in (world.project / "MODELS/t/a.json", world.run_dir / "TEMP/x", world.data / "RAW/a b.png", world.results):
        stored = roots.stored(path)
        assert roots.absolute(stored) == path
        assert moved.absolute(stored) == tmp_path / "elsewhere" / path.relative_to(tmp_path)
    assert roots.stored("/etc/hosts") == "file:/etc/hosts" and roots.absolute("file:/etc/hosts") == Path("/etc/hosts")
    link = tmp_path / "link"
    link.symlink_to(world.results)
    assert roots.stored(link / "proj/x") == "results:proj/x"
    for wrong in ("results:../x", "results:/x", "x/y", "other:x", "file:x", ""):
        with pytest.raises(MMLMisconfigurationException, match="not a stored path"):
            roots.absolute(wrong)
    outside = Roots.of(world.roots, tmp_path / "run")
    assert outside.stored(tmp_path / "run/TEMP/x") == "run:TEMP/x"


# -- deterministic ---------------------------------------------------------------------------------------------------------------------
def names_of(base: Path, order: tuple[tuple[str, int], ...], earlier: int) -> dict[tuple[str, int], str]:
    """Reserve for each command the given number of times, in that order; returns the names."""
    world = World(base)
    if earlier:
        (world.project / "PARAMETERS/t").mkdir(parents=True)
        (world.project / f"PARAMETERS/t/model_{earlier:04d}.bin").touch()
    store = world.planned(5)
    attempts = {f"c{number}": start(store, f"c{number}") for number in range(5)}
    found = {}
    for key, repetition in order:
        found[key, repetition] = reserve(store, attempts[key])
    store.close()
    return found


@pytest.mark.parametrize("earlier", [0, 41])
def test_names_do_not_depend_on_the_order_of_the_reservations(tmp_path: Path, earlier: int) -> None:
    wanted = [(f"c{number}", repetition) for number in range(5) for repetition in range(2)]
    orders = [
        tuple(wanted),
        tuple(sorted(wanted, key=lambda item: (item[1], item[0]))),
        tuple(sorted(wanted, key=lambda i: (i[1], -int(i[0][1])))),
    ]
    found = [names_of(tmp_path / str(index), order, earlier) for index, order in enumerate(orders)]
    assert found[0] == found[1] == found[2]
    assert found[0]["c1", 0] == f"results:proj/PARAMETERS/t/model_{earlier + 1:04d}.bin"
    assert len(set(found[0].values())) == 10


def test_a_retry_gets_the_name_of_the_attempt_before_it(world: World) -> None:
    store = world.planned(4)
    first = start(store, "c2")
    path = artifact(store, first, b"half")
    others = reserve(store, start(store, "c3"))
    store.fail([{**first, "reason": "lost", "message": ""}])
    assert path.exists(), "kept until the next attempt starts"
    second = start(store, "c2")
    assert not path.exists()
    assert artifact(store, second, b"whole") == path and others.endswith("model_0003.bin")


def test_a_reservation_whose_answer_was_lost_can_be_repeated(world: World) -> None:
    """The store was restarted between writing the reservation down and answering: the caller says how many paths it has."""
    store = world.planned(2)
    attempt = start(store, "c1")
    first = reserve(store, {**attempt, "reserved": 0})
    lost = reserve(store, {**attempt, "reserved": 1})
    again = world.open(owner=dict(store._lease.owner), adopt=True)
    assert reserve(again, {**attempt, "reserved": 1}) == lost != first
    assert reserve(again, {**attempt, "reserved": 2}) not in (first, lost)
    again.close()


def test_another_task_or_file_is_another_series(world: World) -> None:
    store = world.planned(3)
    attempt = start(store, "c2")
    assert reserve(store, attempt, task="a").endswith("a/model_0002.bin")
    assert reserve(store, attempt, task="b").endswith("b/model_0002.bin")
    assert reserve(store, attempt, MODELS, file="fold_1.json").endswith("t/fold_1_0002.json")
    assert reserve(store, attempt, MODELS, file="fold_10.json").endswith("t/fold_10_0002.json")
    assert reserve(store, attempt, TEMP, file="x.txt") == "results:proj/runs/2024-01-02/03-04-05-000006/TEMP/x_0002.txt"
    assert reserve(store, attempt, task="a").endswith("a/model_0005.bin"), "the second one adds the number of commands"


def test_a_reserved_file_says_whose_it_is(world: World) -> None:
    store = world.planned(2)
    path = store.roots.absolute(reserve(store, start(store, "c1")))
    assert read_marker(path) == {"run": store.state.run, "command": "c1", "attempt": 1}
    path.write_bytes(b"x")
    assert read_marker(path) is None and read_marker(path.with_name("none")) is None


# -- runs that share a project ---------------------------------------------------------------------------------------------------------
def test_two_runs_share_a_project(tmp_path: Path) -> None:
    one, other = World(tmp_path), World(tmp_path, run="2024-01-02/other")
    stores = [world.planned(6) for world in (one, other)]
    paths = []
    for number in (3, 1, 5, 2, 4):
        for store in stores:
            attempt = start(store, f"c{number}")
            path = artifact(store, attempt, store.state.run.encode())
            assert store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])[0]["status"] == "committed"
            paths.append(path)
    assert len(set(paths)) == 10
    for store in stores:
        mine = [path for path in paths if path.read_text() == store.state.run]
        assert len(mine) == 5
        store.close()


@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), unique=True, min_size=1), data=st.data())
def test_runs_never_get_the_same_name(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[int, int]], data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("shared")
    stores = [World(base, run=f"d/{number}").planned(4) for number in range(2)]
    held: dict[str, int] = {}
    for run, command in order:
        attempt = start(stores[run], f"c{command}")
        for _ in range(data.draw(st.integers(1, 3))):
            path = reserve(stores[run], attempt)
            assert path not in held
            held[path] = run
    for store in stores:
        store.close()


def test_foreign_files_that_take_every_number_end_in_a_clear_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_ray.store.run import reserving

    store = world.planned(1)
    attempt = start(store, "c0")
    monkeypatch.setattr(reserving, "occupy", lambda *args: "foreign")
    with pytest.raises(StorageError, match="No free number"):
        reserve(store, attempt)


def test_files_without_hard_links(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    class NoLinks(atomic.FileSystem):
        def link(self, source: Path | str, target: Path | str) -> None:
            raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(atomic, "fs", NoLinks())
    store = world.planned(3)
    first, second = reserve(store, start(store, "c1")), reserve(store, start(store, "c2"))
    assert (first[-15:], second[-15:]) == ("/model_0001.bin", "/model_0002.bin")
    assert [path.name for path in (world.project / "PARAMETERS/t").iterdir() if path.name.startswith(".")] == []
    store.close()
    world.open().close()


# -- what dead attempts leave behind -----------------------------------------------------------------------------------------------------
def test_continuing_removes_what_did_not_commit_and_nothing_else(world: World) -> None:
    (world.project / "TABLES").mkdir(parents=True)
    (world.project / "TABLES/table.txt").write_text("from before")
    (world.project / "TABLES/foreign.txt").write_text("of somebody else")
    store = world.planned(4, owner=dead_owner(1))
    committed, dead = start(store, "c1"), start(store, "c2")
    kept = artifact(store, committed, b"kept")
    plain = artifact(store, committed, b"plain", {**PLAIN, "template": "PROJ_PATH/TABLES/mine.txt"})
    store.commit([outcome(committed, artifacts=publish_artifacts([kept, plain]))])
    gone = [artifact(store, dead, b"gone"), store.roots.absolute(reserve(store, dead, MODELS, file="fold_0.json"))]
    gone.append(artifact(store, dead, b"gone", {**PLAIN, "template": "PROJ_PATH/TABLES/new.txt"}))
    overwritten = artifact(store, dead, b"overwritten", PLAIN)
    same = artifact(store, dead, b"again", {**PLAIN, "template": "PROJ_PATH/TABLES/mine.txt"})
    again = world.open()
    assert [path.exists() for path in gone] == [False] * 3
    assert kept.exists() and same == plain and plain.exists()
    assert overwritten.exists(), "it was there before the attempt"
    assert (world.project / "TABLES/foreign.txt").exists()
    assert artifact(again, start(again, "c2"), b"anew") == gone[0]
    again.close()


def test_a_name_that_somebody_else_took_meanwhile_is_not_removed(tmp_path: Path) -> None:
    """Killed after the journal said that the file goes and it was gone; another run then got the name."""
    world, other = World(tmp_path), World(tmp_path, run="2024-01-02/other")
    store = world.planned(2, owner=dead_owner(1))
    attempt = start(store, "c1")
    path = artifact(store, attempt, b"mine")
    with failpoints.armed("clean.after_unlink=raise"), pytest.raises(failpoints.FailpointError):
        start(store, "c1")
    assert not path.exists()
    second = other.planned(2)
    reference = start(second, "c1")
    assert artifact(second, reference, b"theirs") == path
    world.open().close()
    assert path.read_bytes() == b"theirs"


def test_a_name_of_a_dead_run_is_still_its_own(tmp_path: Path) -> None:
    world, other = World(tmp_path), World(tmp_path, run="2024-01-02/other")
    store = world.planned(2, owner=dead_owner(1))
    path = artifact(store, start(store, "c1"), b"mine")
    second = other.planned(2)
    assert artifact(second, start(second, "c1"), b"theirs").name == "model_0002.bin"
    world.open().close()
    assert not path.exists()


def test_killed_between_reserving_and_journaling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there, the journal does not know: the next attempt finds its own run's marker and takes the name."""
    monkeypatch.setattr(atomic, "fs", Unsynced())
    for place in ("marker.before_link", "reserve.after_create"):
        world.run_dir = world.project / "runs" / "d" / place
        store = world.planned(4, owner=dead_owner(1))
        with failpoints.armed(f"{place}=raise"), pytest.raises(failpoints.FailpointError):
            reserve(store, start(store, "c3"), task=place)
        again = world.open()
        assert reserve(again, start(again, "c2"), task=place).endswith("model_0002.bin")
        assert reserve(again, start(again, "c3"), task=place).endswith("model_0003.bin")
        again.close()


def test_repeating_a_committed_command_does_not_move_the_numbers(world: World) -> None:
    """The preparation runs at every start; what it reserves then must not change the names of the commands that follow."""
    store = world.planned(3, owner=dead_owner(1))
    attempt = start(store, "c0")
    path = artifact(store, attempt, b"first")
    store.commit([outcome(attempt, artifacts=publish_artifacts([path]))])
    store = world.open(owner=dead_owner(2))
    repeated = start(store, "c0")
    second = artifact(store, repeated, b"again")
    store.fail([{**repeated, "reason": "repeated", "message": ""}])
    assert second != path
    assert reserve(store, start(store, "c1")).endswith("model_0001.bin")
    store = world.open()
    assert not second.exists() and path.exists()
    store.close()


# -- the end ---------------------------------------------------------------------------------------------------------------------------
def test_finishing_removes_enabled_keys_temp_and_checkpoints_of_this_run_only(tmp_path: Path) -> None:
    world, other = World(tmp_path), World(tmp_path, run="2024-01-02/other")
    paths: dict[str, list[Path]] = {}
    for name, here in (("mine", world), ("theirs", other)):
        store = here.planned(1)
        attempt = start(store, "c0")
        wanted = ((PARAMETERS, None), (MODELS, "a.json"), (TEMP, "x.txt"))
        paths[name] = [artifact(store, attempt, b"w", assignment, file=file, task=name) for assignment, file in wanted]
        (here.run_dir / "CHECKPOINTS/c0").mkdir(parents=True)
        (here.run_dir / "CHECKPOINTS/c0/last.ckpt").write_bytes(b"c")
        store.commit([outcome(attempt, artifacts=publish_artifacts(paths[name]))])
        if name == "mine":
            paths["mine"][0].unlink()  # removed by hand: fine
        remove = {"parameters": True, "models": False, "ensemble": True}
        summary = store.finish("finished" if name == "mine" else "failed", remove=remove)
        assert summary["unused"] == (["ensemble"] if name == "mine" else [])
        store.close()
    assert [path.exists() for path in paths["mine"]] == [False, True, False]
    assert [path.exists() for path in paths["theirs"]] == [True, True, True], "nothing is removed if the run fails"
    assert not (world.run_dir / "TEMP").exists() and not (world.run_dir / "CHECKPOINTS").exists()
    assert (other.run_dir / "CHECKPOINTS/c0/last.ckpt").exists()
    from mml_ray.store.run.store import verify

    assert verify(world.run_dir) == [] == verify(other.run_dir)


def test_temporary_files_of_killed_owners_are_swept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.planned(2, owner=dead_owner(1))
    (world.run_dir / ".plan.0123456789ab.tmp.json").write_text("{")
    (world.run_dir / ".journal.1.tmp.jsonl").write_text("{")
    folder = store.roots.absolute(reserve(store, start(store, "c1"))).parent
    (folder / f".model_0009.bin.{store.state.run[:12]}.tmp").write_text("{")
    (folder / ".of_somebody_else.tmp").write_text("{")
    world.open().close()
    assert sorted(p.name for p in itertools.chain(world.run_dir.rglob(".*"), folder.iterdir()) if p.name.startswith(".")) == [
        ".of_somebody_else.tmp"
    ]


def test_extending_gives_no_number_twice(world: World) -> None:
    store = world.planned(2)
    taken = [artifact(store, start(store, f"c{number}"), b"w") for number in range(2)]
    store.set_plan(plan(6), extend=True)
    taken += [artifact(store, start(store, f"c{number}"), b"w") for number in range(2, 6)]
    assert len(set(taken)) == 6
