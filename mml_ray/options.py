"""Option objects: the settings of one configuration group as a frozen, typed object that validates itself.

A package defines the options that it reads, and everybody builds them by :func:`build`::

    class TuneOptions(Options):
        lr: bool = False
        lr_kwargs: dict[str, Any] = {}

    build(TuneOptions, "tune", {"lr": "yes"})   # MMLMisconfigurationException: tune.lr must be true or false, got 'yes'.

What a field may be stands in its annotation alone: the check, its message, the choices of tab completion and the JSON schema follow.
A validator raises ``ValueError("must be ..., got ...")`` for a field, and a whole sentence for the object.

Importing this module imports pydantic (0.1 s), so nothing that has to answer at once may do it.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from mml_ray.errors import MMLMisconfigurationException

__all__ = [
    "AS_TEXT",
    "Field",
    "Fraction",
    "Off",
    "Options",
    "Text",
    "Texts",
    "build",
    "in_words",
    "no_option_message",
    "schema_of",
]

T = TypeVar("T", bound="Options")
#: names listed in a message where none of them comes close
_LISTED = 12


class Options(BaseModel):
    """Base of option objects. YAML has types of its own, so nothing is converted: ``"5"`` is not an integer."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False, protected_namespaces=()
    )

    def plain(self) -> dict[str, Any]:
        """What was given, as plain data with the keys of the configuration; defaults that nobody gave are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _as_text(value: Any, info: ValidationInfo) -> Any:
    """Numbers and truth values that stand for a text, as they were typed: ``proj=2024_01`` is not 202401."""
    if isinstance(value, bool | int | float):
        typed = info.context.get(info.field_name) if info.context else None
        return in_words(value) if typed is None else typed
    return value


def _as_list(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str | bool | int | float):
        return [_as_text(value, info)]
    return [_as_text(item, info) for item in value] if isinstance(value, list | tuple) else value


def _as_off(value: Any) -> Any:
    return False if value == 0 and not isinstance(value, str) else value


#: for a ``Literal`` of texts of which some look like numbers: ``trainer.precision=32``
AS_TEXT = BeforeValidator(_as_text)
Text = Annotated[str, AS_TEXT]
#: a list of texts; one alone counts as a list of one
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(strict=False)]
#: ``false``, as which 0 counts too
Off = Annotated[Literal[False], BeforeValidator(_as_off)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def build(
    cls: type[T], key: str, given: Mapping[str, Any], *, typed: Mapping[str, str] | None = None, ignore_unknown: bool = False
) -> T:
    """The options of the group that the user knows as ``key`` (empty: keys of the top level).

    Args:
        given: the settings as plain data.
        typed: the text of single values as they stood on the command line, by dotted key.
        ignore_unknown: pass over keys that are not known, as a configuration stored by another version may hold.

    Raises:
        MMLMisconfigurationException: one sentence for each setting that is wrong.
    """
    prefix = f"{key}." if key else ""
    context = {name.rpartition(".")[2]: text for name, text in (typed or {}).items() if name.startswith(prefix)}
    try:
        return cls.model_validate(dict(given), context=context)
    except ValidationError as error:
        unknown = [item["loc"] for item in error.errors(include_url=False) if item["type"] == "extra_forbidden"]
        if ignore_unknown and unknown:
            return build(cls, key, _without(given, unknown), typed=typed, ignore_unknown=True)
        raise MMLMisconfigurationException("\n".join(dict.fromkeys(_sentences(cls, key, given, error)))) from error


def _without(given: Mapping[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    rest = copy.deepcopy(dict(given))
    for *parents, last in places:
        node: Any = rest
        for part in parents:
            if part in node or isinstance(part, int):  # else it names the member of a union
                node = node[part]
        node.pop(last, None)
    return rest


def _sentences(cls: type[Options], key: str, given: Any, error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        name, wanted, value = _place(schema_of(cls), key, given, item["loc"])
        if item["type"] == "extra_forbidden":
            *_, last = item["loc"]
            yield no_option_message(name, str(last), wanted.get("properties", ()))
        elif item["type"] == "missing" and isinstance(item["loc"][-1], str):
            yield f"{name}.{item['loc'][-1]} is missing.".removeprefix(".")
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            yield text if wanted.get("properties") else f"{name} {text}"
        else:
            yield f"{name} must be {describe(wanted)}, got {_shown(value)}."


def _place(schema: Mapping[str, Any], key: str, given: Any, location: Sequence[int | str]) -> tuple[str, Mapping[str, Any], Any]:
    """Dotted key, schema and value of an error's location, as far as it leads along keys and positions."""
    node: Mapping[str, Any] = schema
    names = [key] if key else []
    for part in location:
        inner = _inner(node, part, schema)
        if inner is None:
            break
        node = inner
        names.append(str(part))
        given = given[part]
    return ".".join(names), node, given


def _inner(node: Mapping[str, Any], part: int | str, schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for branch in [resolved(branch, schema) for branch in node.get("anyOf", (node,))]:
        if isinstance(part, str) and part in branch.get("properties", ()):
            return resolved(branch["properties"][part], schema)
        if isinstance(part, str) and isinstance(branch.get("additionalProperties"), dict):
            return resolved(branch["additionalProperties"], schema)
        if isinstance(part, int) and isinstance(branch.get("items"), dict):
            return resolved(branch["items"], schema)
    return None


@functools.cache
def schema_of(cls: type[Options]) -> Mapping[str, Any]:
    """The JSON schema of a group."""
    return cls.model_json_schema(by_alias=True)


def resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node that a reference within ``schema`` leads to."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def describe(node: Mapping[str, Any]) -> str:
    """What a setting may be, from its JSON schema: ``an integer greater than 1``, ``null or text``."""
    alternatives = [text for branch in node.get("anyOf", [node]) for text in _alternatives(branch)]
    return _either(list(dict.fromkeys(alternatives)))


def choices(node: Mapping[str, Any]) -> list[str]:
    """The words that a setting may be, where its JSON schema lists some."""
    found: list[str] = []
    for branch in node.get("anyOf", [node]):
        if "const" in branch or "enum" in branch:
            found += [in_words(value) for value in branch.get("enum", [branch.get("const")])]
        elif branch.get("type") == "boolean":
            found += ["true", "false"]
    return found


def _alternatives(node: Mapping[str, Any]) -> list[str]:
    if "const" in node or "enum" in node:
        return choices(node)
    kind = str(node.get("type", ""))
    simple = {"null": "null", "boolean": "true or false", "string": "text", "array": _list(node)}
    if kind in ("integer", "number"):
        bounds = [f"{word} {node[name]:g}" for name, word in _BOUNDS.items() if name in node]
        return [" ".join(["an integer" if kind == "integer" else "a number", " and ".join(bounds)]).strip()]
    return [simple.get(kind, "a mapping")]


_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "less than",
    "maximum": "of at most",
}


def _list(node: Mapping[str, Any]) -> str:
    items = node.get("prefixItems") or [node.get("items") or {}]
    each = describe(items[0]) if items[0] else "anything"
    count = f"{len(items)} items" if "prefixItems" in node else "items"
    return f"a list of {count}, each {each}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def no_option_message(key: str, name: str, known: Iterable[str]) -> str:
    """``optimizer has no option 'lrr'; did you mean 'lr'?``"""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    message = f"{key} has no option '{name}'" if key else f"There is no setting '{name}'"
    if close:
        quoted = [f"'{one}'" for one in close]
        return f"{message}; did you mean {_either(quoted)}?"
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{message}. It has {', '.join(names[:_LISTED])}{rest}." if names else f"{message}."


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else in_words(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def in_words(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(in_words(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{in_words(item)}" for name, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
