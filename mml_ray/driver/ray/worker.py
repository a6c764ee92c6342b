"""What a worker process of Ray does for the commands of a run: it is set up once for each run, then runs attempt after attempt."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mml_ray import plugins
from mml_ray.driver import sigterm
from mml_ray.driver.command import CommandSpec, Outcome, Workload
from mml_ray.driver.environment import Pulse
from mml_ray.driver.ray import gpu
from mml_ray.driver.worker import AttemptContext, run_attempt
from mml_ray.failpoints import failpoint
from mml_ray.journal.actor import get_in_helper_thread
from mml_ray.journal.owner import die_with_parent
from mml_ray.store.manager import MMLFileManager


@dataclass(slots=True)
class _Setup:
    """What a worker process needs for the commands of one run."""

    workload: Workload
    manager: MMLFileManager
    context: AttemptContext
    pulse: Pulse


_setups: dict[str, _Setup] = {}


def attempt_here(
    bundle: list[Any], tag: str, spec: CommandSpec, attempt: int, *, unpickle: Callable[[bytes], Any]
) -> Outcome | None:
    """Run one attempt of a command of the run ``tag``, which ``bundle`` refers to. ``None``: not in this process."""
    failpoint("worker.start")
    if gpu.is_bound_elsewhere():
        return None
    if tag not in _setups:
        _set_up(bundle[0], tag, unpickle)
    ready = _setups[tag]
    try:
        return run_attempt(ready.workload, spec, attempt, manager=ready.manager, context=ready.context, pulse=ready.pulse)
    finally:
        gpu.bind()
        if spec.resources.num_gpus:
            gpu.give_back()


def _set_up(bundle: Any, tag: str, unpickle: Callable[[bytes], Any]) -> None:
    die_with_parent()
    sigterm.let_pass()
    logging.getLogger("mml_ray").setLevel(logging.INFO)
    plugins.load()
    _setups.clear()
    arguments, context, client, pickled = get_in_helper_thread(bundle)
    manager = MMLFileManager(**arguments, backend=client)
    reporter = copy.copy(client)  # a client is used by one thread
    here = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    workload = unpickle(pickled)
    workload.attach(manager)
    pulse = Pulse(lambda reference: reporter.report(dict(reference), here))
    pulse.start()  # last: a set-up that fails must leave no thread behind
    _setups[tag] = _Setup(workload, manager, context, pulse)
