"""From a composed configuration to a finished run: which run, and which scheduler."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mml_ray.composition.compose import settings_of_options
from mml_ray.composition.request import RunRequest
from mml_ray.composition.secrets import SECRETS, take_secrets, without_secrets
from mml_ray.driver.executor import RunSummary
from mml_ray.errors import MMLMisconfigurationException, PlanMismatchError, UnknownNameError
from mml_ray.schedulers import tasklist
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.schedulers.loading import compose_checked, scheduler_class
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.store import find_runs, read_run

log = logging.getLogger(__name__)

#: what may be changed when a run is continued: where it runs, not what it computes
RUNTIME_KEYS = ("sys", "resources", "logging", "data_dir", "out_dir", "num_workers", "continue", "proj", "proj_path")


def launch(request: RunRequest) -> RunSummary:
    """Run (or continue, or only print the plan of) what was asked for.

    Raises:
        UserError: what is wrong, before anything has started.
    """
    run_dir: Path | None = None
    cfg = request.cfg
    if cfg.get("continue", False):
        run_dir = chosen_run(cfg, mode=str(cfg.mode.id) if request.mode is not None else None)
        cfg = restored_config(run_dir, request)
    scheduler = build_scheduler(cfg)
    if request.flags.auto_continue and run_dir is None:
        run_dir = unfinished_run(scheduler)
    session = scheduler.create_session(run_dir, choices=request.choices)
    if request.flags.plan:
        from mml_ray.runs.preview import print_plan

        print_plan(session, as_json=request.flags.plan == "json")
        return RunSummary()
    if run_dir is not None and read_run(run_dir).finished:
        print(f"Run {run_dir} is finished: nothing is left to do.")
        return RunSummary()
    return session.run()


def build_scheduler(cfg: DictConfig) -> AbstractBaseScheduler:
    """The scheduler of a configuration, planned; see :func:`scheduler_class` for what is raised."""
    scheduler = scheduler_class(cfg)(cfg=cfg)  # type: ignore[call-arg]  # a subclass knows its subroutines
    _ = scheduler.plan  # built now: what is wrong with the tasks is found before anything else starts
    return scheduler


# -- continue ------------------------------------------------------------------------------------------------------------------------
def chosen_run(cfg: DictConfig, *, mode: str | None) -> Path:
    """The run folder that ``continue`` names: ``<day>/<time>``, or ``latest``, by the journals' own time: of the mode that was
    given, else of any but those that only look (``info``).

    Raises:
        MMLMisconfigurationException: there is no such run; names the existing ones.
    """
    project = Path(str(cfg.out_dir)).absolute() / str(cfg.proj)
    runs = find_runs(project)
    wanted = str(cfg["continue"])
    if not runs:
        raise MMLMisconfigurationException(f"continue={wanted}: project '{cfg.proj}' has no run in {project / 'runs'}.")
    if wanted == "latest":
        # if the newest run is broken the user must learn of it, so it is not passed over
        fitting = [
            run for run in runs if (run.mode == mode if mode is not None else run.mode != "info") or (run.broken and run.opened)
        ]
        fitting = fitting or [run for run in runs if not run.mode]  # killed before it began, which is reported further down
        if mode is not None and not fitting:
            modes = ", ".join(sorted({run.mode for run in runs if run.mode}))
            raise MMLMisconfigurationException(
                f"continue=latest: project '{cfg.proj}' has no run of mode {mode}, only of: {modes}."
            )
        return Path((fitting or runs)[0].path)
    folder = project / "runs" / wanted
    if not folder.is_dir():
        ids = [str(Path(run.path).relative_to(project / "runs")) for run in runs]
        raise UnknownNameError.of("run", wanted, ids, "Or continue=latest.")
    return folder


def restored_config(run_dir: Path, request: RunRequest) -> DictConfig:
    """The configuration that the run was started with, and from the new call what says where it runs.

    Raises:
        PlanMismatchError: an override that would change what is computed.
    """
    path = RunPaths(run_dir).config
    if not path.exists():
        raise MMLMisconfigurationException(f"{path} is missing: the run was killed before it began; start a new one.")
    stored = _stored_config(path)
    _refuse_changes(stored, request, read_run(run_dir).manifest.get("choices") or {})
    take_secrets(stored, request.cfg)
    with open_dict(stored):
        for key in RUNTIME_KEYS:
            if key in request.cfg and any(f"{_name(override)}.".startswith(f"{key}.") for override in request.overrides):
                stored[key] = OmegaConf.masked_copy(request.cfg, [key])[key]
        for key in ("continue", "out_dir", "proj"):
            stored[key] = request.cfg[key]
        if stored.get("tagging", None):  # the names of the tasks have their tags already
            stored["tagging"] = {"all": False, "variants": []}
        if not Path(str(stored["data_dir"])).is_dir():  # the data was moved
            stored["data_dir"] = request.cfg["data_dir"]
    return stored


def _stored_config(path: Path) -> DictConfig:
    try:
        stored = OmegaConf.load(path)
        if isinstance(stored, DictConfig):
            return stored
        problem = f"it holds a {type(stored).__name__}"
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        problem = " ".join(str(error).split())
    raise MMLMisconfigurationException(
        f"{path} is not the configuration of a run: {problem}. A run writes it once, so something else changed it. Restore it, or start a "
        "new run."
    )


def _refuse_changes(stored: DictConfig, request: RunRequest, choices: Mapping[str, str]) -> None:
    """Raise PlanMismatchError for an override that would change what the run computes.

    ``choices``: the option of each group that the run was started with, as far as it is known. The same one may be named again, whatever
    else was set in its place; another one if its settings are those of the run.
    """
    mode = str(stored.mode.id)
    if request.mode is not None and str(request.cfg.mode.id) != mode:
        raise PlanMismatchError(
            f"mode={request.mode} cannot be changed when a run is continued: continue={request.cfg['continue']} is a run of mode {mode}. "
            "Leave the mode out, or start a new run."
        )
    given = [override for override in request.overrides if not (override.startswith("mode=") or _may_change(_name(override)))]
    if not given:
        return
    argv = [f"mode={mode}", *(override for override in request.overrides if not override.startswith("mode="))]
    again = request if request.mode is not None else compose_checked(argv)
    cfg = without_secrets(again.cfg)
    tasklist.expand(cfg)  # as that of the run was
    options = settings_of_options(argv)
    for override in given:
        group = override.lstrip("+~").split("=")[0]
        if override in options and group in choices and again.choices.get(group) == choices[group]:
            continue
        for key in sorted(options.get(override, [_name(override)]), key=lambda key: key.count(".")):
            wanted, had = (_plain(OmegaConf.select(settings, key, default=None)) for settings in (cfg, stored))
            if wanted == had or _may_change(key):
                continue
            there = json.dumps(had, default=str)[:200]
            raise PlanMismatchError(
                f"{override} cannot be changed when a run is continued: it was started with "
                f"{f'{key}={there}' if override in options else there}. "
                f"Leave it out, or start a new run. May be changed: {', '.join(RUNTIME_KEYS[:-3])}."
            )


def _may_change(key: str) -> bool:
    return key.split(".")[0] in RUNTIME_KEYS or key in SECRETS


def _name(override: str) -> str:
    """The setting of an override; of a group (``logging/render=none``) that of its usual place."""
    return override.lstrip("+~").split("=")[0].split("@")[0].replace("/", ".")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def unfinished_run(scheduler: AbstractBaseScheduler) -> Path | None:
    """The newest unfinished run of the project with the same plan and configuration; ``None`` if there is none."""
    wanted = _what_counts(scheduler.cfg)
    for run in find_runs(scheduler.fm.proj_path):
        paths = RunPaths(Path(run.path))
        if run.finished or not paths.config.exists() or not paths.plan.exists():
            continue
        try:
            if json.loads(paths.plan.read_text())["fingerprint"] != scheduler.plan.fingerprint:
                continue
            stored = _stored_config(paths.config)
        except (OSError, ValueError, KeyError, TypeError, MMLMisconfigurationException) as error:
            log.warning("Run %s is not continued: %s", run.path, error)
            continue
        if _what_counts(stored) == wanted:
            return Path(run.path)
    return None


def _what_counts(cfg: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(without_secrets(cfg), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key not in RUNTIME_KEYS}
