"""Option objects: the settings of one configuration group as a frozen, typed object that validates itself.

A package defines the options that it reads::

    class TuneOptions(Options):
        group = "tune"

        lr: bool = False
        lr_kwargs: dict[str, Any] = {}

    TuneOptions.of({"lr": "yes"})   # MMLMisconfigurationException: tune.lr must be true or false, got 'yes'.

What a field may be stands in its annotation alone: the check, its message, the choices of tab completion and the JSON schema follow.
A validator raises ``ValueError("must be ..., got ...")``, which is put behind the key.

Importing this module imports pydantic (0.1 s), so nothing that has to answer at once may do it.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo
from pydantic import Field as Field

from mml_ray.errors import MMLMisconfigurationException

T = TypeVar("T", bound="Options")
#: names listed in a message where none of them comes close
_LISTED = 12


class Options(BaseModel):
    """Base of option objects. YAML has types of its own, so nothing is converted: ``"5"`` is not an integer."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False, protected_namespaces=()
    )

    #: the key of the configuration that holds these settings; empty: the top level
    group: ClassVar[str] = ""

    @classmethod
    def of(cls, given: Mapping[str, Any] | Self | None, *, ignore_unknown: bool = False) -> Self:
        """From plain settings, see :func:`build`; options are returned as they are."""
        return given if isinstance(given, cls) else build(cls, cls.group, given or {}, ignore_unknown=ignore_unknown)  # type: ignore[arg-type]

    @classmethod
    def declared(cls) -> tuple[str, ...]:
        """The keys that have a field, as they stand in the configuration."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

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
#: for a tuple, which strictly would not take a list
LIST = Field(strict=False)
#: a list of texts; one alone counts as a list of one
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list), LIST]
#: ``false``, as which 0 counts too
Off = Annotated[Literal[False], BeforeValidator(_as_off)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(gt=0)]
Numbers = Annotated[tuple[float, ...], LIST]


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
        raise MMLMisconfigurationException("\n".join(_sentences(cls, key, given, error))) from error


def _without(given: Mapping[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    rest = copy.deepcopy(dict(given))
    for *parents, last in places:
        node: Any = rest
        for part in parents:
            if part in node or isinstance(part, int):  # else it names the member of a union
                node = node[part]
        node.pop(last, None)
    return rest


def _sentences(cls: type[Options], key: str, given: Any, error: ValidationError) -> list[str]:
    """One for each setting; of a union, whose members all complain, what was found deepest inside."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        *parents, last = item["loc"] or (None,)
        about_a_key = item["type"] in ("extra_forbidden", "missing") and isinstance(last, str)
        name, wanted, value = _place(schema_of(cls), key, given, parents if about_a_key else item["loc"])
        if about_a_key:
            place = f"{name}.{last}".removeprefix(".")
            known = wanted.get("properties", ())
            found[place] = f"{place} is missing." if item["type"] == "missing" else no_option_message(name, str(last), known)
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            found.setdefault(name, f"{name}{'' if text.startswith('.') else ' '}{text}".lstrip())
        else:
            found.setdefault(name, f"{name} must be {describe(wanted)}, got {_shown(value)}.")
    return [text for name, text in found.items() if not any(other.startswith(f"{name}.") for other in found)]


def _place(schema: Mapping[str, Any], key: str, given: Any, location: Sequence[Any]) -> tuple[str, Mapping[str, Any], Any]:
    """Dotted key, schema and value of an error's location, as far as it leads along keys and positions."""
    node: Mapping[str, Any] = schema
    names = [key] if key else []
    for part in location:
        inner = _inner(node, part, schema)
        if inner is None or not isinstance(
            given, Mapping | list | tuple
        ):  # the name of a union's member, or what a validator made
            break
        node, given = inner, given[part]
        names.append(str(part))
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


def inner_schema(schema: Mapping[str, Any], location: Sequence[str]) -> Mapping[str, Any] | None:
    """The node of a setting within the JSON schema of its group; ``None``: the group does not declare it."""
    node: Mapping[str, Any] | None = schema
    for part in location:
        node = _inner(node, int(part) if part.isdigit() else part, schema) if node is not None else None
    return node


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
    branches = sorted(node.get("anyOf", [node]), key=lambda branch: branch.get("type") != "null")
    return _either(list(dict.fromkeys(text for branch in branches for text in _alternatives(branch))))


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
    if "const" in node or "enum" in node or node.get("type") == "boolean":
        return choices(node)
    kind = "object" if "$ref" in node else str(node.get("type", ""))
    simple = {"null": "null", "string": "text"}
    if kind in ("integer", "number"):
        noun = "an integer" if kind == "integer" else "a number"
        if "minimum" in node and "maximum" in node:
            return [f"{noun} from {node['minimum']:g} to {node['maximum']:g}"]
        bounds = [f"{word} {node[name]:g}" for name, word in _BOUNDS.items() if name in node]
        return [f"{noun} {' and '.join(bounds)}".strip()]
    return [_list(node) if kind == "array" else simple.get(kind, "a mapping" if kind else "anything")]


_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "less than",
    "maximum": "of at most",
}


def _list(node: Mapping[str, Any]) -> str:
    items = node.get("prefixItems") or [node.get("items") or {}]
    if "prefixItems" in node:
        return f"a list of {len(items)}, each {describe(items[0])}"
    known = {"text": "texts", "a number": "numbers", "an integer": "integers", "a mapping": "mappings"}
    each = describe(items[0])
    return f"a list of {known[each]}" if each in known else f"a list, each item {each}"


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
