"""``--plan``: the graph of a run, where it stands, and how long it will take as far as earlier runs show."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from mml_ray.driver.resources import Resources, check_feasible, local_node, slots
from mml_ray.report.ending import format_duration
from mml_ray.report.tables import Table
from mml_ray.runs.history import history
from mml_ray.runs.resources import may_use_gpu, request_of
from mml_ray.runs.session import Session
from mml_ray.store.run.store import read_run


def print_plan(session: Session, *, as_json: bool) -> None:
    """Print every command: number, name, parameters, unit, needs, resources, state, expected seconds ("unknown", never 0)."""
    document = describe(session)
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


def describe(session: Session) -> dict[str, Any]:
    """The plan as plain data. A cluster is not asked: nothing is compared with its size, and what is ``auto`` stays ``auto``."""
    nodes = [session.options.local_node() if session.uses_ray else local_node()]
    cluster = session.options.cluster_address if session.uses_ray else ""
    plan = session.planned(nodes)
    if not cluster:
        check_feasible([(spec.name, spec.resources) for spec in plan.commands], nodes)
    committed = read_run(session.paths.run_dir).commits if session.is_continued else {}
    known = history(session.manager.proj_path)
    numbers = {spec.key: spec.position for spec in plan.commands}
    names = {spec.name for spec in plan.commands}
    open_fields = {name: _left_to_the_cluster(session, name) if cluster else [] for name in names}
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
    width = min((slots(nodes, spec.resources) for spec in plan.commands), default=1) if session.uses_ray else 1
    return {
        "mode": session.manifest["mode"],
        "scheduler": plan.scheduler,
        "fingerprint": plan.fingerprint,
        "executor": "ray" if session.uses_ray else "inline",
        "commands": commands,
        "estimate": _estimate(open_commands, 1 if cluster else max(1, width), cluster),
    }


def _left_to_the_cluster(session: Session, name: str) -> list[str]:
    """The fields that are ``auto``, so that they follow from the nodes."""
    request = request_of(name, session.workload.command_defaults(name), session.options)
    fields = ["num_cpus", "num_gpus"] if may_use_gpu(name, session.workload, session.options) else ["num_cpus"]
    return [field for field in fields if getattr(request, field) in (None, "auto")]


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
        text += f" By earlier runs of this project: about {format_duration(total / side_by_side)}{known}{', one after the other' if cluster else ''}."
    if unknown:
        text += f" Unknown, since there is no earlier run: how long {', '.join(unknown)} takes."
    return text


def _needs(item: dict[str, Any]) -> str:
    if item["barrier"] > 1:
        return f"all before {item['barrier']}"
    return ", ".join(str(number) for number in item["needs_positions"]) or "-"
