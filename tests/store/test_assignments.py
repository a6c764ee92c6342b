"""Path assignments: what a template may look like, and what a request for a path must bring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError, UserError
from mml_ray.store import assignments
from mml_ray.store.manager import MMLFileManager


@pytest.fixture(autouse=True)
def _own_table() -> Iterator[None]:
    before = set(assignments.assignments())
    yield
    for key in set(assignments.assignments()) - before:
        assignments.remove(key)


class Thing:
    """Something to store."""


def add(path: str = "PROJ_PATH/FOO/TASK_NAME/foo.txt", key: str = "foo", obj_cls: Any = None, **more: Any) -> None:
    MMLFileManager.add_assignment_path(obj_cls, key, path, **more)


@pytest.mark.parametrize(
    "path",
    [
        "FOO/foo.txt",
        "foo.txt",
        "PROJ_PATH",
        "/PROJ_PATH/foo.txt",
        "PROJ_PATH/FOO/foo",
        "PROJ_PATH/FILE_NAME/foo.txt",
        "PROJ_PATH/FILE_NAME.txt",
        "PROJ_PATH/aTASK_NAME/foo.txt",
        "PROJ_PATH/TASK_NAME/TASK_NAME/foo.txt",
        "PROJ_PATH/PROJ_PATH/foo.txt",
        "PROJ_PATH/TEMP_PATH/foo.txt",
        "PROJ_PATH/~/foo.txt",
        "PROJ_PATH/../foo.txt",
        "PROJ_PATH/FOO/fo#o.txt",
    ],
)
def test_templates_that_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not allowed") as caught:
        add(path)
    assert isinstance(caught.value, MMLMisconfigurationException)
    assert "foo" not in assignments.assignments()


@pytest.mark.parametrize(
    "path",
    [
        "PROJ_PATH/FOO/TASK_NAME/foo.txt",
        "TEMP_PATH/FILE_NAME",
        "PROJ_PATH/FILE_NAME",
        "TEMP_PATH/a/TASK_NAME/b.tar.gz",
        "PROJ_PATH/f.png",
    ],
)
def test_templates_that_are_accepted(path: str) -> None:
    add(path)
    assert assignments.lookup("foo").template == path


def test_a_path_object_is_a_template_as_well() -> None:
    MMLFileManager.add_assignment_path(None, "foo", Path("PROJ_PATH") / "FOO" / "TASK_NAME" / "foo.txt")
    assert assignments.lookup("foo").template == "PROJ_PATH/FOO/TASK_NAME/foo.txt"


@pytest.mark.parametrize("key", ["checkpoints", "a-b", "a:b", ""])
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="A path key must not be empty"):
        add(key=key)


def test_a_key_that_is_taken_is_a_key_error() -> None:
    add()
    for key in ("foo", "models"):
        with pytest.raises(KeyError, match=f"Path key '{key}' already exists"):
            add(key=key)


@pytest.mark.parametrize("obj_cls", [3, "Thing", "a b.c", "a.b|c", Thing()])
def test_what_is_no_class_is_refused(obj_cls: Any) -> None:
    with pytest.raises(ValueError, match="obj_cls must be a class"):
        add(obj_cls=obj_cls)


@pytest.mark.parametrize(
    ("path", "reusable"),
    [
        ("PROJ_PATH/foo/TASK_NAME/foo.txt", True),
        ("PROJ_PATH/FOO/foo.txt", True),
        ("PROJ_PATH/FOO/BAR/TASK_NAME/foo.txt", True),
        ("TEMP_PATH/FOO/TASK_NAME/foo.txt", True),
        ("TEMP_PATH/FOO/foo.txt", "_TOP_LEVEL_"),
        ("PROJ_PATH/FOO/TASK_NAME/foo.txt", "_TOP_LEVEL_"),
        ("PROJ_PATH/FOO/TASK_NAME/foo.txt", "yes"),
    ],
)
def test_what_cannot_be_reusable(path: str, reusable: Any) -> None:
    with pytest.raises(ValueError, match="reusable"):
        add(path, reusable=reusable)


def test_types_are_checked_by_name_so_that_nothing_is_imported() -> None:
    add(obj_cls="torch.nn.modules.module.Module|" + f"{Thing.__module__}.{Thing.__qualname__}")
    found = assignments.lookup("foo")
    found.check(Thing(), task="t", file=None)
    found.check(type("Sub", (Thing,), {})(), task="t", file=None)
    with pytest.raises(AssertionError, match=r"takes torch\.nn\.modules\.module\.Module or .*, got builtins\.str"):
        found.check("text", task="t", file=None)


@pytest.mark.parametrize(("task", "file"), [(None, "f.txt"), ("", "f.txt"), ("t", None), ("t%1", "f.txt"), ("t", "f#1.txt")])
def test_names_that_are_missing_or_impossible_are_value_errors(task: str | None, file: str | None) -> None:
    add("PROJ_PATH/FOO/TASK_NAME/FILE_NAME")
    with pytest.raises(ValueError) as caught:
        assignments.lookup("foo").check(None, task=task, file=file)
    assert isinstance(caught.value, UserError)


def test_an_unknown_key_names_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: models"):
        assignments.lookup("model")
    with pytest.raises(KeyError):
        assignments.lookup("model")


def test_the_table_that_ships() -> None:
    table = assignments.assignments()
    assert set(table) >= set(
        "parameters blueprint pipeline models ensemble predictions img_examples sample_grid backup temp".split()
    )
    assert {key for key, item in table.items() if item.reusable} == {"parameters", "blueprint", "pipeline", "models", "ensemble"}
    for item in table.values():
        assignments._check_template(item)
        assignments._check_reusable(item)
    with pytest.raises(ValueError, match="ships with the package"):
        assignments.remove("models")


def test_assignments_travel_to_workers() -> None:
    add(obj_cls=Thing, enable_numbering=False)
    listed = assignments.added()
    assignments.remove("foo")
    assignments.add_missing(listed)
    assignments.add_missing(listed)
    found = assignments.lookup("foo")
    assert found.numbering is False and found.types.endswith("Thing")
