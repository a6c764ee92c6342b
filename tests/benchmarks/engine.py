"""What the engine costs: durable no-op commands beside plain Ray tasks, the driver's memory, planning 10,000 commands, replaying
100,000 lines.

    python tests/benchmarks/engine.py [--commands 3000] [--whole 10000]

What is compared is measured in one run, side by side; the ratios count, not the seconds of a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mml_ray.driver.executor import FailurePolicy
from mml_ray.driver.graph import Board, Entry, Plan, build_plan
from mml_ray.driver.loop import Interrupt, Loop
from mml_ray.driver.resources import Node, Resources
from mml_ray.driver.worker import AttemptContext
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.run.inspection import read_run
from mml_ray.store.run.store import RunStore, current_owner

HERE = Path(__file__).resolve().parent
#: what a process that is measured runs: the command line, then its own peak of memory and its CPU time
_MEASURED = """
import json, sys, time
from mml_ray.cli import main
code = main(sys.argv[1:])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"code": code, "cpu": time.process_time(), "MiB": peak / 1024}), file=sys.stderr)
"""


class Nothing:
    """A workload whose commands return their number."""

    def attach(self, manager: MMLFileManager) -> None:
        pass

    def execute(self, name: str, params: Sequence[Any]) -> Any:
        return params[0]

    def collect_deltas(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {}

    def forget(self) -> None:
        pass


class Silent:
    """A display that shows nothing."""

    def event(self, *_: Any) -> None: ...
    def tick(self, *_: Any) -> None: ...
    def note(self, *_: Any) -> None: ...


def plan_of(count: int) -> Plan:
    """``count`` commands that need nothing."""
    return build_plan([Entry("noop", [number], after=[]) for number in range(count)], scheduler="benchmark")


def roots_in(folder: Path) -> dict[str, str]:
    """Fresh roots."""
    for name in ("results/project", "data"):
        (folder / name).mkdir(parents=True)
    return {"results": str(folder / "results"), "project": str(folder / "results/project"), "data": str(folder / "data")}


def through_ray(count: int, folder: Path, turns: int = 5) -> tuple[float, float]:
    """Commands per second: durable through the engine, and as plain Ray tasks, in turn; the medians."""
    import ray

    from mml_ray.driver.ray.cluster import RayOptions, RaySession

    @ray.remote
    def noop(number: int) -> int:
        return number

    session = RaySession(RayOptions(num_cpus=2, num_gpus=0))
    durable, plain = [], []
    try:
        ray.get([noop.remote(number) for number in range(200)])
        for turn in range(turns):
            durable.append(_durable(count, folder / str(turn)))
            began = time.perf_counter()
            ray.get([noop.remote(number) for number in range(count)])
            plain.append(count / (time.perf_counter() - began))
    finally:
        session.close()
    return sorted(durable)[turns // 2], sorted(plain)[turns // 2]


def _durable(count: int, place: Path) -> float:
    from mml_ray.driver.ray.executor import RayExecutor
    from mml_ray.store.run.client import host_run

    roots = roots_in(place)
    run_dir = place / "results/project/runs/day/time"
    store = RunStore.create(run_dir, roots=roots, manifest={"mode": "benchmark"}, heartbeat=True)
    plan = plan_of(count)
    store.set_plan(plan.to_json())
    store.hand_over()
    client = host_run(str(run_dir), roots=roots, owner=current_owner())
    manager = MMLFileManager(
        data_path=roots["data"], proj_path=roots["project"], results_path=roots["results"], log_path=run_dir, backend=client
    )
    executor = RayExecutor(
        Nothing(),
        client,
        manager=manager,
        context=AttemptContext(seed=42, log_folder=run_dir / "logs"),
        nodes=[Node("here", 2)],
        requests=[Resources()],
    )
    began = time.perf_counter()
    summary = Loop(Board(plan), client, executor, policy=FailurePolicy(), display=Silent(), interrupt=Interrupt()).run()
    seconds = time.perf_counter() - began
    assert summary.committed == count, summary
    executor.close()
    store.close()
    return count / seconds


def whole(*arguments: str) -> dict[str, float]:
    """``mml-ray noop <arguments>`` in a process of its own: its CPU seconds, the peak of its memory (MiB), the seconds it took."""
    with tempfile.TemporaryDirectory() as name:
        places = {
            "MML_DATA_PATH": f"{name}/data",
            "MML_RESULTS_PATH": f"{name}/results",
            "MML_CONFIGS_PATH": str(HERE / "configs"),
        }
        Path(places["MML_DATA_PATH"]).mkdir()
        environment = {**os.environ, **places, "PYTHONPATH": str(HERE.parent.parent)}
        began = time.perf_counter()
        command = [sys.executable, "-c", _MEASURED, "noop", "proj=p", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        measured: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
        assert measured["code"] == 0, done.stdout[-2000:] + done.stderr
        return {**measured, "seconds": time.perf_counter() - began}


def replaying(lines: int, folder: Path) -> tuple[float, int]:
    """Seconds of CPU to replay a journal of at least ``lines`` lines, and how many it has."""
    roots = roots_in(folder)
    run_dir = folder / "results/project/runs/day/time"
    store = RunStore.create(run_dir, roots=roots, manifest={"mode": "benchmark"})
    plan = plan_of(lines // 2)
    store.set_plan(plan.to_json())
    for first in range(0, len(plan.commands), 1000):
        part = plan.commands[first : first + 1000]
        attempts = store.start([{"command": c.key, "position": c.position, "node": "n", "pid": 1} for c in part])
        outcomes = [{"command": c.key, "attempt": a, "result": 1, "seconds": 0.1} for c, a in zip(part, attempts, strict=True)]
        empty: dict[str, Any] = {"artifacts": [], "structs": {}, "models_update": {}}
        answers = store.commit([{**outcome, **empty} for outcome in outcomes])
        assert all(answer["status"] == "committed" for answer in answers), answers[0]
    store.close()
    count = sum(1 for _ in (run_dir / "journal.jsonl").open("rb"))
    began = time.process_time()
    state = read_run(run_dir)
    seconds = time.process_time() - began
    assert len(state.commits) == len(plan.commands)
    return seconds, count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=3000, help="for the comparison with plain Ray tasks")
    parser.add_argument("--whole", type=int, default=10_000, help="commands of the plan, and of the whole run")
    given = parser.parse_args()
    planned = whole(f"mode.count={given.whole}", "--plan")
    print(f"mml-ray --plan of {given.whole:,} commands: {planned['seconds']:.2f} s ({planned['cpu']:.2f} s CPU)", flush=True)
    with tempfile.TemporaryDirectory() as name:
        seconds, lines = replaying(100_000, Path(name))
    print(f"replay of {lines:,} journal lines: {seconds:.2f} s CPU", flush=True)
    with tempfile.TemporaryDirectory() as name:
        durable, plain = through_ray(given.commands, Path(name))
    print(f"durable no-op commands: {durable:.0f}/s; plain Ray tasks: {plain:.0f}/s; ratio {durable / plain:.2f}", flush=True)
    ran = whole(f"mode.count={given.whole}", "sys.executor=ray", "sys.num_cpus=2")
    print(
        f"mml-ray with {given.whole:,} commands on Ray: {ran['seconds']:.0f} s in all, driver {ran['cpu']:.0f} s CPU, {ran['MiB']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
