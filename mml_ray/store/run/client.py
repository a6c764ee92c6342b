"""The run store in an actor, as every other process uses it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from mml_ray.journal.actor import HostedStore, StoreClient, forward, start_host
from mml_ray.store.run.protocol import RunStoreProtocol

_GO_ON: Mapping[str, bool] = {"stop": False}


class RunStoreClient(StoreClient, RunStoreProtocol):
    """Has the methods of a :class:`~mml_ray.store.run.store.RunStore`, carried out by the actor that hosts it."""

    set_plan = forward(RunStoreProtocol.set_plan)
    start = forward(RunStoreProtocol.start)
    reserve = forward(RunStoreProtocol.reserve)
    commit = forward(RunStoreProtocol.commit)
    fail = forward(RunStoreProtocol.fail)
    finish = forward(RunStoreProtocol.finish)
    progress = forward(RunStoreProtocol.progress)
    request_stop = forward(RunStoreProtocol.request_stop)
    task_state = forward(RunStoreProtocol.task_state)
    results = forward(RunStoreProtocol.results)
    result = forward(RunStoreProtocol.result)
    committed = forward(RunStoreProtocol.committed)

    def __init__(self, handle: Any, store: HostedStore, *, in_worker: bool = False) -> None:
        super().__init__(handle, store, in_worker=in_worker)
        self._pending: Future[Any] | None = None
        self._reported_for: tuple[Any, Any] | None = None
        self._answer = _GO_ON

    def report(self, attempt: Mapping[str, Any], progress: Mapping[str, Any]) -> Mapping[str, bool]:
        """As in the protocol, without waiting: the answer may be that to the report before.

        A report is left out while the one before is under way, unless it has the values of an epoch.
        """
        attempted = (attempt["command"], attempt["attempt"])
        if attempted != self._reported_for:  # an answer to the attempt before, perhaps after its end, is not for this one
            self._pending, self._reported_for, self._answer = None, attempted, _GO_ON
        if self._pending is not None and self._pending.done():
            self._answer = self._pending.result() or _GO_ON
            self._pending = None
        if self._pending is None or "values" in progress:
            self._pending = self._call_later("report", dict(attempt), dict(progress))
        return self._answer


def host_run(run_dir: str, *, roots: Mapping[str, str], owner: Mapping[str, Any], handle: Any = None) -> RunStoreClient:
    """Let an actor write an opened run from now on, and wait until it has replayed the journal.

    The run's lease must be held by ``owner`` (this process); the actor adopts it with a higher token. ``handle``: of an actor that
    hosts other stores; without it a new one is started on this node.
    """
    arguments = {"run_dir": run_dir, "roots": dict(roots), "owner": dict(owner), "adopt": True}
    store = HostedStore(run_dir, "mml_ray.store.run.store:RunStore.open", arguments)
    return RunStoreClient(start_host() if handle is None else handle, store).open()
