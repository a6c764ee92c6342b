"""The configuration as option objects: which class holds the settings of which key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mml_ray.data.options import AugmentationOptions, LoaderOptions, PreprocessingOptions, SamplingOptions, TtaOptions
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.models.options import (
    ArchOptions,
    CompileOptions,
    LossOptions,
    LrSchedulerOptions,
    MetricsOptions,
    OptimizerOptions,
    PeftOptions,
)
from mml_ray.options import Options, build, inner_schema, schema_of
from mml_ray.preflight.facts import ModeFacts, ModeOptions
from mml_ray.preflight.general import GeneralOptions
from mml_ray.prepare.options import SOURCES, SourceOptions
from mml_ray.report.options import LoggingOptions
from mml_ray.runs.options import ResourceOptions, SysOptions
from mml_ray.store.options import RemoveOptions, ReuseOptions
from mml_ray.studies.options import HpoOptions
from mml_ray.tasks.options import PivotOptions, TaggingOptions
from mml_ray.training.options import TrainerOptions, TuneOptions, options_of_callback

#: groups whose settings are always those of one class
FIXED: dict[str, type[Options]] = {
    cls.group: cls
    for cls in (
        *(
            ArchOptions,
            AugmentationOptions,
            CompileOptions,
            HpoOptions,
            LoaderOptions,
            LoggingOptions,
            LossOptions,
            LrSchedulerOptions,
        ),
        *(MetricsOptions, OptimizerOptions, PeftOptions, PivotOptions, PreprocessingOptions, RemoveOptions, ReuseOptions),
        *(SamplingOptions, SysOptions, TaggingOptions, TrainerOptions, TtaOptions, TuneOptions),
    )
}
#: every key of the top level that is ours; others belong to plugins and users, and may hold anything
KNOWN = (*FIXED, *GeneralOptions.declared(), "cbs", "mode", "resources", "search_space", "source")


def parts(settings: Mapping[str, Any], facts: ModeFacts) -> Iterator[tuple[str, type[Options], Any]]:
    """(dotted key, options, plain settings) of everything in the configuration that options hold; the top level has an empty key."""
    yield "", GeneralOptions, {key: settings[key] for key in GeneralOptions.declared() if key in settings}
    for group, cls in FIXED.items():
        if group in settings:
            yield group, cls, _given(settings, group)
    if "source" in settings:
        given = _given(settings, "source")
        creator = str(given.get("creator")) if isinstance(given, Mapping) else ""
        yield "source", SOURCES.get(creator, SourceOptions), given
    if facts.options is not None:
        yield "mode", facts.options, _given(settings, "mode")
    for group, choose in (("cbs", options_of_callback), ("resources", lambda name, given: ResourceOptions)):
        entries = _given(settings, group)
        if not isinstance(entries, Mapping):
            raise MMLMisconfigurationException(f"{group} must be a mapping, got {entries}.")
        for name, given in entries.items():
            yield f"{group}.{name}", choose(str(name), given), {} if given is None else given


def _given(settings: Mapping[str, Any], group: str) -> Any:
    found = settings.get(group)
    return {} if found is None else found


def build_options(
    settings: Mapping[str, Any], facts: ModeFacts, typed: Mapping[str, str], *, ignore_unknown: bool = False
) -> dict[str, Options]:
    """The options of all parts by dotted key; see :func:`mml_ray.options.build`.

    Raises:
        MMLMisconfigurationException: one line for each setting that is wrong.
    """
    built: dict[str, Options] = {}
    wrong: list[str] = []
    for key, cls, given in parts(settings, facts):
        try:
            built[key] = build(cls, key, given, typed=typed, ignore_unknown=ignore_unknown)
        except MMLMisconfigurationException as error:
            wrong.append(str(error))
    if wrong:
        raise MMLMisconfigurationException("\n".join(wrong))
    return built


def find_schema(key: str, settings: Mapping[str, Any], facts: ModeFacts) -> Mapping[str, Any] | None:
    """The JSON schema of one setting, where options declare it; ``None``: it is open, or belongs to a plugin."""
    for place, cls, _ in parts(settings, facts):
        prefix = f"{place}." if place else ""
        if key.startswith(prefix):
            node = inner_schema(schema_of(cls), key.removeprefix(prefix).split("."))
            if node is not None:
                return node
    return None


__all__ = ["FIXED", "KNOWN", "ModeOptions", "build_options", "find_schema", "parts"]
