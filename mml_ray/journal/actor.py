"""A Ray actor that hosts stores, and the client through which each of them is used.

A plain actor: one thread, so calls are served one after the other. It restarts by itself, and each store is opened again, by a
replay of its journal, when its next call arrives; callers wait. Each incarnation raises the token of the store's lease, so that an
older one that is still alive can write nothing more. Calls that change something are repeated where an answer was lost: the methods
of a hosted store are idempotent.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self, TypeVar, cast

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mml_ray.errors import MMLError
from mml_ray.journal.owner import die_with_parent

P = ParamSpec("P")
R = TypeVar("R")
#: seconds that a caller waits for the actor to come back
RESTART_TIMEOUT = 120.0
#: seconds between two checks of a waiting driver whether Ray still runs
_CHECK_INTERVAL = 2.0


@dataclass(frozen=True)
class HostedStore:
    """A store in an actor: its name there, and the callable that opens it, as ``package.module:Class.method`` with plain keyword
    arguments. The callable must refuse to open a store again that was closed, since a late worker may still ask for it.
    """

    name: str
    opener: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Any:
        """Open it in this process."""
        module, _, path = self.opener.partition(":")
        opener = functools.reduce(getattr, path.split("."), importlib.import_module(module))
        return cast(Callable[..., Any], opener)(**self.arguments)


class _Host:
    """The actor. It holds several stores at once, by name."""

    def __init__(self) -> None:
        die_with_parent()
        self._stores: dict[str, Any] = {}

    def open(self, store: HostedStore) -> None:
        """Open a store; harmless when repeated."""
        if store.name not in self._stores:
            self._stores[store.name] = store.open()

    def close(self, name: str) -> None:
        """Close a store; harmless when repeated."""
        if name in self._stores:
            self._stores.pop(name).close()

    def call(self, store: HostedStore, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call one method of a store, which is opened where this actor was restarted since."""
        self.open(store)
        return getattr(self._stores[store.name], method)(*args, **kwargs)


def start_host() -> Any:
    """Start an actor without stores on this node, on no CPU of its own; returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(_Host).options(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)
    return actor.remote()


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="mml-ray-store")


def get_in_helper_thread(reference: Any) -> Any:
    """``ray.get`` in a helper thread. In the main thread of a worker it would give the command's CPU back while it waits (as
    ``ray.wait`` does), and Ray would start one more command than there are slots.
    """
    return _helpers().submit(ray.get, reference).result()


class StoreClient:
    """Uses one hosted store; works in every process of the cluster (it pickles). One client is used by one thread."""

    def __init__(self, handle: Any, store: HostedStore, *, in_worker: bool = False) -> None:
        #: called while the driver waits for an answer; raises if none can come any more
        self.check: Callable[[], None] = lambda: None
        #: Ray's handle of the actor
        self.handle = handle
        self.store = store
        self._in_worker = in_worker

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        return functools.partial(type(self), in_worker=True), (self.handle, self.store)

    def open(self) -> Self:
        """Open the store in the actor, and wait until its journal is replayed."""
        self._request("open", self.store)
        return self

    def close(self) -> None:
        """Close the store in the actor."""
        self._request("close", self.store.name)

    def _call_later(self, method: str, *args: Any) -> Future[Any]:
        """The answer to a call that nobody waits for; ``None`` where none came, because the actor was coming back."""
        return _helpers().submit(self._call_once, method, args)

    def _call_once(self, method: str, args: Sequence[Any]) -> Any:
        try:
            return ray.get(self.handle.call.remote(self.store, method, args, {}))
        except (ray_errors.RayError, MMLError):
            return None

    def _request(self, what: str, *args: Any) -> Any:
        """One method of the actor, repeated while the actor restarts; raises what the method raised."""
        deadline = time.monotonic() + RESTART_TIMEOUT
        while True:
            try:
                return self._send(what, *args)
            except ray_errors.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, BaseException) else error
                raise cause from None
            except (ray_errors.ActorUnavailableError, ray_errors.ActorDiedError) as error:
                self.check()
                is_final = any(reason in str(error) for reason in ("out of restarts", "was killed", "constructor"))
                if is_final or time.monotonic() > deadline:
                    raise MMLError(f"The file manager of the run did not come back: {error}") from error
                time.sleep(0.2)

    def _send(self, what: str, *args: Any) -> Any:
        reference = getattr(self.handle, what).remote(*args)
        if self._in_worker:
            return get_in_helper_thread(reference)
        while True:
            try:
                return ray.get(reference, timeout=_CHECK_INTERVAL)
            except ray_errors.GetTimeoutError:
                self.check()


def forward(method: Callable[P, R]) -> Callable[P, R]:
    """The same method for a client: the hosted store carries it out."""

    @functools.wraps(method)
    def call(self: StoreClient, *args: Any, **kwargs: Any) -> Any:
        return self._request("call", self.store, method.__name__, args, kwargs)

    return cast(Callable[P, R], call)
