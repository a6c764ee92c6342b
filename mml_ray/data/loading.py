"""The loader that Lightning iterates: several tasks, loader processes, and a position that can be left and entered again."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from mml_ray.data.batches import Batch, BatchSource, Failure, Finisher
from mml_ray.data.sampling import (
    BatchPlan,
    Request,
    Stream,
    parallel_batches,
    parallel_length,
    sequential_batches,
    sequential_length,
)
from mml_ray.driver import sigterm


class EpochSampler(Sampler[Any]):
    """Yields the requests of the epoch that ``plan`` points to."""

    def __init__(self, streams: Sequence[Stream], *, parallel: bool) -> None:
        self.streams = list(streams)
        self.plan = BatchPlan()
        self.writers: frozenset[int] = frozenset()
        #: requests to finish stores, after an epoch that fills some: one for each process, as torch deals them out in turn
        self.flushes = 1
        self._batches = parallel_batches if parallel else sequential_batches
        self._length = (parallel_length if parallel else sequential_length)(self.streams)

    def __iter__(self) -> Iterator[Request]:
        writers = self.writers
        for draws in self._batches(self.streams, self.plan):
            yield Request(tuple(draws), writers)
        if writers:
            yield from [Request()] * self.flushes

    def __len__(self) -> int:
        return self._length


class MultiTaskLoader:
    """Iterates epochs. ``len`` is the number of batches of a whole epoch, also when one is entered in the middle.

    The epoch counts up by itself; Lightning sets it (``loader.sampler.set_epoch``). Nothing is started before the first
    batch is asked for, so the position may be set after ``iter(loader)``.
    """

    #: Lightning looks at it wherever it finds a ``sampler``
    batch_sampler = None

    def __init__(
        self,
        source: BatchSource,
        streams: Sequence[Stream],
        *,
        finisher: Finisher,
        parallel: bool = False,
        num_workers: int = 0,
        persistent: bool = False,
        pin_memory: bool = False,
        deferred: Callable[[], bool] = lambda: False,
        writers: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        """``parallel``: all tasks in each batch, else one after the other; ``deferred()``: hand out unfinished batches;
        ``writers()``: at the start of an epoch, the tasks whose stores may be filled."""
        self._sampler = EpochSampler(streams, parallel=parallel)
        self._finisher = finisher
        self._deferred = deferred
        self._writers = writers
        self._position = BatchPlan()
        self._entered = BatchPlan()
        workers = min(num_workers, len(self._sampler))
        self._sampler.flushes = max(1, workers)
        self._start = WorkerStart()
        self.torch_loader: DataLoader[Any] = DataLoader(
            source,
            batch_sampler=self._sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=self._start,
            # its own generator, or each epoch would draw from the global one that models draw from
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        plan = self._enter()
        self._sampler.plan, self._sampler.writers = plan, self._writers()
        self._start.guarded = threading.current_thread() is threading.main_thread()
        self._position = plan
        with sigterm.held_back():  # from the start: loader processes have threads before they get to say what they want
            batches = iter(self.torch_loader)
        for batch in batches:
            if isinstance(batch, Failure):
                raise batch.kind(batch.message)
            if batch is None:
                continue
            self._position = BatchPlan(plan.epoch, self._position.start_batch + 1)
            yield batch if self._deferred() else self._finisher(batch)
        self._entered = self._position = BatchPlan(plan.epoch + 1)

    def _enter(self) -> BatchPlan:
        plan = self._entered
        self._entered = BatchPlan(plan.epoch)
        return plan

    @property
    def sampler(self) -> MultiTaskLoader:
        """What Lightning calls ``set_epoch`` of."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration; keeps the batch of a :meth:`resume` into the same epoch."""
        if epoch != self._entered.epoch:
            self._entered = BatchPlan(epoch)

    def resume(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin after ``batch`` batches of ``epoch``."""
        ahead, within = divmod(batch, max(1, len(self)))
        self._entered = self._position = BatchPlan(epoch + ahead, within)

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches of it that have been handed out."""
        return {"epoch": self._position.epoch, "batch": self._position.start_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """As :meth:`resume`."""
        self.resume(int(state["epoch"]), int(state["batch"]))

    def close(self) -> None:
        """End the loader processes."""
        iterator = getattr(self.torch_loader, "_iterator", None)
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            self.torch_loader._iterator = None


def _as_it_is(batch: Any) -> Any:
    return batch


class WorkerStart:
    """What a loader process does first: one thread, no Ctrl-C, no SIGTERM but that of the process that started it, and death with it."""

    def __init__(self) -> None:
        #: the kernel ties the signal to the starting *thread*, so only a main thread may set it
        self.guarded = True
        self._parent = os.getpid()

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sigterm.obey_only(self._parent)
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        if self.guarded and sys.platform == "linux":
            die_with_parent(self._parent)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends (Linux); exits at once if that has happened already."""
    set_death_signal = 1
    if ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def available_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None) -> int:
    """Loader processes: as asked, else one for each CPU, else none where there is only one."""
    if asked is not None:
        return asked
    cpus = available_cpus()
    return 0 if cpus <= 1 else cpus
