"""The executor without Ray: one command at a time, in this process. A debugger works, and most tests run here.

With Ray it runs the commands that belong to the driver.
"""

from __future__ import annotations

import platform
from collections import deque

from mml_ray.driver.command import CommandSpec, Outcome, Workload
from mml_ray.driver.worker import AttemptContext, run_attempt
from mml_ray.store.manager import MMLFileManager


class InlineExecutor:
    """Runs the submitted attempts one after the other, each inside :meth:`wait`."""

    window = share = 1

    def __init__(self, workload: Workload, manager: MMLFileManager, context: AttemptContext) -> None:
        self.node = platform.node()
        self._workload, self._manager, self._context = workload, manager, context
        self._queue: deque[tuple[CommandSpec, int]] = deque()

    def submit(self, spec: CommandSpec, attempt: int) -> None:
        """Keep it for the next :meth:`wait`."""
        self._queue.append((spec, attempt))

    def wait(self, timeout: float) -> list[Outcome]:
        """Run the next attempt, if there is one; the timeout does not bound it."""
        if not self._queue:
            return []
        spec, attempt = self._queue.popleft()
        return [run_attempt(self._workload, spec, attempt, manager=self._manager, context=self._context)]

    def stop(self, *, force: bool) -> None:
        """Nothing to do: a running command sees the store's stop request; a second Ctrl-C raises in it."""

    def abort(self, key: str) -> str:
        """Nothing runs beside the driver's loop, so there is nothing to end."""
        return ""

    def close(self) -> None:
        """Nothing to free."""
