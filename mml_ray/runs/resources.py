"""What the commands of a plan ask for, in numbers: from the configuration, the ``@command`` of their methods, and what the nodes have."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mml_ray.driver.command import CommandDefaults, CommandSpec, PlannedWorkload
from mml_ray.driver.graph import Plan
from mml_ray.driver.resources import Node, Resources
from mml_ray.errors import UnknownNameError
from mml_ray.options import build
from mml_ray.runs.options import ResourceOptions, RunOptions

log = logging.getLogger(__name__)
#: no command gets more CPUs than this by ``auto``: beyond it a fold on a CPU gains little
AUTO_CPU_LIMIT = 8


def with_resources(
    plan: Plan, nodes: Sequence[Node], *, workload: PlannedWorkload, options: RunOptions, before: Mapping[str, Resources]
) -> Plan:
    """The plan with numbers for everything its commands ask for.

    A run that is continued keeps the CPUs that it had ``before`` (by command key), so that its results stay the same on a larger machine.

    Raises:
        UnknownNameError: ``resources`` names a command that is misspelt.
    """
    check_names(plan, workload=workload, options=options)

    @functools.cache
    def of_name(name: str, width: int) -> tuple[ResourceOptions, Resources]:
        request = request_of(name, workload.command_defaults(name), options)
        return request, resolve(request, nodes, width=width, uses_gpu=may_use_gpu(name, workload, options))

    def choose(spec: CommandSpec, width: int) -> CommandSpec:
        request, chosen = of_name(spec.name, width)
        if spec.key in before and request.num_cpus in (None, "auto"):
            kept = replace(chosen, num_cpus=before[spec.key].num_cpus)
            chosen = kept if any(node.holds(kept) for node in nodes) else chosen
        return replace(spec, resources=chosen, retries=spec.retries if request.retries is None else request.retries)

    return plan.with_resources(choose)


def check_names(plan: Plan, *, workload: PlannedWorkload, options: RunOptions) -> None:
    """A name in the group ``resources`` that is not a command of this plan is refused if one of the plan comes close; if not, a warning
    says that it has no effect. Steps that this run leaves out are known to the mode.
    """
    planned = sorted({spec.name for spec in plan.commands})
    for name in options.resources:
        if name == "default" or workload.command_defaults(name) is not None:
            continue
        if difflib.get_close_matches(name, planned, n=1):
            raise UnknownNameError.of("command in resources", name, planned)
        log.warning("resources.%s is not used: this mode has no such command (it has %s).", name, ", ".join(planned))


def request_of(name: str, defaults: CommandDefaults | None, options: RunOptions) -> ResourceOptions:
    """What a command asks for: by its own entry in ``resources``, else by its decorator, else by ``resources.default``."""
    own, usual = (options.resources.get(entry, ResourceOptions()) for entry in (name, "default"))
    decorated = {field: getattr(defaults, field, None) for field in ("num_cpus", "num_gpus", "memory")}
    given = usual.plain()
    for nearer in (decorated, own.plain()):
        given.update({field: value for field, value in nearer.items() if value is not None})
    return build(ResourceOptions, f"resources.{name}", given)


def may_use_gpu(name: str, workload: PlannedWorkload, options: RunOptions) -> bool:
    """Whether ``num_gpus=auto`` gives a command a GPU where there is one."""
    return options.allow_gpu and name in workload.gpu_commands


def resolve(request: ResourceOptions, nodes: Sequence[Node], *, width: int, uses_gpu: bool) -> Resources:
    """A request in numbers.

    ``width`` is how many such commands could run side by side; ``auto`` CPUs share the largest node among them (1 to
    :data:`AUTO_CPU_LIMIT`), ``auto`` GPUs is one if any node has one and the command ``uses_gpu``, else none.
    """
    num_cpus, num_gpus = request.num_cpus, request.num_gpus
    if not isinstance(num_gpus, float):
        num_gpus = 1.0 if uses_gpu and any(node.num_gpus >= 1 for node in nodes) else 0.0
    if not isinstance(num_cpus, float):
        num_cpus = _auto_cpus(nodes, width=width, num_gpus=num_gpus)
    return Resources(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=int(request.memory or 0),
        custom=tuple(sorted((request.custom or {}).items())),
        label_selector=tuple(sorted((request.label_selector or {}).items())),
    )


def _auto_cpus(nodes: Sequence[Node], *, width: int, num_gpus: float) -> float:
    fitting = [node for node in nodes if node.num_gpus >= num_gpus] or list(nodes)
    largest = max(fitting, key=lambda node: node.num_cpus)
    side_by_side = max(1, width)
    if num_gpus:
        side_by_side = max(1, min(side_by_side, int(largest.num_gpus / num_gpus)))
    return float(max(1, min(AUTO_CPU_LIMIT, int(largest.num_cpus // side_by_side))))
