"""AbstractBaseScheduler: the recipe behind a mode.

A subclass names its subroutines, and fills two parallel lists in :meth:`AbstractBaseScheduler.create_routine`: bound methods in
``self.commands`` and their parameters in ``self.params``. Each entry becomes an atomic command: it is committed as a whole or it did
not happen, and a run that was killed continues at the first one that is not committed.

Inside a command ``self.cfg``, ``self.fm``, ``self.pivot``, ``self.get_struct()`` and the ``self.create_*()`` methods work wherever the
command runs. Attributes set on ``self`` there do not travel back (a warning says so): return a value and read it later with
:meth:`AbstractBaseScheduler.results`, or attach a path to the struct.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mml_ray.composition.portable import plain, portable
from mml_ray.composition.secrets import without_secrets
from mml_ray.driver.command import FINISH, FRAME, CommandDefaults, defaults_of
from mml_ray.driver.graph import Entry, Plan, build_plan
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.options import build
from mml_ray.preflight.facts import ModeOptions
from mml_ray.runs.options import RunOptions
from mml_ray.schedulers import structs, tasklist
from mml_ray.store.manager import MMLFileManager
from mml_ray.tasks.struct import TaskStruct

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

    from mml_ray.report.tables import Table
    from mml_ray.runs.session import Session

log = logging.getLogger(__name__)


class NoSubroutineError(MMLMisconfigurationException, ValueError):
    """``mode.subroutines`` is empty."""


class Handle(int):
    """What :meth:`AbstractBaseScheduler.add` returns: the index of the entry, to be named in ``after``."""


class AbstractBaseScheduler(ABC):
    """Base class of all schedulers.

    Args:
        cfg: the configuration of the run.
        available_subroutines: what ``mode.subroutines`` may name.

    Raises:
        NoSubroutineError: ``mode.subroutines`` is empty (also a ValueError).
        MMLMisconfigurationException: it names something that is not available, or a setting contradicts another one.
    """

    #: command names that may use a GPU when ``resources.<name>.num_gpus`` is ``auto``
    gpu_commands: frozenset[str] = frozenset()
    #: whether every task of the list must be there (or derivable) before anything starts
    requires_tasks: bool = True
    #: whether stored preprocessed images must match ``cfg.preprocessing``
    uses_preprocessed: bool = True
    #: whether ``sys.executor=auto`` picks Ray even for a purely sequential plan
    uses_ray_when_sequential: bool = False
    #: options of the group ``mode``; ``None``: it may hold anything
    mode_options: type[ModeOptions] | None = None
    #: by subroutine the keys of the configuration that it reads, beside those that every run reads; ``None``: all. A subclass declares
    #: both anew, or may be given anything
    uses: Mapping[str, tuple[str, ...]] | None = None

    def __init__(self, cfg: DictConfig, available_subroutines: list[str]) -> None:
        self.cfg = cfg
        self.available_subroutines = list(available_subroutines)
        self.subroutines: list[str] = _checked_subroutines(cfg, available_subroutines)
        self.pivot: str | bool = tasklist.expand(cfg)
        self.commands: list[Callable[..., Any]] = []
        self.params: list[list[Any]] = []
        self.return_value: float | None = None
        self.active_step_naming = "init"
        self.continue_status = bool(cfg.get("continue", False))
        self.checkpoint_callback: Any = None
        self.metrics_callback: Any = None
        self.summary: Any = None
        self._added: dict[int, tuple[tuple[int, ...] | None, str]] = {}
        self._book = structs.StructBook()
        self._snapshot: dict[str, Any] | None = None
        results = Path(str(cfg.out_dir)).absolute()
        self.fm = MMLFileManager(
            data_path=str(cfg.data_dir),
            proj_path=results / str(cfg.proj),
            results_path=results,
            reuse_cfg={key: value for key, value in plain(cfg, "reuse").items() if value is not None},
            remove_cfg=plain(cfg, "remove"),
        )

    # -- the schedule ------------------------------------------------------------------------------------------------------------
    @abstractmethod
    def create_routine(self) -> None:
        """Append bound methods to ``self.commands`` and their parameters to ``self.params`` (or use :meth:`add`)."""

    def add(self, command: Callable[..., Any], *params: Any, after: Sequence[int] | None = None, unit: str = "") -> Handle:
        """Append one command; with ``after`` given (also empty) it waits for exactly those entries instead of its stage.

        ``unit`` names the group of commands it belongs to, such as those of one fold (``"fold 3"``).

        Returns:
            A handle to be named in the ``after`` of later entries.
        """
        self.commands.append(command)
        self.params.append(list(params))
        index = len(self.commands) - 1
        self._added[index] = (None if after is None else tuple(int(handle) for handle in after), unit)
        return Handle(index)

    @functools.cached_property
    def plan(self) -> Plan:
        """The schedule as a plan, built when it is first asked for: by then the constructors of all subclasses have set what they need.

        Raises:
            UserError: a task is missing, or settings that do not fit it or one another.
        """
        if self.requires_tasks:
            names = [str(name) for name in self.cfg.task_list]
            structs.check_tasks(names, self.fm, preprocessing=str(self.cfg.preprocessing.id))
            if self.uses_preprocessed:
                structs.check_preprocessing(self.cfg, self.fm)
        self.create_routine()
        if len(self.commands) != len(self.params):
            raise RuntimeError(
                f"{type(self).__name__}.create_routine gave {len(self.commands)} commands but {len(self.params)} lists of parameters."
            )
        scheduler = f"{type(self).__module__}.{type(self).__qualname__}"
        return build_plan([self._entry(index) for index in range(len(self.commands))], scheduler=scheduler)

    def _entry(self, index: int) -> Entry:
        name = self.commands[index].__name__
        if not callable(getattr(self, name, None)):
            raise MMLMisconfigurationException(
                f"Command '{name}' is not a method of {type(self).__name__}; a worker finds commands by their name on the scheduler."
            )
        defaults = defaults_of(self.commands[index])
        after, unit = self._added.get(index, (None, ""))
        return Entry(name, self.params[index], after, defaults.sequential, defaults.retries, unit)

    @staticmethod
    def compare_schedule_entries(entry_1: str, entry_2: str) -> bool:
        """Whether two lines of a schedule (``method: <name> / <params>``) are compatible.

        An address in an object's repr (``object at 0x7f...``) never makes two entries differ.
        """
        first, second = (re.sub(r"0x[0-9a-fA-F]+", "0x", entry) for entry in (entry_1, entry_2))
        return first == second

    def run(self) -> float | None:
        """Run the schedule in a new run folder and return ``self.return_value``."""
        self.summary = self.create_session().run()
        return self.return_value

    def create_session(self, run_dir: Path | None = None, *, choices: Mapping[str, str] | None = None) -> Session:
        """Create the run of this schedule: a new one, or the one in ``run_dir``, of which it runs what is left.

        ``choices`` (the option of each group) are kept with a new run, for a later call that continues it and names one of them.
        """
        mode, project, seed = str(self.cfg.mode.id), str(self.cfg.proj), self.cfg.get("seed", None)
        from mml_ray.runs.session import Session

        return Session(
            workload=self,
            plan=self.plan,
            manager=self.fm,
            options=_run_options(self.cfg),
            manifest={"mode": mode, "project": project, "seed": seed, "choices": dict(choices or {})},
            config=OmegaConf.to_yaml(without_secrets(self.cfg)),
            finish=self._finish,
            run_dir=run_dir,
        )

    def _finish(self, return_value: float | None) -> list[Table]:
        self.return_value = return_value
        return self.summary_tables()

    def set_active_naming(self, command_ix: int) -> None:
        """Set ``active_step_naming`` to that of the command with this index: its key, which is safe as a file name."""
        self.active_step_naming = self.plan.commands[command_ix].key

    # -- the frame ---------------------------------------------------------------------------------------------------------------
    def prepare_exp(self) -> None:
        """First command of every run: creates the structs of all tasks (tagged variants lazily), then calls the hook.

        Override :meth:`after_preparation_hook` instead.
        """
        for name in self.cfg.task_list:
            self.get_struct(name)
        self.after_preparation_hook()

    def after_preparation_hook(self) -> None:  # noqa: B027
        """Called at the end of the preparation, also when a run is continued. May set attributes: they travel to all commands."""

    def finish_exp(self) -> None:
        """Last command of every run that committed everything; override :meth:`before_finishing_hook` instead."""
        self.before_finishing_hook()

    def before_finishing_hook(self) -> None:  # noqa: B027
        """Called at the end, before intermediate results are removed; the place for plots and for ``self.return_value``."""

    def summary_tables(self) -> list[Table]:
        """What is shown at the end of a run, also when some commands failed; made of the committed results."""
        return []

    # -- inside a command --------------------------------------------------------------------------------------------------------
    def get_struct(self, task_name: str) -> TaskStruct:
        """The struct of a task. What a command attaches to it is there for every command that starts after the commit.

        Raises:
            TaskNotFoundError: no such task; a tagged variant is created when its base exists.
        """
        return self._book.get(task_name, self.fm, preprocessing=str(self.cfg.preprocessing.id))

    def results(self, command: Callable[..., Any] | str) -> list[Any]:
        """The values that all committed commands of this name returned, in the order of the plan, also after a resume."""
        name = command if isinstance(command, str) else command.__name__
        return [entry["result"] for entry in self.fm.results(name)]

    def highlight_text(self, text: str) -> str:
        """``text`` in bold for a terminal with colors, unless ``logging.highlight_task_names`` is off."""
        options = self.cfg.get("logging", {})
        wanted = options.get("highlight_task_names", False) and options.get("render", {}).get("color", True)
        able = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return f"\033[1m{text}\033[0m" if wanted and able else text

    @property
    def status_log(self) -> Path:
        """The journal of the run: what was begun, committed, failed. Read it with ``mml-ray runs show``."""
        return self.fm.run_paths.journal

    def get_checkpoints_dir(self) -> Path:
        """Where the running command keeps its training checkpoints; the same for all attempts at it."""
        folder = self.fm.run_paths.checkpoints / self.active_step_naming
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def create_datamodule(self, task_structs: TaskStruct | list[TaskStruct], fold: int = 0) -> LightningDataModule:
        """The datamodule of one task or several. Batches: ``{task: {"image": [N, C, H, W], "targets": ..., ...}}``."""
        from mml_ray.schedulers import components

        listed = [task_structs] if isinstance(task_structs, TaskStruct) else list(task_structs)
        return components.create_datamodule(self, listed, fold)

    def create_model(
        self, task_structs: list[TaskStruct], task_weights: list[float] | None = None, load_parameters: Path | None = None
    ) -> LightningModule:
        """The model with one head for each task; with ``load_parameters`` its architecture and weights come from that file.

        ``task_weights`` weighs the losses (normalized); ``None``: all equally.
        """
        from mml_ray.schedulers import components

        return components.create_model(self, task_structs, task_weights=task_weights, load_parameters=load_parameters)

    def create_trainer(self, monitor: tuple[str, str] | None = None, metrics_callback: bool = False) -> Trainer:
        """A trainer from ``cfg.trainer`` with the callbacks of ``cfg.cbs`` and checkpoints at every epoch end and by time.

        ``monitor`` names a metric and its mode (``min`` or ``max``): the best state is kept, and early stopping follows it; without
        it the last epoch counts. The callbacks can be reached as ``self.checkpoint_callback`` and ``self.metrics_callback``.
        """
        from mml_ray.schedulers import components

        return components.create_trainer(self, monitor=monitor, metrics_callback=metrics_callback)

    def lightning_tune(
        self,
        trainer: Trainer,
        model: LightningModule,
        datamodule: LightningDataModule | None,
        train_dataloaders: Any = None,
    ) -> None:
        """Tune learning rate and batch size as ``cfg.tune`` says; the values are stored in the model and the datamodule."""
        from mml_ray.schedulers import components

        components.tune(self, trainer, model, datamodule=datamodule, train_dataloaders=train_dataloaders)

    # -- what the driver calls (mml_ray.driver.command.PlannedWorkload) --------------------------------------------------------------
    def command_defaults(self, name: str) -> CommandDefaults | None:
        """What ``@command`` declares for the method of this name; ``None`` if there is no such method."""
        method = getattr(type(self), name, None)
        return defaults_of(method) if callable(method) else None

    def attach(self, manager: MMLFileManager) -> None:
        """Use the file manager of this process from now on."""
        self.fm = manager

    def execute(self, name: str, params: Sequence[Any]) -> Any:
        """Run one command in this process."""
        self._book.reset()
        self.checkpoint_callback = self.metrics_callback = None
        if self.fm.attempt is not None:
            self.active_step_naming = str(self.fm.attempt["command"])
        self._snapshot = None if name in FRAME else _copied(self.__dict__)
        result = getattr(self, name)(*params)
        if name == FINISH:  # committed, so that it is known also to a driver that continues after this one was killed
            return None if self.return_value is None else float(self.return_value)
        return result

    def collect_deltas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the command changed on its structs."""
        return self._book.deltas(self.fm)

    def forget(self) -> None:
        """Restore every attribute that the command set, and warn: from another process it would not have come back."""
        self._book.reset()
        before, self._snapshot = self._snapshot, None
        if before is None:
            return
        for name in _changed(before, self.__dict__):
            log.warning(
                "The command %s set self.%s, which does not travel back to the scheduler. Return the value and read it with "
                "self.results(...), or attach it to the struct.",
                self.active_step_naming,
                name,
            )
            if name in before:
                self.__dict__[name] = before[name]
            else:
                del self.__dict__[name]

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("fm", "_book", "_snapshot", "summary", *_SCHEDULE)}
        state["cfg"] = portable(self.cfg)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.cfg = OmegaConf.create(state["cfg"])
        self.commands, self.params, self._added, self.summary = [], [], {}, None
        self._book, self._snapshot = structs.StructBook(), None


# -- details -----------------------------------------------------------------------------------------------------------------------------
#: built in the driver before the first command; as long as the plan, so no command copies it
_SCHEDULE = ("plan", "commands", "params", "_added")
_OWN = {"_snapshot", "_book", "checkpoint_callback", "metrics_callback", "active_step_naming", "fm", "cfg", "summary", *_SCHEDULE}
_CONTAINERS = (list, dict, set)


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: copy.deepcopy(value) if isinstance(value, _CONTAINERS) else value
        for name, value in attributes.items()
        if name not in _OWN
    }


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [name for name in now if name not in _OWN and name not in before]
    for name, value in before.items():
        current = now.get(name)
        same = current == value if isinstance(value, _CONTAINERS) else current is value
        if not same:
            changed.append(name)
    return changed


def _checked_subroutines(cfg: DictConfig, available: Sequence[str]) -> list[str]:
    wanted = cfg.mode.get("subroutines", None)
    listed = [wanted] if isinstance(wanted, str) else list(wanted or [])
    if not listed:
        raise NoSubroutineError(f"mode.subroutines is empty; choose from {', '.join(available)}.")
    aliases = {"sample_grid": "samples"} if "samples" in available else {}
    listed = [aliases.get(name, name) for name in listed]
    for name in listed:
        if name not in available:
            raise UnknownNameError.of("subroutine", str(name), available)
    return listed


def _run_options(cfg: DictConfig) -> RunOptions:
    groups = {key: plain(cfg, key) for key in ("sys", "resources")}
    live = bool(cfg.get("trainer", {}).get("enable_progress_bar", True))
    given = {**groups, "seed": cfg.get("seed", None) or None, "allow_gpu": bool(cfg.get("allow_gpu", True)), "live": live}
    # a stored configuration may have been written by another version
    return build(RunOptions, "", given, ignore_unknown=bool(cfg.get("continue", False)))
