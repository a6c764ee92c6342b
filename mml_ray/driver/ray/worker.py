"""A worker process of Ray: it is set up once for each run, then runs attempt after attempt."""

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
    """Run one attempt of a command of the run ``tag``, which ``bundle`` refers to; ``None`` if this process is bound to other GPUs."""
    failpoint("worker.start")
    if gpu.is_bound_elsewhere():
        return None
    if tag not in _setups:
        _set_up(bundle[0], tag, unpickle)
    setup = _setups[tag]
    try:
        return run_attempt(setup.workload, spec, attempt, manager=setup.manager, context=setup.context, pulse=setup.pulse)
    finally:
        gpu.bind()
        if spec.resources.num_gpus:
            gpu.release_cached_memory()


def _set_up(bundle: Any, tag: str, unpickle: Callable[[bytes], Any]) -> None:
    die_with_parent()
    sigterm.let_pass()
    logging.getLogger("mml_ray").setLevel(logging.INFO)
    plugins.load()
    _setups.clear()
    arguments, context, client, pickled = get_in_helper_thread(bundle)
    manager = MMLFileManager(**arguments, backend=client)
    reporter = copy.copy(client)  # a client must be used by one thread only
    process = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    workload = unpickle(pickled)
    workload.attach(manager)
    pulse = Pulse(lambda reference: reporter.report(dict(reference), process))
    pulse.start()  # last, so that a setup that fails leaves no thread behind
    _setups[tag] = _Setup(workload, manager, context, pulse)
