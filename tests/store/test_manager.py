"""The file manager: paths for the running command, what is reused, and how it travels to workers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import FencedError, MMLMisconfigurationException
from mml_ray.store import assignments
from mml_ray.store.artifacts import ModelStorage
from mml_ray.store.manager import MMLFileManager
from tests.store.world import World, dead_owner, outcome, plan, start


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = set(assignments.assignments())
    yield
    MMLFileManager.clear_instance()
    for key in set(assignments.assignments()) - before:
        assignments.remove(key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def manager_of(world: World, **more: Any) -> MMLFileManager:
    return MMLFileManager(data_path=world.data, proj_path=world.project, results_path=world.results, **more)


def bound(manager: MMLFileManager) -> dict[str, Any]:
    """The attempt it is bound to."""
    assert manager.attempt is not None
    return manager.attempt


def train(world: World, *tasks: str, commit: bool = True, numbers: int = 0) -> list[ModelStorage]:
    """A run that trains one model for each task; returns the storages."""
    store = world.create()
    store.set_plan(plan(len(tasks) + 1 + numbers))
    manager = manager_of(world, backend=store)
    manager.attach(store, run_dir=world.run_dir)
    models = []
    for number, task in enumerate(tasks, start=1 + numbers):
        manager.bind(start(store, f"c{number}"))
        models.append(_train_one(manager, task, number))
        if commit:
            [answer] = store.commit([outcome(bound(manager), artifacts=manager.publish())])
            assert answer["status"] == "committed", answer
        manager.unbind()
    store.close()
    return models


def _train_one(manager: MMLFileManager, task: str, number: int) -> ModelStorage:
    blueprint = manager.construct_saving_path(_pipeline(), "blueprint", task_name=task)
    blueprint.write_text(f"arch: {{name: net{number}}}")
    storage = ModelStorage(task=task, fold=number, performance=0.5, metrics=[{"loss": 1.0}])
    storage.store(type("Struct", (), {"name": task}), manager)
    return storage


def _pipeline() -> Any:
    from mml_ray.store.artifacts import PipelineCfg

    return PipelineCfg({"arch": {}})


# -- the one of the process --------------------------------------------------------------------------------------------------------------
def test_a_new_manager_takes_the_place_of_the_old_one(world: World, tmp_path: Path) -> None:
    MMLFileManager.clear_instance()  # other tests run whole schedulers in this process
    with pytest.raises(MMLMisconfigurationException, match="has no file manager yet"):
        MMLFileManager.instance()
    first = manager_of(world, reuse_cfg=None)
    first.bind({"command": "c", "attempt": 1})
    assert MMLFileManager.instance() is first and MMLFileManager.exists()
    other = World(tmp_path / "other", project="another")
    second = manager_of(other)
    assert MMLFileManager.instance() is second and second.proj_path == other.project
    assert second.attempt is None and second.reserved == []
    MMLFileManager.clear_instance()
    assert not MMLFileManager.exists()


def test_settings_that_are_refused_at_the_start(world: World) -> None:
    with pytest.raises(MMLMisconfigurationException, match="must not contain '#', .*'a#1'"):
        MMLFileManager(data_path=world.data, proj_path=world.results / "a#1")
    (world.base / "file").touch()
    with pytest.raises(MMLMisconfigurationException, match="data root must be a folder"):
        MMLFileManager(data_path=world.base / "file", proj_path=world.project)
    with pytest.raises(MMLMisconfigurationException, match="must lie below the results root"):
        MMLFileManager(data_path=world.data, proj_path=world.base / "p", results_path=world.results)


# -- paths -----------------------------------------------------------------------------------------------------------------------------
def test_the_example_of_the_documents(world: World) -> None:
    """Eight commands store ``foo`` each and attach the path to their struct; one reads them all."""
    MMLFileManager.add_assignment_path(obj_cls=None, key="foo", path="PROJ_PATH/FOO/TASK_NAME/foo.txt")
    store = world.planned(10)
    manager = manager_of(world)
    manager.attach(store, run_dir=world.run_dir)
    for number in range(1, 9):
        manager.bind(start(store, f"c{number}"))
        path = manager.construct_saving_path(obj=object(), key="foo", task_name=f"task{number}")
        path.write_text(str(number))
        delta = {f"task{number}": {"set_paths": {"foo": manager.stored(path)}}}
        store.commit([outcome(bound(manager), structs=delta, artifacts=manager.publish())])
        manager.unbind()
    found = [manager.absolute(manager.task_state(f"task{number}")["paths"]["foo"]) for number in range(1, 9)]
    assert [path.read_text() for path in found] == list("12345678")
    assert found[2] == world.project / "FOO/task3/foo_0003.txt"
    store.close()


def test_reserved_paths_are_those_of_the_bound_attempt(world: World) -> None:
    store = world.planned(3)
    manager = manager_of(world, backend=store)
    manager.attach(store, run_dir=world.run_dir)
    manager.bind(start(store, "c1"))
    path = manager.construct_saving_path(None, "backup", file_name="a.txt")
    assert manager.reserved == [path] and path.exists() and manager.committed("backup") == []
    path.write_text("content")
    assert manager.committed("backup") == [], "written, but not committed"
    [item] = manager.publish()
    assert item["path"] == "results:proj/BACKUP/a_0001.txt" and item["size"] == 7
    store.commit([outcome(bound(manager), artifacts=[item])])
    assert manager.committed("backup") == [path]
    manager.bind(start(store, "c2"))
    assert manager.reserved == []
    start(store, "c2")
    with pytest.raises(FencedError):
        manager.construct_saving_path(None, "backup", file_name="b.txt")
    store.close()


def test_outside_a_run_only_temporary_paths_can_be_had(world: World) -> None:
    manager = manager_of(world)
    with pytest.raises(MMLMisconfigurationException, match="only available inside a command"):
        manager.construct_saving_path(None, "backup", file_name="a.txt")
    first, second = (manager.construct_saving_path(None, "temp", file_name="a.txt") for _ in range(2))
    assert first != second and first.exists() and not first.is_relative_to(world.base)
    store = world.planned(1)
    manager.attach(store, run_dir=world.run_dir)
    with pytest.raises(MMLMisconfigurationException, match="only available inside a command"):
        manager.construct_saving_path(None, "temp", file_name="a.txt")
    assert not (world.project / "BACKUP").exists()
    store.close()


def test_what_a_request_for_a_path_may_be_refused_for(world: World) -> None:
    store = world.planned(2)
    manager = manager_of(world, backend=store)
    manager.bind(start(store, "c1"))
    with pytest.raises(KeyError):
        manager.construct_saving_path(None, "nothing")
    with pytest.raises(AssertionError):
        manager.construct_saving_path("no model", "parameters", task_name="t")
    with pytest.raises(ValueError, match="needs file_name"):
        manager.construct_saving_path(None, "backup")
    for name in ("../x.txt", "a/b.txt"):
        with pytest.raises(MMLMisconfigurationException, match="single folder or file name"):
            manager.construct_saving_path(None, "backup", file_name=name)
    assert manager.reserved == []
    store.close()


# -- the run behind it -------------------------------------------------------------------------------------------------------------------
def test_it_travels_to_a_worker_as_plain_data(world: World) -> None:
    MMLFileManager.add_assignment_path(None, "foo", "PROJ_PATH/FOO/TASK_NAME/foo.txt")
    [model] = train(world, "digits")
    other = World(world.base, project="next", run="2024-02-02/x")
    driver = manager_of(other, reuse_cfg={"models": "proj", "blueprint": "proj"}, remove_cfg={"models": True})
    store = other.planned(2)
    driver.attach(store, run_dir=other.run_dir)
    arguments = json.loads(json.dumps(driver.arguments()))
    assignments.remove("foo")
    worker = MMLFileManager(**arguments, backend=store)
    assert assignments.lookup("foo").template == "PROJ_PATH/FOO/TASK_NAME/foo.txt"
    assert worker.run_paths.run_dir == other.run_dir and worker.remove_keys == {"models": True}
    assert [m.path for m in worker.reusables["digits"]["models"]] == [model.path]
    worker.bind(start(store, "c1"))
    assert worker.construct_saving_path(None, "foo", task_name="t").name == "foo_0001.txt"
    store.close()


def test_progress_goes_to_the_run(world: World) -> None:
    store = world.planned(2)
    manager = manager_of(world, backend=store)
    ticks: list[int] = []
    manager.on_report = lambda: ticks.append(1)
    assert manager.report({"epoch": 1}) is False and not ticks
    manager.bind(start(store, "c1"))
    assert manager.report({"epoch": 2}) is False and ticks == [1]
    assert store.progress() == {"c1": {"epoch": 2}}
    assert not manager.should_stop()
    store.request_stop()
    assert manager.should_stop() and manager.report({"epoch": 3}, "c1", 1) is True
    store.close()


def test_a_change_of_a_loaded_storage_is_kept_for_the_commit(world: World) -> None:
    [model] = train(world, "digits")
    before = Path(str(model.path)).read_bytes()
    next_run = World(world.base, run="2024-02-02/x")
    store = next_run.planned(2)
    manager = manager_of(next_run, backend=store)
    manager.bind(start(store, "c1"))
    loaded = manager.load_model(str(model.path))
    loaded.metrics.append({"acc": 0.9})
    loaded.store(manager=manager)
    assert Path(str(model.path)).read_bytes() == before
    assert manager.model_updates == {manager.stored(str(model.path)): {"append_metrics": [{"acc": 0.9}]}}
    store.commit([outcome(bound(manager), models_update=manager.model_updates)])
    assert manager.load_model(str(model.path)).metrics == [{"loss": 1.0}, {"acc": 0.9}]
    store.close()


# -- reuse -----------------------------------------------------------------------------------------------------------------------------
def test_reuse_takes_the_newest_committed_artifact_of_each_task(tmp_path: Path) -> None:
    train(World(tmp_path, run="2024-01-01/a"), "digits", "cells")
    train(World(tmp_path, run="2024-01-02/b"), "digits")
    train(World(tmp_path, run="2024-01-03/c"), "digits", commit=False)
    found = manager_of(World(tmp_path, project="next"), reuse_cfg={"blueprint": "proj", "models": "proj"}).reusables
    assert set(found) == {"digits", "cells"}
    assert (
        found["digits"]["blueprint"].name == "blueprint_0002.yaml" and found["cells"]["blueprint"].name == "blueprint_0002.yaml"
    )
    assert sorted(m.path.name for m in found["digits"]["models"]) == ["fold_1_0001.json", "fold_1_0002.json"]
    one = found["digits"]["models"][0]
    one.metrics.append({"changed": 1})
    assert found["digits"]["models"][0].metrics == [{"loss": 1.0}], "nobody sees what another did to a storage"


def test_reuse_by_number(tmp_path: Path) -> None:
    train(World(tmp_path, run="2024-01-01/a"), "digits")
    train(World(tmp_path, run="2024-01-02/b"), "digits")
    target = World(tmp_path, project="next")
    found = manager_of(target, reuse_cfg={"blueprint": "proj#1"}).reusables
    assert found["digits"]["blueprint"].name == "blueprint_0001.yaml"
    with pytest.raises(ValueError, match="proj#7 does not exist. Existing numbers: 1, 2"):
        manager_of(target, reuse_cfg={"blueprint": "proj#7"})
    with pytest.raises(MMLMisconfigurationException, match="a project without a number, got 'proj#1': all its models"):
        manager_of(target, reuse_cfg={"models": "proj#1"})
    with pytest.raises(ValueError, match="project#number"):
        manager_of(target, reuse_cfg={"blueprint": "proj#one"})
    MMLFileManager.add_assignment_path(None, "plain", "PROJ_PATH/PLAIN/TASK_NAME/p.txt", enable_numbering=False, reusable=True)
    with pytest.raises(ValueError, match="a project without a number, got 'proj#1'."):
        manager_of(target, reuse_cfg={"plain": "proj#1"})


def test_reuse_of_several_projects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for project in ("one", "two"):
        train(World(tmp_path, project=project), "digits")
    target = World(tmp_path, project="next")
    with caplog.at_level(logging.WARNING):
        found = manager_of(target, reuse_cfg={"blueprint": ["one", "two"], "models": ["two", "one"]}).reusables["digits"]
    assert found["blueprint"].parts[-4] == "two" and [m.path.parts[-4] for m in found["models"]] == ["two", "one"]
    assert "the last project that has one counts" in caplog.text and "models add up" in caplog.text


def test_settings_of_reuse_that_are_refused_or_ignored(world: World, caplog: pytest.LogCaptureFixture) -> None:
    train(world, "digits")
    target = World(world.base, project="next")
    with pytest.raises(MMLMisconfigurationException, match="Unknown project 'porj'. Did you mean: proj"):
        manager_of(target, reuse_cfg={"models": "porj"})
    with pytest.raises(MMLMisconfigurationException, match="cannot be reused"):
        manager_of(target, reuse_cfg={"predictions": "proj"})
    wrong: tuple[Any, ...] = (3, [], "", {"a": 1})
    for value in wrong:
        with pytest.raises(MMLMisconfigurationException):
            manager_of(target, reuse_cfg={"models": value})
    with caplog.at_level(logging.WARNING):
        assert manager_of(target, reuse_cfg={"bleuprint": "proj", "models": None}).reusables == {}
    assert "Did you mean: blueprint" in caplog.text
    assert manager_of(target, reuse_cfg={"models": "next"}).reusables == {}, "the own project need not exist yet"


def test_projects_without_journals_are_read_as_well(world: World) -> None:
    old = world.results / "old"
    for number, text in ((2, "newest"), (1, "older")):
        path = old / f"BLUEPRINTS/digits/blueprint_{number:04d}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"arch: {text}")
    (old / "MODELS/digits").mkdir(parents=True)
    content = {"pipeline": "old/p.yaml", "parameters": "old/m.mml", "performance": 0.25, "metrics": [{"a": 1}]}
    (old / "MODELS/digits/model_storage_0001.json").write_text(json.dumps(content))
    (old / "MODELS/digits/fold_1_0001.json").write_text(json.dumps({**content, "fold": 1, "task": "digits"}))
    found = manager_of(world, reuse_cfg={"blueprint": "old", "models": "old"}).reusables["digits"]
    assert found["blueprint"].read_text() == "arch: newest"
    assert sorted((m.fold is None, m.performance, m.pipeline) for m in found["models"]) == [
        (False, 0.25, old / "p.yaml"),
        (True, 0.25, old / "p.yaml"),
    ]


def test_artifacts_of_a_whole_project(tmp_path: Path) -> None:
    MMLFileManager.add_assignment_path(None, "shared", "PROJ_PATH/SHARED/all.txt", reusable="_TOP_LEVEL_")
    world = World(tmp_path)
    store = world.planned(2)
    manager = manager_of(world, backend=store)
    manager.bind(start(store, "c1"))
    manager.construct_saving_path(None, "shared").write_text("x")
    store.commit([outcome(bound(manager), artifacts=manager.publish())])
    store.close()
    assert manager.global_reusables == {}
    found = manager_of(World(tmp_path, project="next"), reuse_cfg={"shared": "proj"})
    assert found.global_reusables["shared"].read_text() == "x"


def test_a_continued_run_keeps_what_it_reused(tmp_path: Path) -> None:
    """Its own project gets models while it runs, and so may any other: that must not change what its commands see."""
    world = World(tmp_path, run="2024-01-01/a")
    [first] = train(world, "digits")
    run = World(tmp_path, run="2024-01-02/b")
    store = run.planned(2, owner=dead_owner(1))
    manager_of(run, reuse_cfg={"models": "proj"}).attach(store, run_dir=run.run_dir)
    train(World(tmp_path, run="2024-01-03/c"), "digits", "cells")
    store = run.open()
    continued = manager_of(run, reuse_cfg={"models": "proj"})
    assert len(continued.reusables["digits"]["models"]) == 2
    continued.attach(store, run_dir=run.run_dir)
    assert [m.path for m in continued.reusables["digits"]["models"]] == [first.path] and set(continued.reusables) == {"digits"}
    store.close()


def test_a_run_with_a_damaged_journal_does_not_offer_what_it_had_not_committed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    train(world, "digits", commit=False)
    journal = world.run_dir / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"crc":"00000000","seq":99}\n' * 2)
    with caplog.at_level(logging.WARNING):
        assert (
            manager_of(World(tmp_path, project="next"), reuse_cfg={"models": "proj"})
            .reusables.get("digits", {})
            .get("models", [])
            == []
        )
    assert "is damaged" in caplog.text


# -- remove ----------------------------------------------------------------------------------------------------------------------------
def test_both_ways_to_ask_for_removal(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        manager = manager_of(world, reuse_cfg={"clean_up": {"parameters": True}}, remove_cfg={"models": False, "modles": True})
    assert manager.remove_keys == {"models": False, "parameters": True}
    assert "Did you mean: models" in caplog.text
