"""A worker process of Ray: it is set up once for each run, then runs attempt after attempt. Imports no torch itself."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from mml_ray import plugins
from mml_ray.driver import sigterm
from mml_ray.driver.command import CommandSpec, Outcome
from mml_ray.driver.environment import Pulse
from mml_ray.driver.worker import run_attempt
from mml_ray.failpoints import failpoint
from mml_ray.journal.actor import get_in_helper_thread
from mml_ray.journal.owner import die_with_parent
from mml_ray.store.manager import MMLFileManager

#: libraries that initialize CUDA
_CUDA_LIBRARIES = ("torch", "cupy", "jax", "tensorflow", "numba")
#: by run: what runs an attempt in this process
_runners: dict[str, Callable[[CommandSpec, int], Outcome]] = {}
_bound_gpus: str | None = None


def attempt_here(bundle: list[Any], tag: str, spec: CommandSpec, attempt: int) -> Outcome | None:
    """Run one attempt of a command of the run ``tag``, which ``bundle`` refers to; ``None`` if this process is bound to other GPUs.

    Ray names the GPUs of a command (or none) in ``CUDA_VISIBLE_DEVICES``, but CUDA reads that variable once per process. So a process
    that has loaded a CUDA library stays bound to the GPUs it had then, and commands with other GPUs must run in another one.
    """
    global _bound_gpus
    failpoint("worker.start")
    if _bound_gpus not in (None, os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        return None
    if tag not in _runners:
        _set_up(bundle[0], tag)
    try:
        return _runners[tag](spec, attempt)
    finally:
        if _bound_gpus is None and any(name in sys.modules for name in _CUDA_LIBRARIES):
            _bound_gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if spec.resources.num_gpus and "torch" in sys.modules:  # other processes can use what torch caches
            gc.collect()
            sys.modules["torch"].cuda.empty_cache()


def _set_up(bundle: Any, tag: str) -> None:
    die_with_parent()
    sigterm.let_pass()
    logging.getLogger("mml_ray").setLevel(logging.INFO)
    plugins.load()
    _runners.clear()
    arguments, context, client, pickled = get_in_helper_thread(bundle)
    manager = MMLFileManager(**arguments, backend=client)
    reporter = copy.copy(client)  # a client must be used by one thread only
    process = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    workload = pickle.loads(pickled)
    workload.attach(manager)
    pulse = Pulse(lambda reference: reporter.report(dict(reference), process))
    pulse.start()  # last, so that a setup that fails leaves no thread behind
    _runners[tag] = functools.partial(run_attempt, workload, manager=manager, context=context, pulse=pulse)
