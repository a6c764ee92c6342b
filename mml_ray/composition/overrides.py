"""The arguments of one call, read: which mode, which options of groups, which values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mml_ray.composition.tree import ConfigTree
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

#: other spellings of keys: pattern, replacement
ALIASES = (
    (re.compile(r"^reuse\.clean_up\.(\w+)$"), r"remove.\1"),
    (re.compile(r"^logging\.highlight_text$"), "logging.highlight_task_names"),
)
DEFAULT_MODE = "info"


@dataclass(frozen=True)
class Value:
    """One ``key=value``: sign (``""``, ``+``, ``++``, ``~``), dotted key, value, its text as typed, and what it replaces."""

    sign: str
    key: str
    value: Any
    written: str
    default: Any = None


@dataclass
class Arguments:
    """What the arguments say. ``texts`` are all of them, normalized; ``groups`` those that choose an option."""

    texts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    mode: str | None = None
    verbose: bool | tuple[str, ...] = False
    notices: list[str] = field(default_factory=list)


def with_mode(arguments: Sequence[str], tree: ConfigTree) -> tuple[list[str], str | None, list[str]]:
    """Rewrite ``train ...`` to ``mode=train ...``; returns the arguments, the mode (or ``None``) and notices.

    ``mode=`` in front is accepted with a notice, behind with a warning. Without a mode it is ``info``, silently if the call
    continues a run, which brings its own.
    """
    rest, notices = list(arguments), []
    later = [argument for argument in rest[1:] if argument.startswith("mode=")]
    if rest and rest[0].startswith("mode="):
        notices.append(f"The prefix mode= may be left out: mml-ray {rest[0].removeprefix('mode=')} ...")
    elif rest and "=" not in rest[0] and not rest[0].startswith("~"):
        rest[0] = f"mode={rest[0]}"
    elif later:
        notices.append(f"The mode comes first: mml-ray {later[0].removeprefix('mode=')} ...")
    given = [argument.removeprefix("mode=") for argument in rest if argument.startswith("mode=")]
    if len(given) > 1:
        raise MMLMisconfigurationException(f"Two modes are given: {' and '.join(given)}. Give one.")
    if not given:
        if not any(argument.startswith("continue=") for argument in rest):
            notices.append(f"No mode is given; showing '{DEFAULT_MODE}'. The mode comes first: mml-ray {DEFAULT_MODE} ...")
        return [f"mode={DEFAULT_MODE}", *rest], None, notices
    if given[0] not in tree.modes:
        raise UnknownNameError.of("mode", given[0], tree.modes, "mml-ray --help describes them.")
    return rest, given[0], notices


def read(arguments: Sequence[str], tree: ConfigTree) -> Arguments:
    """Read all arguments. Raises a ``UserError`` for bad syntax and for groups or options that do not exist."""
    rest, mode, notices = with_mode(arguments, tree)
    result = Arguments(mode=mode, notices=notices)
    for text in rest:
        override = _parse(text)
        key = _alias(override.key_or_group)
        sign = _sign(text)
        written = text.partition("=")[2]
        if key.startswith(("hydra.", "hydra/")):
            result.verbose = _verbose(key, override)
        elif key in tree.groups or override.package is not None:
            _check_options(key, override, tree)
            result.groups.append(text)
        elif "/" in key:
            raise UnknownNameError.of("group", key, tree.groups)
        else:
            result.values.append(Value(sign, key, _value(override), written))
        result.texts.append(f"{sign}{key}={written}" if "=" in text and override.package is None else text)
    return result


def _sign(text: str) -> str:
    match = re.match(r"\+\+|\+|~|", text)
    return match.group() if match else ""


def _alias(key: str) -> str:
    for pattern, replacement in ALIASES:
        key = pattern.sub(replacement, key)
    return key


def _parse(text: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    if ("=" not in text and not text.startswith("~")) or text.startswith("="):
        raise MMLMisconfigurationException(
            f"'{text}' is neither a flag nor key=value. The mode comes first, then overrides: mml-ray train tasks=digits seed=7"
        )
    try:
        return parser.parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        for quoted in _quoted(value):
            try:
                return parser.parse_override(f"{key}={quoted}")
            except HydraException:
                continue
        detail = str(error).splitlines()[0]
        raise MMLMisconfigurationException(
            f"Cannot read '{text}': {detail}. Forms: key=value, key=[a,b], key={{a:1}}, group=option, +new.key=value, ~key."
        ) from error


def _quoted(value: str) -> list[str]:
    """Other readings of a value that the grammar refuses, such as ``proj#3`` or ``~/data``: the same in quotes."""
    if not value or "'" in value or '"' in value or "\\" in value:
        return []
    if value.startswith("[") and value.endswith("]") and not re.search(r"[\[\]{}]", value[1:-1]):
        return ["[" + ",".join(f"'{item.strip()}'" for item in value[1:-1].split(",")) + "]"]
    return [f"'{value}'"] if not re.search(r"[\[\]{},]", value) else []


def _value(override: Override) -> Any:
    if override.is_sweep_override():
        raise MMLMisconfigurationException(
            f"'{override.input_line}' gives several values for one setting. "
            "A list is written key=[a,b]; a text with a comma needs quotes inside quotes: key='\"a,b\"'."
        )
    return override.value()


def _verbose(key: str, override: Override) -> bool | tuple[str, ...]:
    if key != "hydra.verbose":
        raise MMLMisconfigurationException(
            f"'{override.input_line}': of hydra's own settings only hydra.verbose is used. "
            "Data and results are placed by data_dir and out_dir, the run's folder below them by proj."
        )
    value = _value(override)
    if isinstance(value, bool):
        return value
    names = value if isinstance(value, list) else [value]
    return tuple(str(name) for name in names)


def _check_options(group: str, override: Override, tree: ConfigTree) -> None:
    value = _value(override)
    if group not in tree.groups:
        raise UnknownNameError.of("group", group, tree.groups)
    if override.is_delete() and value is None:
        return
    for option in value if isinstance(value, list) else [value]:
        if f"{group}/{option}" not in tree.files:
            kind = f"option of the group '{group}':"
            raise UnknownNameError.of(kind, str(option), tree.groups[group], f"({override.input_line})")
