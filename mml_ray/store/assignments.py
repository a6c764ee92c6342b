"""Path assignments: where the artifacts of a key go. Schedulers and plugins add their own, before any file manager exists.

A template is made of whole path parts: ``PROJ_PATH`` or ``TEMP_PATH`` first, ``TASK_NAME`` where the task's name goes,
``FILE_NAME`` last where the caller names the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.journal.numbering import FileSeries

PROJ, TEMP, TASK, FILE = "PROJ_PATH", "TEMP_PATH", "TASK_NAME", "FILE_NAME"
TOP_LEVEL = "_TOP_LEVEL_"
_TOKENS = (PROJ, TEMP, TASK, FILE)
_RESERVED = ("checkpoints",)


class AssignmentError(MMLMisconfigurationException, ValueError):
    """A path assignment, or a request for a path, is not allowed."""


class AssignmentExistsError(MMLMisconfigurationException, KeyError):
    """The key of a path assignment already exists."""


class AssignmentTypeError(MMLMisconfigurationException, AssertionError):
    """The object to be stored is not of the type that its key takes."""


@dataclass(frozen=True)
class PathAssignment:
    """Where artifacts of one key go. ``types``: full class names joined by ``|`` (empty: any object); as names, so that no class has
    to be imported.

    ``reusable``: False, True (by task), or ``_TOP_LEVEL_`` (once for a project).
    """

    key: str
    template: str
    types: str = ""
    numbering: bool = True
    reusable: bool | str = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the template."""
        return PurePosixPath(self.template).parts

    def request(self) -> dict[str, Any]:
        """The form that ``RunStore.reserve`` takes."""
        return {"key": self.key, "template": self.template, "numbering": self.numbering}

    def check(self, obj: Any, *, task: str | None, file: str | None) -> None:
        """Refuse an object of another type, and names that are missing or cannot be part of a path.

        Raises:
            AssignmentTypeError: the type (an AssertionError). AssignmentError: a name (a ValueError).
        """
        if self.types and not _is_one_of(obj, self.types):
            raise AssignmentTypeError(f"Key '{self.key}' takes {self.types.replace('|', ' or ')}, got {_name_of(type(obj))}.")
        for token, value in ((TASK, task), (FILE, file)):
            if token in self.parts and not value:
                raise AssignmentError(f"Key '{self.key}' ({self.template}) needs {token.lower()}=..., got none.")
        if task and "%" in task:
            raise AssignmentError(f"'{task}' is a legacy task id ('%'). Use the name of the task.")
        if file and "#" in file:
            raise AssignmentError(
                f"The file name '{file}' must not contain '#', which marks a number in the reuse group. Choose another name."
            )


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_one_of(obj: Any, types: str) -> bool:
    names = {_name_of(cls) for cls in type(obj).__mro__}
    return any(wanted in names for wanted in types.split("|"))


_DEFAULTS = (
    PathAssignment("parameters", f"{PROJ}/PARAMETERS/{TASK}/model.safetensors", "torch.nn.modules.module.Module", reusable=True),
    PathAssignment(
        "blueprint",
        f"{PROJ}/BLUEPRINTS/{TASK}/blueprint.yaml",
        "mml_ray.store.pipeline.PipelineCfg|omegaconf.base.Container",
        reusable=True,
    ),
    PathAssignment(
        "pipeline",
        f"{PROJ}/PIPELINES/{TASK}/pipeline.yaml",
        "mml_ray.store.pipeline.PipelineCfg|omegaconf.base.Container",
        reusable=True,
    ),
    PathAssignment("models", f"{PROJ}/MODELS/{TASK}/{FILE}", "mml_ray.store.artifacts.ModelStorage", reusable=True),
    PathAssignment("ensemble", f"{PROJ}/ENSEMBLES/{TASK}/{FILE}", "mml_ray.store.artifacts.EnsembleStorage", reusable=True),
    PathAssignment("predictions", f"{PROJ}/PREDICTIONS/{TASK}/{FILE}", "pyarrow.lib.Table|pyarrow.lib.RecordBatch|builtins.dict"),
    PathAssignment("img_examples", f"{PROJ}/IMG_EXAMPLES/{TASK}/examples.png"),
    PathAssignment("sample_grid", f"{PROJ}/PLOTS/sample_grid/grid.png"),
    PathAssignment("backup", f"{PROJ}/BACKUP/{FILE}"),
    PathAssignment("temp", f"{TEMP}/{FILE}"),
)
_table: dict[str, PathAssignment] = {assignment.key: assignment for assignment in _DEFAULTS}


def assignments() -> Mapping[str, PathAssignment]:
    """All assignments by key."""
    return dict(_table)


def lookup(key: str) -> PathAssignment:
    """The assignment of a key; :class:`UnknownNameError` (a KeyError) names the close ones."""
    if key not in _table:
        raise UnknownNameError.of("path key", key, _table, "A plugin adds one with MMLFileManager.add_assignment_path(...).")
    return _table[key]


def add(assignment: PathAssignment) -> None:
    """Add an assignment.

    Raises:
        AssignmentExistsError: the key already exists (a KeyError).
        AssignmentError: key, template or ``reusable`` is not allowed (a ValueError).
    """
    if assignment.key in _table:
        raise AssignmentExistsError(
            f"Path key '{assignment.key}' already exists, for {_table[assignment.key].template}. Choose another key."
        )
    _check_key(assignment.key)
    _check_template(assignment)
    _check_reusable(assignment)
    _table[assignment.key] = assignment


def added() -> list[dict[str, Any]]:
    """The assignments that were added, as plain data for :func:`add_missing`."""
    shipped = set(_DEFAULTS)
    return [vars(assignment) for assignment in _table.values() if assignment not in shipped]


def add_missing(listed: list[dict[str, Any]]) -> None:
    """Add what :func:`added` gave in another process, except for keys that exist here."""
    for fields in listed:
        if fields["key"] not in _table:
            add(PathAssignment(**fields))


def remove(key: str) -> None:
    """Remove an assignment that was added."""
    if any(assignment.key == key for assignment in _DEFAULTS):
        raise AssignmentError(f"Path key '{key}' ships with the package and cannot be removed.")
    del _table[lookup(key).key]


def fill_template(template: str, *, roots: Mapping[str, Path], task: str | None, file: str | None) -> FileSeries:
    """The files of a template; ``roots`` holds the folders of ``PROJ_PATH`` and ``TEMP_PATH``.

    Raises:
        MMLMisconfigurationException: a name that the template needs is missing, or is not a single path part.
    """
    first, *parts = PurePosixPath(template).parts
    given = {TASK: task, FILE: file}
    filled = [_part(part, given[part], template) if part in given else part for part in parts]
    name = PurePosixPath(filled[-1])
    return FileSeries(roots[first].joinpath(*filled[:-1]), name.stem, name.suffix)


def _part(token: str, value: str | None, template: str) -> str:
    if not value:
        raise MMLMisconfigurationException(f"The path template '{template}' needs a value for {token}.")
    if value in (".", "..") or any(character in value for character in "/\\\0"):
        raise MMLMisconfigurationException(
            f"{token} must be a single folder or file name in the path template {template}, got '{value}'."
        )
    return value


def types_of(obj_cls: type | str | None) -> str:
    """The ``types`` of an assignment for ``obj_cls``: None (any object), a class, or full class names joined by ``|``."""
    if obj_cls is None:
        return ""
    if isinstance(obj_cls, type):
        return _name_of(obj_cls)
    if isinstance(obj_cls, str) and all(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name) for name in obj_cls.split("|")):
        return obj_cls
    raise AssignmentError(f"obj_cls must be a class, its full name ('torch.nn.modules.module.Module') or None, got {obj_cls!r}.")


def _check_key(key: str) -> None:
    if key in _RESERVED or not key or any(sign in key for sign in "-:"):
        raise AssignmentError(
            f"A path key must not be empty, contain '-' or ':', or be one of {', '.join(_RESERVED)}; got '{key}'."
        )


def _check_template(assignment: PathAssignment) -> None:
    template, parts = assignment.template, assignment.parts
    wrong = ""
    if len(parts) < 2 or parts[0] not in (PROJ, TEMP):
        wrong = f"it must start with {PROJ} or {TEMP} and have at least two parts"
    elif any(sum(part == token for part in parts) > 1 for token in _TOKENS) or {PROJ, TEMP} & set(parts[1:]):
        wrong = "a token may occur once"
    elif any(token in part and token != part for part in parts for token in _TOKENS):
        wrong = "a token must be a whole part of the path"
    elif FILE in parts[:-1]:
        wrong = f"{FILE} may only come last"
    elif parts[-1] != FILE and not PurePosixPath(parts[-1]).suffix:
        wrong = f"its last part must be {FILE} or a file name with a suffix"
    elif "~" in template or ".." in template:
        wrong = "'~' and '..' are not allowed"
    elif "#" in PurePosixPath(parts[-1]).stem:
        wrong = "'#' is not allowed in the file name"
    if wrong:
        raise AssignmentError(f"The path '{template}' of key '{assignment.key}' is not allowed: {wrong}.")


def _check_reusable(assignment: PathAssignment) -> None:
    parts, reusable = assignment.parts, assignment.reusable
    if reusable is False:
        return
    if reusable is True:
        if len(parts) != 4 or parts[0] != PROJ or not parts[1].isupper() or parts[2] != TASK:
            raise AssignmentError(
                f"The path of key '{assignment.key}', which is reusable by task, must be {PROJ}/<UPPERCASE>/{TASK}/<file>, got "
                f"'{assignment.template}'."
            )
    elif reusable == TOP_LEVEL:
        if parts[0] != PROJ or TASK in parts:
            raise AssignmentError(
                f"The path of key '{assignment.key}', which is reusable for a whole project, must start with {PROJ} and have no "
                f"{TASK}, got '{assignment.template}'."
            )
    else:
        raise AssignmentError(f"reusable must be False, True or '{TOP_LEVEL}', got {reusable!r}.")
