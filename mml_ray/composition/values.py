"""Put the values of the command line into a composed configuration; a key that is not there is named with its neighbours."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from mml_ray.composition.overrides import Value
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

#: mappings whose entries are the user's own: a new key needs no plus sign
OPEN = (
    "arch.params",
    "compile.kwargs",
    "resources.*.custom",
    "resources.*.label_selector",
    "source.columns",
    "tune.lr_kwargs",
    "tune.bs_kwargs",
)
_MISSING: Any = object()


def apply(settings: dict[str, Any], values: Iterable[Value], groups: Iterable[str]) -> list[Value]:
    """Change ``settings`` (plain, unresolved) in place, in order; returns the values with what they replaced."""
    return [_apply(settings, value, groups) for value in values]


def _apply(settings: dict[str, Any], value: Value, groups: Iterable[str]) -> Value:
    if value.sign == "~":
        _delete(settings, value, groups)
    elif value.sign:
        _add(settings, value)
    else:
        return _change(settings, value, groups)
    return value


def _change(settings: dict[str, Any], value: Value, groups: Iterable[str]) -> Value:
    parent, last = _parent(settings, value, groups)
    old = parent[last] if isinstance(parent, list) else parent.get(last, _MISSING)
    if old is _MISSING:
        if not _is_open(value.key.rpartition(".")[0]) and not _is_assigned(value.key):
            raise _unknown(settings, value, groups)
        parent[last] = value.value
        return value
    if isinstance(old, dict) and not isinstance(value.value, dict | type(None)) and "${" not in str(value.value):
        inner = ", ".join(f"{value.key}.{name}" for name in list(old)[:6]) or f"+{value.key}.<name>"
        raise MMLMisconfigurationException(
            f"{value.key} holds other keys and cannot be {value.written}; set one of them: {inner}."
        )
    parent[last] = _merged(old, value.value)
    return replace(value, default=old)


def _merged(old: Any, new: Any) -> Any:
    """Mappings are merged; an empty one empties."""
    if not (isinstance(old, dict) and isinstance(new, dict)) or not new:
        return new
    return {**old, **{name: _merged(old.get(name), item) for name, item in new.items()}}


def _add(settings: dict[str, Any], value: Value) -> None:
    node: Any = settings
    *parents, last = _parts(value.key)
    for done, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, part, value)]
            continue
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            above = ".".join(parents[: done + 1])
            raise MMLMisconfigurationException(f"{value.sign}{value.key}: '{above}' is a value ({node}) and can hold no keys.")
    if isinstance(node, list):
        node[_index(node, last, value)] = value.value
    elif value.sign == "+" and node.get(last) is not None and not isinstance(value.value, dict):
        raise MMLMisconfigurationException(
            f"+{value.key}: '{value.key}' already exists. To change it, leave out the plus sign: {value.key}={value.written}"
        )
    else:
        node[last] = _merged(node.get(last), value.value)


def _delete(settings: dict[str, Any], value: Value, groups: Iterable[str]) -> None:
    parent, last = _parent(settings, value, groups)
    if isinstance(parent, dict) and last not in parent:
        raise _unknown(settings, value, groups)
    if value.value is not None and parent[last] != value.value:
        raise MMLMisconfigurationException(
            f"~{value.key}={value.written}: its value is {parent[last]}; leave the value out to delete the key."
        )
    del parent[last]


def _parent(settings: dict[str, Any], value: Value, groups: Iterable[str]) -> tuple[Any, Any]:
    """The mapping or list that holds the last part of the key, and that part."""
    node: Any = settings
    *parents, last = _parts(value.key)
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, value)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        elif node is settings.get("resources") and isinstance(node, dict):
            node = node.setdefault(part, copy.deepcopy(node["default"]))  # a command without an entry of its own
        else:
            raise _unknown(settings, value, groups)
    if isinstance(node, list):
        return node, _index(node, last, value)
    if not isinstance(node, dict):
        raise _unknown(settings, value, groups)
    return node, last


def _parts(key: str) -> list[str]:
    return [part for part in re.split(r"[.\[\]]+", key) if part]


def _index(node: list[Any], part: str, value: Value) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise MMLMisconfigurationException(f"{value.key}: '{part}' must be a position in a list of {len(node)}, counted from 0.")
    return int(part)


def _is_open(key: str) -> bool:
    return any(re.fullmatch(pattern.replace(".", r"\.").replace("*", "[^.]+"), key) for pattern in OPEN) or (
        key.startswith(("loss.", "metrics.")) and key.endswith(".params")
    )


def _is_assigned(key: str) -> bool:
    """Whether this is a key of ``reuse`` or ``remove`` that a plugin brought along with a path of its own."""
    group, _, name = key.partition(".")
    if group not in ("reuse", "remove"):
        return False
    from mml_ray.store import assignments

    found = assignments.assignments().get(name)
    return found is not None and (group == "remove" or found.reusable is not False)


def _unknown(settings: dict[str, Any], value: Value, groups: Iterable[str]) -> MMLMisconfigurationException:
    """The error for a key that is not there. Near are keys of the same name, then those beside it, then any."""
    known = dict(walk(settings))
    parent, _, name = value.key.rpartition(".")
    beside = [key for key in known if key.rpartition(".")[0] == parent]
    if not parent:
        beside += [group for group in groups if "/" not in group and group not in beside]
    near = [key for key in known if key.rpartition(".")[2] == name] or _close(value.key, beside) or _close(value.key, known)
    message = f"Unknown key '{value.key}'."
    if near:
        message += f" Did you mean: {', '.join(near[:5])}?"
    elif parent and beside:
        message += f" Available: {', '.join(sorted(beside)[:30])}."
    else:
        message += " mml-ray <mode> --cfg job shows all keys."
    if value.sign != "~" and isinstance(known.get(parent, {}), dict):
        message += f" A new key needs a plus sign: +{value.key}={value.written}"
    return UnknownNameError(message)


def _close(key: str, allowed: Iterable[str]) -> list[str]:
    """Up to five of ``allowed``, compared without the part that they share with ``key``."""
    parent = key.rpartition(".")[0]
    names = {one.removeprefix(f"{parent}.") if parent else one: one for one in allowed}
    return [names[name] for name in difflib.get_close_matches(key.rpartition(".")[2], names, n=5, cutoff=0.6)]


def walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a nested mapping with its value, parents first; lists are values."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        yield key, value
        if isinstance(value, dict):
            yield from walk(value, f"{key}.")
