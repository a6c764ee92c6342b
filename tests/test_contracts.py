"""The contracts chapter of docs/architecture.md against the code: every signature and name it gives exists and is the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"


def _blocks() -> Iterator[tuple[str, ast.stmt]]:
    """Module and statement of all stubs: code blocks whose lines ``# mml_ray.<module>`` say where what follows is defined."""
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        sections = re.split(r"^# (mml_ray[\w.]*).*$", block, flags=re.M)
        for module, text in zip(sections[1::2], sections[2::2], strict=True):
            for statement in ast.parse(text).body:
                yield module, statement


def _named() -> list[tuple[str, ast.stmt]]:
    return [item for item in _blocks() if not isinstance(item[1], ast.Expr)]


def test_there_is_something_to_compare() -> None:
    assert len(_named()) > 30


@pytest.mark.parametrize(("module", "statement"), _named(), ids=lambda value: value if isinstance(value, str) else _name(value))
def test_a_contract_is_as_the_code_has_it(module: str, statement: ast.stmt) -> None:
    found = getattr(importlib.import_module(module), _name(statement))
    _compare(statement, found, f"{module}.{_name(statement)}")


def _name(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    assert isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name), ast.unparse(statement)
    return statement.target.id


def _compare(statement: ast.stmt, found: Any, where: str) -> None:
    if isinstance(statement, ast.FunctionDef):
        assert _documented(statement) == _actual(found), where
    elif isinstance(statement, ast.ClassDef):
        assert inspect.isclass(found), f"{where} is not a class"
        for member in statement.body:
            if isinstance(member, ast.FunctionDef | ast.AnnAssign):
                _compare_member(member, found, f"{where}.{_name(member)}")


def _compare_member(member: ast.FunctionDef | ast.AnnAssign, owner: type, where: str) -> None:
    name = _name(member)
    fields = {*getattr(owner, "__dataclass_fields__", ()), *getattr(owner, "model_fields", ()), *getattr(owner, "__slots__", ())}
    fields |= {field for base in owner.__mro__ for field in base.__dict__.get("__annotations__", ())}
    if isinstance(member, ast.AnnAssign):
        assert name in fields or hasattr(owner, name), f"{where} does not exist"
    else:
        _compare(member, inspect.getattr_static(owner, name), where)


def _documented(function: ast.FunctionDef) -> list[tuple[str, str, bool]]:
    """Name, kind and whether it has a default, of every parameter but self and cls."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    optional = len(positional) - len(given.defaults)
    listed = [(item.arg, "positional", index >= optional) for index, item in enumerate(positional)]
    listed += [(given.vararg.arg, "*", False)] if given.vararg else []
    listed += [(item.arg, "keyword", value is not None) for item, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    listed += [(given.kwarg.arg, "**", False)] if given.kwarg else []
    return [item for item in listed if item[0] not in ("self", "cls")]


_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def _actual(found: Any) -> list[tuple[str, str, bool]]:
    if isinstance(found, property):
        return []
    function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, _KINDS[p.kind], p.default is not p.empty) for p in parameters if p.name not in ("self", "cls")]
