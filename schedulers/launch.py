"""From a composed configuration to a finished run: which run, which scheduler, and what to tell the user at the end."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mml_ray.composition.request import RunRequest
from mml_ray.composition.secrets import SECRETS, take_secrets, without_secrets
from mml_ray.driver.executor import RunSummary
from mml_ray.errors import MMLMisconfigurationException, PlanMismatchError, UnknownNameError
from mml_ray.schedulers import session
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store.paths import RunPaths
from mml_ray.store.run import find_runs

log = logging.getLogger(__name__)

#: what may be set anew when a run is continued: where it runs, not what it computes
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
    if request.flags.plan:
        from mml_ray.schedulers.preview import print_plan

        print_plan(scheduler, run_dir=run_dir, as_json=request.flags.plan == "json")
        return RunSummary()
    if run_dir is not None and _is_finished(run_dir):
        print(f"Run {run_dir} is finished: nothing is left to do.")
        return RunSummary()
    return session.run(scheduler, run_dir=run_dir)


def build_scheduler(cfg: DictConfig) -> AbstractBaseScheduler:
    """The scheduler that ``mode.scheduler._target_`` names, planned.

    Raises:
        MMLMisconfigurationException: the class cannot be imported, or is no scheduler.
    """
    target = str(OmegaConf.select(cfg, "mode.scheduler._target_", default=""))
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MMLMisconfigurationException(
            f"mode.scheduler._target_='{target}' cannot be imported: {error}. It is the full name of a scheduler class, "
            "such as mml_ray.schedulers.train.TrainingScheduler."
        ) from error
    if not (isinstance(found, type) and issubclass(found, AbstractBaseScheduler)):
        raise MMLMisconfigurationException(f"mode.scheduler._target_='{target}' is no AbstractBaseScheduler.")
    scheduler: AbstractBaseScheduler = found(cfg=cfg)  # type: ignore[call-arg]
    return scheduler


# -- continue ------------------------------------------------------------------------------------------------------------------------
def project_dir(cfg: DictConfig) -> Path:
    """``<results root>/<project>``."""
    return Path(str(cfg.out_dir)).absolute() / str(cfg.proj)


def chosen_run(cfg: DictConfig, *, mode: str | None) -> Path:
    """The run folder that ``continue`` names: ``<day>/<time>``, or ``latest``, by the journals' own time: of the mode that was
    given, else of any but those that only look (``info``).

    Raises:
        MMLMisconfigurationException: there is none; names those that are there.
    """
    project = project_dir(cfg)
    runs = find_runs(project)
    wanted = str(cfg["continue"])
    if not runs:
        raise MMLMisconfigurationException(f"continue={wanted}: project '{cfg.proj}' has no run in {project / 'runs'}.")
    if wanted == "latest":
        # a broken run that is the newest must be seen, not passed over
        fitting = [
            run for run in runs if (run.mode == mode if mode is not None else run.mode != "info") or (run.broken and run.opened)
        ]
        fitting = fitting or [run for run in runs if not run.mode]  # killed before it began, which is said further down
        if mode is not None and not fitting:
            there = ", ".join(sorted({run.mode for run in runs if run.mode}))
            raise MMLMisconfigurationException(
                f"continue=latest: project '{cfg.proj}' has no run of mode {mode}, only of: {there}."
            )
        return Path((fitting or runs)[0].path)
    folder = project / "runs" / wanted
    if not folder.is_dir():
        ids = [str(Path(run.path).relative_to(project / "runs")) for run in runs]
        raise UnknownNameError.of("run", wanted, ids, "Or continue=latest.")
    return folder


def restored_config(run_dir: Path, request: RunRequest) -> DictConfig:
    """The configuration the run was started with, and of the new call what concerns where it runs.

    Raises:
        PlanMismatchError: an override that would change what is computed.
    """
    path = RunPaths(run_dir).config
    if not path.exists():
        raise MMLMisconfigurationException(f"{path} is missing: the run was killed before it began; start a new one.")
    stored = _stored_config(path)
    _refuse_changes(stored, request)
    take_secrets(stored, request.cfg)
    with open_dict(stored):
        for key in RUNTIME_KEYS:
            if key in request.cfg and _was_overridden(key, request.overrides):
                stored[key] = OmegaConf.masked_copy(request.cfg, [key])[key]
        for key in ("continue", "out_dir", "proj"):
            stored[key] = request.cfg[key]
        if not Path(str(stored["data_dir"])).is_dir():  # the data was moved: where it is by now
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
        f"{path} is no configuration of a run: {problem}. It is written once, so something else changed it: restore it, or start a new run."
    )


def _was_overridden(key: str, overrides: tuple[str, ...]) -> bool:
    names = [override.lstrip("+~").split("=")[0] for override in overrides]
    return any(name == key or name.startswith(f"{key}.") for name in names)


def _refuse_changes(stored: DictConfig, request: RunRequest) -> None:
    for override in request.overrides:
        name = override.lstrip("+~").split("=")[0]
        top = name.split(".")[0]
        if top in RUNTIME_KEYS or name == "mode" or name in SECRETS:
            continue
        given = OmegaConf.select(request.cfg, name, default=None)
        had = OmegaConf.select(stored, name, default=None)
        plain_given, plain_had = (_plain(value) for value in (given, had))
        if plain_given != plain_had:
            raise PlanMismatchError(
                f"{override} cannot be changed when a run is continued: it was started with {json.dumps(plain_had, default=str)[:200]}. "
                f"Leave it out, or start a new run. May be changed: {', '.join(RUNTIME_KEYS[:-3])}."
            )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def unfinished_run(scheduler: AbstractBaseScheduler) -> Path | None:
    """The newest run of the project with the same plan and configuration that is not finished; ``None``: there is none."""
    assert scheduler.plan is not None
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


def _is_finished(run_dir: Path) -> bool:
    from mml_ray.store.run import read_run

    return bool(read_run(run_dir).finished)
