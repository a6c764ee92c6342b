"""A place to drive small plans through the real store, on Ray or inline, and to look at what they leave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mml_ray.driver.command import CommandSpec, Workload
from mml_ray.driver.environment import release_threads
from mml_ray.driver.executor import Executor, FailurePolicy, RunSummary
from mml_ray.driver.graph import Board, Entry, build_plan
from mml_ray.driver.inline import InlineExecutor
from mml_ray.driver.loop import Interrupt, Loop
from mml_ray.driver.progress import LogTail, PlainDisplay
from mml_ray.driver.resources import Node, Resources, check_feasible
from mml_ray.driver.worker import AttemptContext
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.run.store import RunStore, current_owner
from tests.integration.harness import journal

Ask = Callable[[CommandSpec], Resources]


class Methods:
    """A workload whose commands are its methods."""

    def attach(self, manager: MMLFileManager) -> None:
        pass

    def execute(self, name: str, params: Sequence[Any]) -> Any:
        return getattr(self, name)(*params)

    def collect_deltas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}

    def forget(self) -> None:
        pass


@dataclass(frozen=True)
class Ran:
    """What a run left."""

    summary: RunSummary
    run_dir: Path
    shown: str
    results: list[Any] = field(default_factory=list)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The journal."""
        return journal(self.run_dir)

    def of(self, op: str) -> list[dict[str, Any]]:
        """Its lines of one operation."""
        return [line for line in self.lines if line["op"] == op]

    def log(self, name: str) -> str:
        """The log of the only command of this name."""
        (path,) = (self.run_dir / "logs").glob(f"{name}--*.log")
        return path.read_text()


class _Stream:
    """Takes what is shown."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@dataclass
class Arena:
    """Runs plans below ``base``; ``nodes``: those of the Ray that is running, or none for inline runs."""

    base: Path
    nodes: list[Node] = field(default_factory=list)
    _count: int = 0

    def run(
        self,
        workload: Workload,
        entries: Sequence[Entry],
        *,
        ask: Ask | Mapping[str, Any] | None = None,
        seed: int | None = 42,
        policy: FailurePolicy | None = None,
    ) -> Ran:
        """Drive the entries to their end. ``ask``: what each command holds (default: one CPU)."""
        self._count += 1
        place = self.base / str(self._count)
        roots = {"results": str(place / "results"), "project": str(place / "results/p"), "data": str(place / "data")}
        for path in roots.values():
            Path(path).mkdir(parents=True)
        run_dir = place / "results/p/runs/day/time"
        plan = build_plan(entries, scheduler="test").with_resources(lambda spec, _: replace(spec, resources=_asked(ask, spec)))
        if self.nodes:
            check_feasible([(spec.name, spec.resources) for spec in plan.commands], self.nodes)
        store = RunStore.create(run_dir, roots=roots, manifest={"mode": "test"}, heartbeat=True)
        store.set_plan(plan.to_json())
        backend: Any = self._host(store, run_dir, roots) if self.nodes else store
        manager = MMLFileManager(
            data_path=roots["data"], proj_path=roots["project"], results_path=roots["results"], log_path=run_dir, backend=backend
        )
        context = AttemptContext(seed=seed, log_folder=run_dir / "logs")
        executor: Executor = InlineExecutor(workload, manager, context)
        if self.nodes:
            executor = self._on_ray(workload, backend, manager, context, plan.commands)
        stream = _Stream()
        display = PlainDisplay(stream, tail=LogTail(run_dir / "logs"))  # type: ignore[arg-type]
        board = Board(plan)
        display.begin(board)
        try:
            summary = Loop(
                board, backend, executor, policy=policy or FailurePolicy(backoff=0.05), display=display, interrupt=Interrupt()
            ).run()
            committed = backend.committed()
            results = [committed[spec.key]["result"] for spec in plan.commands if spec.key in committed]
        finally:
            display.end()
            executor.close()
            store.close()
            release_threads()
            MMLFileManager.clear_instance()
        return Ran(summary, run_dir, stream.text, results)

    @staticmethod
    def _host(store: RunStore, run_dir: Path, roots: dict[str, str]) -> Any:
        from mml_ray.store.run.client import host_run

        store.hand_over()
        return host_run(str(run_dir), roots=roots, owner=current_owner())

    def _on_ray(
        self, workload: Workload, client: Any, manager: MMLFileManager, context: AttemptContext, commands: Sequence[CommandSpec]
    ) -> Executor:
        from mml_ray.driver.ray.executor import RayExecutor

        return RayExecutor(
            workload,
            client,
            manager=manager,
            context=context,
            nodes=self.nodes,
            requests=[spec.resources for spec in commands],
        )


def by_value(*modules: ModuleType | str) -> None:
    """Workers get the classes of these modules as they are, and need not find the files."""
    import ray

    for module in modules:
        ray.cloudpickle.register_pickle_by_value(sys.modules[module] if isinstance(module, str) else module)


def _asked(ask: Ask | Mapping[str, Any] | None, spec: CommandSpec) -> Resources:
    return ask(spec) if callable(ask) else Resources(**(ask or {}))
