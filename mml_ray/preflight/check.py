"""The settings of a run, before anything else of it exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf, open_dict

from mml_ray.composition.portable import plain
from mml_ray.composition.request import RunRequest
from mml_ray.data.options import PreprocessingOptions
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.options import CompileOptions
from mml_ray.options import Options, in_words
from mml_ray.preflight import build, effects, names
from mml_ray.preflight.facts import ModeFacts
from mml_ray.preflight.groups import build_options, find_schema
from mml_ray.training.options import TuneOptions

#: types that the default of a setting implies where no options declare it
_IMPLIED: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    list: ((list,), "a list"),
}


def check(request: RunRequest, facts: ModeFacts) -> RunRequest:
    """The request with what its values stand for (a text for a list of one, absolute folders) and notices of settings without effect.

    Raises:
        MMLMisconfigurationException: what is wrong, one line for each setting.
    """
    cfg = request.cfg
    settings = plain(cfg)
    typed = {value.key: value.written for value in request.values if isinstance(value.value, bool | int | float)}
    options = build_options(settings, facts, typed)
    changes = {
        key: value for place, made in options.items() for key, value in _changes(_at(settings, place), made.plain(), place)
    }
    with open_dict(cfg):
        for key, value in {**changes, **dict(_taken_by_default(request, settings, facts))}.items():
            OmegaConf.update(cfg, key, value)
    _check_preprocessing(options, request.choices)
    notices = effects.check(request, settings, facts)
    if facts.builds_models:
        _check_compilation(options)
        names.check(options)
        build.check(options, build.unproven(request, settings, facts))
    return replace(request, notices=(*request.notices, *notices))


def _at(settings: Any, place: str) -> Any:
    for part in place.split(".") if place else ():
        settings = (settings.get(part) or {}) if settings else {}
    return settings


def _changes(given: Mapping[str, Any], taken: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name, value in taken.items():
        key = f"{place}.{name}" if place else name
        if isinstance(value, dict) and isinstance(given.get(name), dict):
            yield from _changes(given[name], value, key)
        elif name in given and given[name] != value:
            yield key, value


def _taken_by_default(request: RunRequest, settings: Mapping[str, Any], facts: ModeFacts) -> Iterator[tuple[str, Any]]:
    """Hold values of the command line that no options declare against the type of what they replace; yields texts as they were typed.

    Raises:
        MMLMisconfigurationException: another type.
    """
    for value in request.values:
        given, default = value.value, value.default
        if any(isinstance(one, str) and ("${" in one or one == "???") for one in (given, default)):
            continue
        types, words = _IMPLIED.get(type(default), ((), ""))
        if not types or find_schema(value.key, settings, facts) is not None:
            continue
        if isinstance(default, str) and isinstance(given, bool | int | float):
            yield value.key, value.written
        elif not isinstance(given, types) or (isinstance(given, bool) and bool not in types):
            raise MMLMisconfigurationException(f"{value.key} must be {words}, got {in_words(given)}.")


def _check_preprocessing(options: Mapping[str, Options], choices: Mapping[str, str]) -> None:
    chosen, made = choices.get("preprocessing"), options.get("preprocessing")
    if chosen is not None and isinstance(made, PreprocessingOptions) and made.id != chosen:
        raise MMLMisconfigurationException(
            f"preprocessing={chosen} has the id '{made.id}'. The id names the stored images, so it must be the name of the file: copy "
            f"preprocessing/{chosen}.yaml to a file named after the new id."
        )


def _check_compilation(options: Mapping[str, Options]) -> None:
    tune, compilation = options.get("tune"), options.get("compile")
    if isinstance(tune, TuneOptions) and isinstance(compilation, CompileOptions) and tune.lr and compilation.enable:
        raise MMLMisconfigurationException("tune.lr=true cannot be combined with compile.enable=true: set one of them to false.")
