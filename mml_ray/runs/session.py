"""One run of one scheduler: opens the run folder, chooses the executor, drives the plan, closes everything again."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mml_ray import __version__, atomic
from mml_ray.composition.secrets import without_secrets
from mml_ray.driver.command import CommandSpec
from mml_ray.driver.disk_space import patiently
from mml_ray.driver.environment import release_threads
from mml_ray.driver.executor import Executor, FailurePolicy, Interrupt, RunSummary, run_plan
from mml_ray.driver.graph import Board, Plan
from mml_ray.driver.inline import InlineExecutor
from mml_ray.driver.progress import LogTail, PlainDisplay, create_display
from mml_ray.driver.resources import Node, Resources, check_feasible, local_node, resolve
from mml_ray.driver.worker import AttemptContext, run_attempt
from mml_ray.errors import CommandError, FencedError, MMLError, MMLMisconfigurationException, UnknownNameError
from mml_ray.report.ending import print_ending
from mml_ray.runs.history import history
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.store import RunStore, current_owner

log = logging.getLogger(__name__)
PREPARE, FINISH = "prepare_exp", "finish_exp"


def run(scheduler: AbstractBaseScheduler, *, run_dir: Path | None = None, choices: Mapping[str, str] | None = None) -> RunSummary:
    """Run the scheduler's plan from where it stands, in ``run_dir`` (``None``: a new run folder of the project).

    ``choices`` (the option of each group) are kept with a new run, for who continues it and names one of them.

    Raises:
        UserError: what is wrong with the settings, found before the first command starts.
        FencedError: another driver took the run over.
    """
    return Session(scheduler, run_dir, choices).run()


class Session:
    """See :func:`run`. Each step is a method, so that the order in :meth:`run` can be read."""

    def __init__(self, scheduler: AbstractBaseScheduler, run_dir: Path | None, choices: Mapping[str, str] | None = None) -> None:
        self.choices = dict(choices or {})
        self.scheduler, self.cfg = scheduler, scheduler.cfg
        self.continued = run_dir is not None
        self.run_dir = run_dir or new_run_dir(scheduler.fm.proj_path)
        self.paths = RunPaths(self.run_dir)
        assert scheduler.plan is not None
        self.plan: Plan = scheduler.plan
        self.kind = executor_kind(scheduler)
        self.manager: MMLFileManager = scheduler.fm
        self.interrupt = Interrupt()
        self.display: Any = None
        self.ray: Any = None

    def run(self) -> RunSummary:
        """From opening the run folder to its end. Interrupted before its first command, it says how to continue, too."""
        try:
            return self._run()
        except KeyboardInterrupt:
            if self.paths.plan.exists():
                print(f"Continue with: {self._again()}", flush=True)
            raise

    def _run(self) -> RunSummary:
        with contextlib.ExitStack() as stack:
            stack.callback(release_threads)
            nodes = self._nodes()
            framed = self._with_resources(nodes)
            store = self._open_store()
            stack.callback(store.close)
            store.set_plan(self._document(framed))
            display = self.display = stack.enter_context(
                create_display(tail=self._tail(), live=self._live(), history=self._history())
            )
            where = self.kind if self.ray is None else f"ray at {self.ray.address}"
            display.note(f"Run {self.run_dir} ({self.scheduler.cfg.mode.id}, {len(self.plan.commands)} commands, {where})")
            backend: Any = self._host(store, stack) if self.kind == "ray" else store
            self.manager.attach(backend, run_dir=self.run_dir)
            stack.callback(self.manager.detach)
            stack.enter_context(self._signals(store))
            return self._drive(framed, backend, nodes, display, stack)

    # -- before ----------------------------------------------------------------------------------------------------------------------
    def _nodes(self) -> list[Node]:
        if self.kind != "ray":
            return [local_node()]
        address = cluster_address(self.cfg)
        if address:
            from mml_ray.driver.ray.executor import RayOptions, RaySession

            self.ray = RaySession(RayOptions(address=address))
            nodes: list[Node] = self.ray.nodes()
            return nodes
        return [planned_local_node(self.cfg)]

    def _with_resources(self, nodes: list[Node], *, check: bool = True) -> Plan:
        """The whole plan, with numbers for everything it asks for. ``check``: refuse what none of the nodes can hold."""
        previous = self._previous_resources()
        self._check_names()
        known: dict[str, tuple[dict[str, Any], Resources]] = {}

        def of_name(name: str, width: int) -> tuple[dict[str, Any], Resources]:
            wanted = self._wanted(name)
            uses_gpu = bool(self.cfg.get("allow_gpu", True)) and name in self.scheduler.gpu_commands
            return wanted, resolve(wanted, nodes, width=width, uses_gpu=uses_gpu, where=f"resources.{name}")

        def choose(spec: CommandSpec, width: int) -> CommandSpec:
            if spec.name not in known:
                known[spec.name] = of_name(spec.name, width)
            wanted, chosen = known[spec.name]
            if spec.key in previous and wanted.get("num_cpus") in (None, "auto"):
                kept = replace(chosen, num_cpus=previous[spec.key].num_cpus)
                chosen = kept if any(node.holds(kept) for node in nodes) else chosen
            own = wanted.get("retries")
            return replace(spec, resources=chosen, retries=int(own) if own is not None else spec.retries)

        planned = self.plan.with_resources(choose)
        if check:
            check_feasible([(spec.name, spec.resources) for spec in planned.commands], nodes)
        return planned

    def _check_names(self) -> None:
        """A name in the group ``resources`` that is no command: refused if one of the plan comes close, else told."""
        planned = sorted({spec.name for spec in self.plan.commands})
        for name in self.cfg.get("resources", {}):
            if name == "default" or callable(getattr(self.scheduler, str(name), None)):  # a step that this run leaves out
                continue
            if difflib.get_close_matches(str(name), planned, n=1):
                raise UnknownNameError.of("command in resources", str(name), planned)
            log.warning("resources.%s is not used: this mode has no such command (there are %s).", name, ", ".join(planned))

    def _previous_resources(self) -> dict[str, Resources]:
        """A continued run keeps its thread numbers, so that its results stay the same on a larger machine."""
        if not self.continued or not self.paths.plan.exists():
            return {}
        import json

        content = json.loads(self.paths.plan.read_text())
        return {item["key"]: Resources.from_json(item["resources"]) for item in content["commands"]}

    def _wanted(self, name: str) -> dict[str, Any]:
        group = OmegaConf.to_container(self.cfg.get("resources", OmegaConf.create({})), resolve=True)
        assert isinstance(group, dict)
        from_method = getattr(getattr(type(self.scheduler), name, None), "__mml_command__", None)
        decorated = {
            field: value
            for field in ("num_cpus", "num_gpus", "memory")
            if from_method is not None and (value := getattr(from_method, field)) is not None
        }
        own = {field: value for field, value in (group.get(name) or {}).items() if value is not None}
        return {**(group.get("default") or {}), **decorated, **own}

    def _document(self, plan: Plan) -> dict[str, Any]:
        """The plan as the store keeps it: its first and last command belong to it."""
        document = plan.to_json()
        last = len(plan.commands) + 1
        frame = [
            CommandSpec(PREPARE, 0, PREPARE, (), resources=Resources(num_cpus=0)),
            CommandSpec(FINISH, last, FINISH, (), barrier=last, resources=Resources(num_cpus=0)),
        ]
        document["commands"] = [frame[0].to_json(), *document["commands"], frame[1].to_json()]
        return document

    def _open_store(self) -> RunStore:
        roots = {
            "project": str(self.manager.proj_path),
            "results": str(self.manager.results_path),
            "data": str(self.manager.data_path),
        }
        if self.continued:
            return RunStore.open(self.run_dir, roots=roots, beat=True)
        manifest = {
            "mode": str(self.cfg.mode.id),
            "project": str(self.cfg.proj),
            "version": __version__,
            "seed": self.cfg.get("seed", None),
            "choices": self.choices,
        }
        store = RunStore.create(self.run_dir, roots=roots, beat=True, manifest=manifest)
        atomic.write_text(self.paths.config, OmegaConf.to_yaml(without_secrets(self.cfg)))
        return store

    def _host(self, store: RunStore, stack: contextlib.ExitStack) -> Any:
        """Start Ray if this process is to have its own, hand the run over to the actor, and return its client."""
        from mml_ray.driver.ray.executor import RayOptions, RaySession
        from mml_ray.journal import actor

        if self.ray is None:
            node = planned_local_node(self.cfg)
            self.ray = RaySession(RayOptions(num_cpus=int(node.num_cpus), num_gpus=int(node.num_gpus)))
        stack.callback(self.ray.close)
        store.hand_over()
        roots = {"project": self.manager.proj_path, "results": self.manager.results_path, "data": self.manager.data_path}
        return actor.host(str(self.run_dir), roots={k: str(v) for k, v in roots.items()}, owner=current_owner())

    # -- the run ---------------------------------------------------------------------------------------------------------------------
    def _drive(self, plan: Plan, store: Any, nodes: list[Node], display: PlainDisplay, stack: contextlib.ExitStack) -> RunSummary:
        context = AttemptContext(seed=_seed(self.cfg), log_folder=self.paths.logs)
        committed = set(store.committed())
        self._frame(PREPARE, 0, store, context, repeated=PREPARE in committed)
        executor = self._executor(plan, store, nodes, context)
        stack.callback(executor.close)
        board = Board(plan, committed)
        display.begin(board)
        if self.kind != "ray":
            self.manager.on_report = lambda: display.tick(board, store.progress())
        summary = run_plan(board, store, executor, policy=self._policy(), display=display, interrupt=self.interrupt)
        if board.all_committed:
            if FINISH in committed:
                self.scheduler.return_value = store.result(FINISH)
            else:
                self._frame(FINISH, len(plan.commands) + 1, store, context, repeated=False)
            self._patiently(lambda: store.finish("finished", remove=self.manager.remove_keys))
        summary.return_value = self.scheduler.return_value
        tables = self.scheduler.summary_tables()
        stack.callback(lambda: print_ending(summary, tables, run_dir=self.run_dir, again=self._again()))
        stack.callback(display.end)
        return summary

    def _frame(self, name: str, position: int, store: Any, context: AttemptContext, *, repeated: bool) -> None:
        """Run the first or the last command, here in the driver. The first runs at every start; it is committed once."""
        request = {"command": name, "position": position, "node": "", "pid": 0}
        attempt = self._patiently(lambda: store.start([request]))[0]
        spec = CommandSpec(name, position, name, (), resources=Resources(num_cpus=0))
        with self._interruptible():
            outcome = run_attempt(self.scheduler, spec, attempt, manager=self.manager, context=context)
        if outcome.status == "done" and not repeated:
            if name == FINISH:  # what a driver that is killed from here on would not know
                value = self.scheduler.return_value
                outcome.result = None if value is None else float(value)
            answer = self._patiently(lambda: store.commit([outcome.to_commit()]))[0]
            if answer["status"] != "committed":
                raise CommandError(f"{name} did not commit: {answer['reason']}")
            return
        reason: str = outcome.status
        message = outcome.error.get("message", "")
        if outcome.status == "done":
            reason, message = "repeated", "it runs at every start; what it committed first counts"
        where = {"node": outcome.node, "pid": outcome.pid}
        failure = {"command": name, "attempt": attempt, "reason": reason, "message": message, **where}
        self._patiently(lambda: store.fail([failure]))
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status != "done":
            _raise_again(name, outcome.error, outcome.exception)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within the block a second request to stop raises where this thread stands, as always without Ray: no loop looks at the count."""
        before = self.interrupt.inline
        self.interrupt.inline = before or (lambda: None)
        try:
            yield
        finally:
            self.interrupt.inline = before

    def _patiently(self, write: Callable[[], Any]) -> Any:
        return patiently(write, say=self.display.note, hurry=lambda: self.interrupt.count > 1)

    def _again(self) -> str:
        """The command line that continues this run; the run knows its mode."""
        usual = Path(os.environ.get("MML_RESULTS_PATH") or "mml_results").absolute()
        place = [] if self.manager.results_path == usual else [f"out_dir={self.manager.results_path}"]
        run = self.run_dir.relative_to(self.manager.proj_path / "runs")
        return shlex.join(["mml-ray", f"proj={self.cfg.proj}", *place, f"continue={run}"])

    def _executor(self, plan: Plan, store: Any, nodes: list[Node], context: AttemptContext) -> Executor:
        if self.kind != "ray":
            return InlineExecutor(self.scheduler, self.manager, context)
        from mml_ray.driver.ray.executor import RayExecutor

        return RayExecutor(
            self.scheduler,
            store,
            manager_arguments=self.manager.arguments(),
            context=context,
            nodes=nodes,
            requests=list({spec.resources for spec in plan.commands}),
            check=self._check_ray,
        )

    def _check_ray(self) -> None:
        try:
            self.ray.check()
        except MMLError as error:
            raise MMLError(f"{error} Continue with: {self._again()}") from error

    def _policy(self) -> FailurePolicy:
        options = self.cfg.sys
        retries = options.get("retries", None) or {}
        return FailurePolicy(
            retries_system=int(retries.get("system", 3)),
            retries_exception=int(retries.get("exception", 0)),
            stop_on_failure=_choice(str(options.get("on_failure", "finish_others")), ("finish_others", "stop"), "sys.on_failure")
            == "stop",
            stall_timeout=float(options.get("stall_timeout", None) or 0.0),
            min_free_bytes=int(float(options.get("min_free_disk_gb", 0) or 0) * 2**30),
            watch=(self.run_dir,),
        )

    def _tail(self) -> LogTail | None:
        return LogTail(self.paths.logs) if self.kind == "ray" else None

    def _live(self) -> bool | None:
        return None if self.cfg.get("trainer", {}).get("enable_progress_bar", True) else False

    def _history(self) -> dict[str, float]:
        """What commands took in earlier runs; only asked where the plan is worth it."""
        return history(self.manager.proj_path) if self.kind == "ray" else {}

    @contextlib.contextmanager
    def _signals(self, store: RunStore) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask for a stop, once politely."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if self.kind != "ray":
            self.interrupt.inline = store.request_stop
        before = {number: signal.signal(number, self.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# -- choices ---------------------------------------------------------------------------------------------------------------------------
def executor_kind(scheduler: AbstractBaseScheduler) -> str:
    """``inline`` or ``ray``: as ``sys.executor`` says; ``auto`` is ray where commands can run side by side, the mode prefers it, or a
    cluster is there to be joined whose GPUs a command could use.
    """
    wanted = _choice(str(scheduler.cfg.sys.get("executor", "auto")), ("auto", "inline", "ray"), "sys.executor")
    if wanted != "auto":
        return wanted
    assert scheduler.plan is not None
    learns = any(spec.name in scheduler.gpu_commands for spec in scheduler.plan.commands)
    joins = learns and bool(cluster_address(scheduler.cfg))
    return "ray" if joins or scheduler.prefers_ray or not scheduler.plan.is_chain() else "inline"


def new_run_dir(project: Path) -> Path:
    """``<project>/runs/<day>/<time>``; the time has microseconds, and the run store creates the folder exclusively."""
    return project / "runs" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")


def cluster_address(cfg: DictConfig) -> str:
    """``sys.address``, else the variable ``RAY_ADDRESS``, which a submitted Ray job has; empty: an own local Ray, as ``local`` asks for."""
    given = str(cfg.sys.get("address", None) or os.environ.get("RAY_ADDRESS") or "")
    return "" if given == "local" else given


def planned_local_node(cfg: DictConfig) -> Node:
    """What an own local Ray will have: this machine, unless ``sys.num_cpus`` and ``sys.num_gpus`` say otherwise."""
    here = local_node()
    cpus, gpus = cfg.sys.get("num_cpus", None), cfg.sys.get("num_gpus", None)
    return replace(
        here,
        num_cpus=float(cpus if cpus is not None else here.num_cpus),
        num_gpus=float(gpus if gpus is not None else here.num_gpus),
    )


def _choice(given: str, allowed: tuple[str, ...], where: str) -> str:
    if given not in allowed:
        raise MMLMisconfigurationException(f"{where}='{given}': one of {', '.join(allowed)}.")
    return given


def _seed(cfg: DictConfig) -> int | None:
    seed = cfg.get("seed", None)
    return int(seed) if seed else None


def _raise_again(name: str, error: dict[str, str], original: BaseException | None) -> None:
    if original is not None:
        raise original
    raise CommandError(f"{name} failed: {error.get('type', '')}: {error.get('message', '')}")


__all__ = ["Session", "executor_kind", "new_run_dir", "planned_local_node", "run", "FencedError"]
