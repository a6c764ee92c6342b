"""The run store hosted as a Ray actor, and its client, which has the same methods.

A plain actor: one thread, so calls are served one after the other. It restarts by itself, replays the journal, and carries on;
callers wait. Each incarnation raises the lease's token, so that an older one that is still alive can write nothing more.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mml_ray.errors import MMLError
from mml_ray.journal.owner import die_with_parent
from mml_ray.store.run.store import RunStore

#: how long a caller waits for the actor to come back, in seconds
PATIENCE = 120.0
#: seconds between two looks of a waiting driver at whether Ray is still there
_LOOK = 2.0


class _Host:
    """The actor."""

    def __init__(self, run_dir: str, roots: Mapping[str, str], owner: Mapping[str, Any]) -> None:
        die_with_parent()
        self._store = RunStore.open(run_dir, roots=dict(roots), owner=dict(owner), adopt=True)

    def call(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """One method of the run store."""
        return getattr(self._store, method)(*args, **kwargs)

    def say(self, attempt: dict[str, Any], progress: dict[str, Any]) -> dict[str, Any]:
        """Progress of a command; the answer says whether it is to stop."""
        return self._store.report(attempt, progress)


@functools.cache
def _waiter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="mml-ray-store")


def get_beside(reference: Any) -> Any:
    """``ray.get`` in a helper thread. In the main thread of a worker it would give the command's CPU back while it waits (as
    ``ray.wait`` does), and Ray would start one more command than there are slots.
    """
    return _waiter().submit(ray.get, reference).result()


class StoreClient:
    """Talks to the actor; usable from every process of the cluster (it pickles)."""

    def __init__(self, handle: Any) -> None:
        #: called while the driver waits for an answer; raises if there can be none any more
        self.check: Callable[[], None] = _nothing
        self._handle = handle
        self._in_worker = False
        self._pending: Any = None
        self._asked_for: Any = None
        self._answer: Mapping[str, Any] = {"stop": False}

    @property
    def handle(self) -> Any:
        """Ray's handle of the actor."""
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {
            "_handle": self._handle,
            "check": _nothing,
            "_in_worker": True,
            "_pending": None,
            "_asked_for": None,
            "_answer": {"stop": False},
        }

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reference = self._handle.call.remote(method, list(args), kwargs)
                return get_beside(reference) if self._in_worker else self._answer_to(reference)
            except ray_errors.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, BaseException) else error
                raise cause from None
            except (ray_errors.ActorUnavailableError, ray_errors.ActorDiedError) as error:
                self.check()
                if time.monotonic() > deadline or _hopeless(error):
                    raise MMLError(f"The file manager of the run does not come back: {error}") from error
                time.sleep(0.2)

    def _answer_to(self, reference: Any) -> Any:
        while True:
            try:
                return ray.get(reference, timeout=_LOOK)
            except ray_errors.GetTimeoutError:
                self.check()

    def report(self, attempt: Mapping[str, Any], progress: Mapping[str, Any]) -> Mapping[str, Any]:
        """As ``RunStore.report``, without waiting: the answer may be that to the report before."""
        asking = (attempt["command"], attempt["attempt"])
        if asking != self._asked_for:  # what the attempt before was told, perhaps after its end, is not for this one
            self._pending, self._asked_for, self._answer = None, asking, {"stop": False}
        if self._pending is not None and self._pending.done():
            try:
                self._answer = self._pending.result()
            except ray_errors.RayError:
                self._answer = {"stop": False}  # the actor is coming back; what it says next counts
            self._pending = None
        if self._pending is None:
            self._pending = _waiter().submit(self._tell, dict(attempt), dict(progress))
        return self._answer

    def _tell(self, attempt: dict[str, Any], progress: dict[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = ray.get(self._handle.say.remote(attempt, progress))
        return answer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, *args, **kwargs)

        return method


def _nothing() -> None:
    """Ask nobody."""


def _hopeless(error: BaseException) -> bool:
    return "out of restarts" in str(error) or "was killed" in str(error) or "constructor" in str(error)


def host(run_dir: str, *, roots: Mapping[str, str], owner: Mapping[str, Any]) -> StoreClient:
    """Start the actor on this node for an opened run, and wait until it has replayed the journal.

    The run's lease must be held by ``owner`` (this process); the actor adopts it with a higher token.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(_Host).options(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)
    client = StoreClient(actor.remote(run_dir, dict(roots), dict(owner)))
    client.summary()
    return client
