"""``--plan``: the graph of a run, where it stands, and what it will cost as far as history knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mml_ray.driver.resources import Resources, local_node, slots
from mml_ray.report.ending import took
from mml_ray.report.tables import Table
from mml_ray.runs import session
from mml_ray.runs.history import history
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store.run.store import read_run


def print_plan(scheduler: AbstractBaseScheduler, *, run_dir: Path | None, as_json: bool) -> None:
    """Print every command: number, name, parameters, needs, resources, state, expected seconds (unknown is said, never 0)."""
    document = describe(scheduler, run_dir)
    if as_json:
        print(json.dumps(document, indent=2))
        return
    rows = [
        [
            str(item["position"]),
            item["name"],
            item["shown"],
            item["unit"],
            _needs(item),
            item["asks"],
            item["state"],
            "unknown" if item["seconds"] is None else f"{item['seconds']:.1f}",
        ]
        for item in document["commands"]
    ]
    columns = ["no", "command", "parameters", "unit", "needs", "resources", "state", "seconds"]
    Table(f"Plan of {document['mode']}", columns, rows).without_empty("unit").print()
    print(document["estimate"])


def describe(scheduler: AbstractBaseScheduler, run_dir: Path | None) -> dict[str, Any]:
    """The plan as plain data. A cluster is not asked, so nothing is held against its size, and what is ``auto`` stays so."""
    current = session.Session(scheduler, run_dir)
    nodes = [session.planned_local_node(scheduler.cfg)] if current.kind == "ray" else [local_node()]
    cluster = session.cluster_address(scheduler.cfg) if current.kind == "ray" else ""
    plan = current._with_resources(nodes, check=not cluster)
    committed = read_run(run_dir).commits if run_dir is not None else {}
    known = history(scheduler.fm.proj_path)
    numbers = {spec.key: spec.position for spec in plan.commands}
    names = {spec.name for spec in plan.commands}
    open_fields = {name: _left_to_the_cluster(current, name) if cluster else [] for name in names}
    commands: list[dict[str, Any]] = []
    for spec in plan.commands:
        seconds = committed[spec.key]["seconds"] if spec.key in committed else known.get(spec.name)
        auto = open_fields[spec.name]
        plain = spec.to_json()
        commands.append(
            {
                **plain,
                "resources": {**plain["resources"], **dict.fromkeys(auto, "auto")},
                "shown": spec.title.removeprefix(spec.name).strip(),
                "asks": _asks(spec.resources, auto),
                "needs_positions": [numbers[key] for key in spec.needs],
                "state": "committed" if spec.key in committed else "new",
                "seconds": seconds,
            }
        )
    open_commands = [item for item in commands if item["state"] == "new"]
    width = min((slots(nodes, spec.resources) for spec in plan.commands), default=1) if current.kind == "ray" else 1
    return {
        "mode": str(scheduler.cfg.mode.id),
        "scheduler": plan.scheduler,
        "fingerprint": plan.fingerprint,
        "executor": current.kind,
        "commands": commands,
        "estimate": _estimate(open_commands, 1 if cluster else max(1, width), cluster),
    }


def _left_to_the_cluster(current: session.Session, name: str) -> list[str]:
    """What follows from the nodes: the fields that are ``auto``."""
    wanted = current._wanted(name)
    scheduler = current.scheduler
    fields = ["num_cpus"]
    if scheduler.cfg.get("allow_gpu", True) and name in scheduler.gpu_commands:
        fields.append("num_gpus")
    return [field for field in fields if wanted.get(field) in (None, "auto")]


def _asks(resources: Resources, auto: list[str]) -> str:
    cpus = "auto CPU" if "num_cpus" in auto else f"{resources.num_cpus:g} CPU"
    gpus = "auto GPU" if "num_gpus" in auto else ""
    others = replace(resources, num_cpus=0.0, num_gpus=0.0 if gpus else resources.num_gpus).describe()
    return ", ".join(part for part in (cpus, gpus, others.removeprefix("0 CPU").removeprefix(", ")) if part)


def _estimate(items: list[dict[str, Any]], side_by_side: int, cluster: str) -> str:
    if not items:
        return "Nothing is left to run."
    names = list(dict.fromkeys(item["name"] for item in items))
    unknown = list(dict.fromkeys(item["name"] for item in items if item["seconds"] is None))
    total = sum(item["seconds"] for item in items if item["seconds"] is not None)
    text = f"{len(items)} command(s) to run, up to {min(side_by_side, len(items))} side by side."
    if cluster:
        text = (
            f"{len(items)} command(s) to run. The cluster ({cluster}) was not asked: whether it can hold them, and how many side by side, "
            "shows when the run starts."
        )
    if len(unknown) < len(names):
        known = "" if not unknown else f" for {', '.join(name for name in names if name not in unknown)}"
        text += f" By earlier runs of this project: about {took(total / side_by_side)}{known}{', one after the other' if cluster else ''}."
    if unknown:
        text += f" Unknown, since there is no earlier run: how long {', '.join(unknown)} takes."
    return text


def _needs(item: dict[str, Any]) -> str:
    if item["barrier"] > 1:
        return f"all before {item['barrier']}"
    return ", ".join(str(number) for number in item["needs_positions"]) or "-"
