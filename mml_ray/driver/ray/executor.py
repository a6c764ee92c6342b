"""The executor on Ray: every attempt is one remote task. Ray's own retries are off, since they could run a command twice at once."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors

from mml_ray.driver.command import CommandSpec, Outcome, Status, Workload
from mml_ray.driver.ray.translate import first_line, oom_message
from mml_ray.driver.ray.worker import attempt_here
from mml_ray.driver.resources import Node, Resources, slots
from mml_ray.driver.worker import AttemptContext
from mml_ray.errors import MMLError
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.run.client import RunStoreClient

#: variable by which Ray tells pools of worker processes apart
_POOL = "MML_RAY_POOL"
#: commands beyond the slots that are handed to Ray at once, so that a free worker never waits for the driver
_QUEUE = 48
#: seconds that finished commands may wait for others, so that they are committed together
_GATHER = 0.02


class RayExecutor:
    """Runs attempts as remote tasks. Workers build their file manager from the arguments of ``manager``."""

    def __init__(
        self,
        workload: Workload,
        client: RunStoreClient,
        *,
        manager: MMLFileManager,
        context: AttemptContext,
        nodes: list[Node],
        requests: list[Resources],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.node = ""  # each outcome names the node it ran on
        self._check = client.check = check
        self._slots = max((slots(nodes, request) for request in requests), default=1)
        self.share = _QUEUE + self._slots
        self.window = self.share * max(1, len(set(requests)))
        self._workload, self._manager, self._context, self._client = workload, manager, context, client
        self._in_flight: dict[Any, tuple[CommandSpec, int, int]] = {}
        self._stalled: set[str] = set()
        self._is_forced = False

    @functools.cached_property
    def _remote(self) -> Any:
        """The remote function. Built at the first command, so that what the preparation of the run set on the workload travels along."""
        content = (self._manager.arguments(), self._context, self._client, ray.cloudpickle.dumps(self._workload))
        bundle, tag = [ray.put(content)], f"{os.getpid()}-{id(self)}-{time.time_ns()}"

        # a worker loads it once, along with the reference it holds; as an argument of each task the reference would cost a tenth of a
        # no-op command
        def attempt_of_run(spec: CommandSpec, number: int) -> Outcome | None:
            return attempt_here(bundle, tag, spec, number)

        # no num_gpus: Ray would then start a new process for each GPU task
        return ray.remote(max_retries=0, retry_exceptions=False)(attempt_of_run)

    def submit(self, spec: CommandSpec, attempt: int, *, pool: int = 0) -> None:
        """Start one remote task for the attempt, in the worker processes of ``pool``: commands with GPUs have processes of their own, and
        further ones where those are bound to other GPUs.
        """
        ask = spec.resources
        options: dict[str, Any] = {"num_cpus": ask.num_cpus, "num_gpus": ask.num_gpus, "name": spec.key}
        if ask.memory:
            options["memory"] = ask.memory
        if ask.custom:
            options["resources"] = dict(ask.custom)
        if ask.label_selector:
            options["label_selector"] = dict(ask.label_selector)
        if ask.num_gpus or pool:
            options["runtime_env"] = {"env_vars": {_POOL: str(pool)}}
        # workers do not use ``needs``, and each of n commands behind a barrier would carry n keys
        reference = self._remote.options(**options).remote(replace(spec, needs=()), attempt)
        self._in_flight[reference] = (spec, attempt, pool)

    def wait(self, timeout: float) -> list[Outcome]:
        """Return all attempts that ended, after at most ``timeout`` seconds; raises what ``check`` raises."""
        self._check()
        if not self._in_flight:
            time.sleep(timeout)
            return []
        references = list(self._in_flight)
        ready, rest = ray.wait(references, num_returns=1, timeout=timeout)
        if ready and rest:
            queued = len(rest) - self._slots  # while others are queued, waiting a little longer groups many commits into one
            count, seconds = (queued // 2, _GATHER) if queued > 1 else (len(rest), 0.0)
            more, _ = ray.wait(rest, num_returns=count, timeout=seconds)
            ready += more
        outcomes = (self._outcome(reference) for reference in ready)
        return [outcome for outcome in outcomes if outcome is not None]

    def _outcome(self, reference: Any) -> Outcome | None:
        """The outcome of an attempt that ended; ``None`` if it was not started, and was submitted again for another process."""
        spec, attempt, pool = self._in_flight.pop(reference)
        try:
            outcome: Outcome | None = ray.get(reference)
            if outcome is None:
                self.submit(spec, attempt, pool=pool + 1)
            return outcome
        except ray_errors.OutOfMemoryError as error:
            return self._lost(spec, attempt, "oom", oom_message(spec, error))
        except ray_errors.TaskCancelledError as error:
            if spec.key in self._stalled:  # its process is on another node, so it was cancelled
                self._stalled.discard(spec.key)
                return self._lost(spec, attempt, "stalled", "it gave no sign of life and was ended")
            return self._lost(spec, attempt, "interrupted", f"cancelled: {error}".rstrip(": "))
        except ray_errors.RayTaskError as error:  # raised outside the command, as by a plugin that cannot be loaded
            described = {"type": type(error.cause).__name__, "message": str(error.cause), "traceback": str(error)}
            return Outcome(spec.key, attempt, "failed", error=described)
        except ray_errors.RayError as error:
            status: Status = "stalled" if spec.key in self._stalled else "interrupted" if self._is_forced else "lost"
            self._stalled.discard(spec.key)
            return self._lost(spec, attempt, status, first_line(error))

    @staticmethod
    def _lost(spec: CommandSpec, attempt: int, status: Status, message: str) -> Outcome:
        return Outcome(spec.key, attempt, status, error={"type": status, "message": message, "traceback": ""})

    def stop(self, *, force: bool) -> None:
        """Cancel queued attempts; running ones see the store's stop request. With ``force``, end all of them at once."""
        self._is_forced = self._is_forced or force
        progress = {} if force else self._client.progress()
        for reference, (spec, *_) in list(self._in_flight.items()):
            if force or spec.key not in progress:
                ray.cancel(reference, force=force)

    def abort(self, key: str) -> str:
        """Kill the worker of one command after it wrote its stacks to the command's log."""
        progress = self._client.progress().get(key, {})
        pid = progress.get("pid")
        self._stalled.add(key)
        if pid and Path(f"/proc/{pid}").exists() and progress.get("host") == os.uname().nodename:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGUSR1)  # faulthandler writes all stacks to the command's log
                time.sleep(0.5)
                os.kill(int(pid), signal.SIGKILL)
            return f"The stacks of process {pid} are in its log."
        for reference, (spec, *_) in list(self._in_flight.items()):
            if spec.key == key:
                ray.cancel(reference, force=True)
        return ""

    def close(self) -> None:
        """Cancel all attempts that still run."""
        try:
            self._check()
        except MMLError:  # Ray has ended, and a call to it would hang
            self._in_flight.clear()
        for reference in list(self._in_flight):
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
        self._in_flight.clear()
