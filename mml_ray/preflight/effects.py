"""Settings without effect: what the mode does not read is told by name, what nothing obeys yet is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mml_ray.composition.request import RunRequest
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import in_words
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.groups import KNOWN

#: group of option files -> key of its settings, where they differ; tasks and systems set several
_KEYS = {"callbacks": "cbs", "tasks": "task_list"}
#: setting -> (values that ask for nothing, what to do instead): to ignore it would give results that look as if it had been obeyed
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "peft.name": ((None,), "adapters are not supported yet; leave it at peft=none, all weights are trained."),
    "search_space": (({}, None), "a hyper-parameter search is not supported yet; set the values themselves (search_space=none)."),
    "use_best_params": ((False,), "studies are not supported yet; set the values themselves (use_best_params=false)."),
    "allow_leakage": ((False,), "it is not supported yet; leave it at false."),
    "logging.samples": ((0,), "recording pictures is not supported yet; leave it at 0."),
    "logging.cm": ((False,), "recording pictures is not supported yet; leave it at false."),
}


def check(request: RunRequest, settings: Mapping[str, Any], facts: ModeFacts) -> list[str]:
    """One sentence for each setting of the command line that this mode does not read. A continued run brings its own mode.

    Raises:
        MMLMisconfigurationException: a mode that builds models was given what is not supported yet.
    """
    if facts.builds_models:
        for key, (off, remedy) in _UNSUPPORTED.items():
            group, _, name = key.partition(".")
            given = (settings.get(group) or {}).get(name) if name else settings.get(group, off[0])
            if given not in off:
                shown = key if isinstance(given, dict) else f"{key}={in_words(given)}"
                raise MMLMisconfigurationException(f"{shown}: {remedy}")
    if settings.get("continue"):
        return []
    return [
        f"{text} has no effect: mode '{facts.name}' does not read {key}."
        for text, key in _given(request)
        if key.partition(".")[0] in KNOWN and not facts.reads(key)
    ]


def _given(request: RunRequest) -> Iterator[tuple[str, str]]:
    """(argument, dotted key) of everything that the command line sets."""
    for text in request.groups:
        group = text.lstrip("+~").partition("=")[0].partition("@")[0].partition("/")[0]
        yield text, _KEYS.get(group, group)
    for value in request.values:
        yield f"{value.sign}{value.key}={value.written}", value.key
