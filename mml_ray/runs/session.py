"""One run of one plan: opens the run folder, chooses the executor, drives the plan, closes everything again."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mml_ray import __version__, atomic
from mml_ray.driver.command import FINISH, PlannedWorkload
from mml_ray.driver.disk_space import retry_when_space
from mml_ray.driver.environment import release_threads
from mml_ray.driver.executor import Executor, RunSummary
from mml_ray.driver.graph import Board, Plan
from mml_ray.driver.inline import InlineExecutor
from mml_ray.driver.loop import Interrupt, Loop
from mml_ray.driver.progress import LogTail, PlainDisplay, create_display
from mml_ray.driver.resources import Node, Resources, check_feasible, local_node
from mml_ray.driver.worker import AttemptContext
from mml_ray.errors import MMLError
from mml_ray.report.ending import print_ending
from mml_ray.report.tables import Table
from mml_ray.runs.history import history
from mml_ray.runs.options import RunOptions
from mml_ray.runs.resources import with_resources
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.protocol import RunStoreProtocol
from mml_ray.store.run.store import RunStore, current_owner

if TYPE_CHECKING:  # it imports ray
    from mml_ray.store.run.client import RunStoreClient


@dataclass
class Session:
    """Runs a plan from where it stands. Each step is a method, so that the order in :meth:`run` can be read.

    Args:
        workload: what executes the commands.
        plan: its commands, without the frame.
        manager: the file manager; it is attached to the run as long as this runs.
        manifest: kept with a new run: mode, project, seed, and the option of each group (``choices``).
        config: the text of the configuration, kept with a new run; holds no secrets.
        finish: gets the return value of the run and gives the tables to print at its end, also when commands failed.
        run_dir: the run to continue; ``None``: a new run of the project.
    """

    workload: PlannedWorkload
    plan: Plan
    manager: MMLFileManager
    options: RunOptions
    manifest: Mapping[str, Any]
    config: str
    finish: Callable[[float | None], Sequence[Table]]
    run_dir: Path | None = None
    interrupt: Interrupt = field(default_factory=Interrupt, init=False)
    ray: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.is_continued = self.run_dir is not None
        project, results, data = self.manager.proj_path, self.manager.results_path, self.manager.data_path
        # the time has microseconds, and the run store creates the folder exclusively
        new = project / "runs" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")
        self.paths = RunPaths(self.run_dir or new)
        self.roots = {"project": str(project), "results": str(results), "data": str(data)}

    def run(self) -> RunSummary:
        """Run from opening the run folder to its end; if interrupted before the first command, print how to continue.

        Raises:
            UserError: what is wrong with the settings, found before the first command starts.
            FencedError: another driver took the run over.
        """
        try:
            return self._run()
        except KeyboardInterrupt:
            if self.paths.plan.exists():
                print(f"Continue with: {self._continue_line()}", flush=True)
            raise

    def _run(self) -> RunSummary:
        with contextlib.ExitStack() as stack:
            stack.callback(release_threads)
            nodes = self._nodes()
            plan = self.planned(nodes)
            check_feasible([(spec.name, spec.resources) for spec in plan.commands], nodes)
            plan = plan.framed()
            store = self._open_store()
            stack.callback(store.close)
            store.set_plan(plan.to_json())
            display = stack.enter_context(self._display())
            where = "inline" if not self.uses_ray else f"ray at {self.ray.address}" if self.ray else "ray"
            display.note(f"Run {self.paths.run_dir} ({self.manifest['mode']}, {len(self.plan.commands)} commands, {where})")
            backend: RunStoreProtocol = self._host(store, stack) if self.uses_ray else store
            self.manager.attach(backend, run_dir=self.paths.run_dir)
            stack.callback(self.manager.detach)
            stack.enter_context(self._signals(store))
            return self._drive(plan, backend, nodes, display, stack)

    # -- before ----------------------------------------------------------------------------------------------------------------------
    @functools.cached_property
    def uses_ray(self) -> bool:
        """As ``sys.executor`` says; ``auto``: where commands can run side by side, the mode prefers it, or a cluster is to be joined whose
        GPUs a command could use.
        """
        wanted = self.options.sys.executor
        if wanted != "auto":
            return wanted == "ray"
        could_use_gpu = any(spec.name in self.workload.gpu_commands for spec in self.plan.commands)
        joins = could_use_gpu and bool(self.options.cluster_address)
        return joins or self.workload.uses_ray_when_sequential or not self.plan.is_chain()

    def _nodes(self) -> list[Node]:
        if not self.uses_ray:
            return [local_node()]
        if not self.options.cluster_address:
            return [self.options.local_node()]
        from mml_ray.driver.ray.cluster import RayOptions, RaySession

        self.ray = RaySession(RayOptions(address=self.options.cluster_address))
        nodes: list[Node] = self.ray.nodes()
        return nodes

    def planned(self, nodes: Sequence[Node]) -> Plan:
        """The plan with numbers for everything that its commands ask for."""
        before: dict[str, Resources] = {}
        if self.is_continued and self.paths.plan.exists():
            content = json.loads(self.paths.plan.read_text())
            before = {item["key"]: Resources.from_json(item["resources"]) for item in content["commands"]}
        return with_resources(self.plan, nodes, workload=self.workload, options=self.options, before=before)

    def _open_store(self) -> RunStore:
        if self.is_continued:
            return RunStore.open(self.paths.run_dir, roots=self.roots, heartbeat=True)
        manifest = {"version": __version__, **self.manifest}
        store = RunStore.create(self.paths.run_dir, roots=self.roots, heartbeat=True, manifest=manifest)
        atomic.write_text(self.paths.config, self.config)
        return store

    def _display(self) -> PlainDisplay:
        """What commands took in earlier runs is only looked up where the plan is worth it."""
        tail = LogTail(self.paths.logs) if self.uses_ray else None
        known = history(self.manager.proj_path) if self.uses_ray else {}
        return create_display(tail=tail, live=None if self.options.live else False, history=known)

    def _host(self, store: RunStore, stack: contextlib.ExitStack) -> RunStoreClient:
        """Start Ray if this process is to have its own, hand the run over to the actor, and return its client."""
        from mml_ray.driver.ray.cluster import RayOptions, RaySession
        from mml_ray.store.run.client import host_run

        if self.ray is None:
            node = self.options.local_node()
            self.ray = RaySession(RayOptions(num_cpus=int(node.num_cpus), num_gpus=int(node.num_gpus)))
        stack.callback(self.ray.close)
        store.hand_over()
        return host_run(str(self.paths.run_dir), roots=self.roots, owner=current_owner())

    # -- the run ---------------------------------------------------------------------------------------------------------------------
    def _drive(
        self, plan: Plan, store: RunStoreProtocol, nodes: list[Node], display: PlainDisplay, stack: contextlib.ExitStack
    ) -> RunSummary:
        context = AttemptContext(seed=self.options.seed, log_folder=self.paths.logs)
        inline = InlineExecutor(self.workload, self.manager, context)
        executor = self._ray_executor(plan, store, nodes, context) if self.uses_ray else inline
        stack.callback(executor.close)
        board = Board(plan, store.committed())
        display.begin(board)
        if not self.uses_ray:
            self.manager.on_report = lambda: display.tick(board, store.progress())
        policy = self.options.failure_policy(self.paths.run_dir)
        loop = Loop(board, store, executor, inline=inline, policy=policy, display=display, interrupt=self.interrupt)
        summary = loop.run()
        if board.all_committed:
            summary.return_value = store.result(FINISH)
            finish = lambda: store.finish("finished", remove=self.manager.remove_keys)  # noqa: E731
            retry_when_space(finish, notify=display.note, give_up=lambda: self.interrupt.count > 1)
        tables = self.finish(summary.return_value)
        again = self._continue_line()
        stack.callback(lambda: print_ending(summary, tables, run_dir=self.paths.run_dir, again=again))
        stack.callback(display.end)
        return summary

    def _ray_executor(self, plan: Plan, store: RunStoreProtocol, nodes: list[Node], context: AttemptContext) -> Executor:
        from mml_ray.driver.ray.executor import RayExecutor

        return RayExecutor(
            self.workload,
            cast("RunStoreClient", store),
            manager=self.manager,
            context=context,
            nodes=nodes,
            requests=list({spec.resources for spec in plan.worker_commands}),
            check=self._check_ray,
        )

    def _check_ray(self) -> None:
        try:
            self.ray.check()
        except MMLError as error:
            raise MMLError(f"{error} Continue with: {self._continue_line()}") from error

    def _continue_line(self) -> str:
        """The command line that continues this run; the run knows its mode."""
        usual = Path(os.environ.get("MML_RESULTS_PATH") or "mml_results").absolute()
        place = [] if self.manager.results_path == usual else [f"out_dir={self.manager.results_path}"]
        run = self.paths.run_dir.relative_to(self.manager.proj_path / "runs")
        return shlex.join(["mml-ray", f"proj={self.manifest['project']}", *place, f"continue={run}"])

    @contextlib.contextmanager
    def _signals(self, store: RunStore) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM ask for a stop, first to stop by itself, then at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not self.uses_ray:
            self.interrupt.inline = store.request_stop
        before = {number: signal.signal(number, self.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
