"""Compose the configuration, pick the scheduler, hand its plan to the driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mml_ray import env, plugins

if TYPE_CHECKING:
    from mml_ray.composition.request import RunFlags, RunRequest

#: variable of the env file, key of the configuration
PLACES = {"MML_DATA_PATH": "data_dir", "MML_RESULTS_PATH": "out_dir"}


def compose_run(argv: Sequence[str], flags: RunFlags | None = None) -> RunRequest:
    """Load env file and plugins, then compose and check the configuration of ``mode key=value ...``."""
    env.load()
    plugins.load()
    from mml_ray.schedulers.loading import compose_checked

    return compose_checked(argv, flags)


def configuration_schema(argv: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the configuration of ``mode key=value ...``, as it is without settings of its own for ``info``."""
    request = compose_run(argv or ["info"])
    from mml_ray.preflight.schema import configuration_schema as schema_of
    from mml_ray.schedulers.loading import mode_facts

    return schema_of(request, mode_facts(request.cfg))


def run(argv: Sequence[str], flags: RunFlags | None = None) -> int:
    """Compose and execute; returns the exit code. Errors are raised (``MMLError.exit_code`` says which code they mean)."""
    from mml_ray.console import logs

    request = compose_run(argv, flags)
    logs.configure(request)
    data_only = request.flags.plan == "json"  # standard output is then for a program
    for line in [*default_places(request), *request.notices]:
        print(line, file=sys.stderr if data_only else sys.stdout, flush=True)
    from mml_ray.launch import launch

    return launch(request).exit_code


def default_places(request: RunRequest) -> list[str]:
    """One line that says where data and results go, if nobody said it."""
    unset = [name for name, key in PLACES.items() if not _is_set(request, name, key)]
    if not unset:
        return []
    return [f"Data in {request.cfg.data_dir}, results in {request.cfg.out_dir} (set {' and '.join(unset)} to change that)."]


def _is_set(request: RunRequest, name: str, key: str) -> bool:
    given = any(text.lstrip("+").startswith(f"{key}=") for text in request.overrides)
    on_cluster = request.choices.get("sys") == "cluster" and name.replace("MML_", "MML_CLUSTER_") in os.environ
    return given or on_cluster or name in os.environ
