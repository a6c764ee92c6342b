"""One attempt at one command: the same code inline and in a Ray worker."""

from __future__ import annotations

import os
import platform
import random
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from mml_ray.driver.command import CommandSpec, Outcome, Status, Workload
from mml_ray.driver.disk_space import FULL
from mml_ray.driver.environment import FAILED, Pulse, limit_threads, logged
from mml_ray.errors import CommandInterrupted, DiskFullError, FencedError, MMLError, MMLMisconfigurationException, UserError
from mml_ray.failpoints import failpoint
from mml_ray.journal.plain import from_plain, to_plain
from mml_ray.seeding import keyed_seed
from mml_ray.store.manager import MMLFileManager


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What an attempt needs beside its command: the seed of the run (``None``: do not seed) and the folder of its log."""

    seed: int | None
    log_folder: Path


@dataclass(slots=True)
class _Running:
    seed: int | None
    threads: int
    torch_prepared: bool = False


_running: list[_Running] = []


def run_attempt(
    workload: Workload,
    spec: CommandSpec,
    attempt: int,
    *,
    manager: MMLFileManager,
    context: AttemptContext,
    pulse: Pulse | None = None,
) -> Outcome:
    """Run the command and return its outcome; never raises for what the command did. ``pulse`` announces a command that lasts.

    The outcome's artifacts are durable (fsync) and measured (size, sha256) when this returns, but nothing counts before
    the run store has committed it.
    """
    started = time.monotonic()
    seed = None if context.seed is None else keyed_seed(context.seed, spec.name, list(spec.params))
    reference = {"command": spec.key, "attempt": attempt, "position": spec.position}
    limit_threads(spec.resources.threads)
    with logged(context.log_folder / f"{spec.key}.log", attempt, manager.files) as command_log:
        manager.bind(reference)
        _running.append(_Running(seed, spec.resources.threads))
        try:
            if pulse is not None:
                pulse.current = (reference, command_log)
            _seed_libraries(seed)
            failpoint("worker.before_command")
            outcome = _execute(workload, spec, attempt, manager)
            failpoint("worker.after_publish")
        except BaseException as error:
            outcome = _failure(spec, attempt, error)
            why = outcome.error["message" if isinstance(error, CommandInterrupted) else "traceback"].rstrip()
            command_log.write(f"{FAILED}{why}\n")  # to the log alone: the end of the run shows it on the terminal
        finally:
            if pulse is not None:
                pulse.current = None
            _running.pop()
            manager.unbind()
            workload.forget()
    outcome.seconds, outcome.node, outcome.pid = time.monotonic() - started, platform.node(), os.getpid()
    return outcome


def _execute(workload: Workload, spec: CommandSpec, attempt: int, manager: MMLFileManager) -> Outcome:
    result = workload.execute(spec.name, spec.params)
    failpoint("worker.after_command")
    structs, models = workload.collect_deltas()
    artifacts = manager.publish()
    return Outcome(
        spec.key, attempt, "done", from_plain(to_plain(result, f"The result of {spec.name}")), artifacts, structs, models
    )


def _failure(spec: CommandSpec, attempt: int, error: BaseException) -> Outcome:
    status: Status = "failed"
    if isinstance(error, FencedError):
        status = "lost"
    elif isinstance(error, CommandInterrupted | KeyboardInterrupt):
        status = "interrupted"
    elif isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in FULL):
        status = "disk"
    elif isinstance(error, SystemExit):
        error = MMLError(f"The command called sys.exit({error.code!r}); raise an exception instead.")
    elif isinstance(error, RuntimeError) and "torchvision::nms" in str(error):
        error = MMLMisconfigurationException(
            "The installed torchvision does not fit this torch, and libraries that find it cannot be imported. Install a matching pair "
            "(https://pytorch.org/get-started), or remove it: pip uninstall torchvision. Only the extras timm and smp need it."
        )
    text = "".join(traceback.format_exception(error))
    described = {"type": type(error).__name__, "message": str(error) or type(error).__name__, "traceback": text}
    if isinstance(error, UserError):
        described["user"] = "yes"
    return Outcome(spec.key, attempt, status, error=described)


# -- environment ----------------------------------------------------------------------------------------------------------------
def _seed_libraries(seed: int | None) -> None:
    if seed is None:
        return
    random.seed(seed)
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        prepare_torch()


def prepare_torch() -> None:
    """Seed torch and set its threads, once for each command; called wherever torch may just have been imported.

    A command that imports torch itself would otherwise start from torch's own seed, or not, depending on what ran
    before in the same process.
    """
    if not _running or _running[-1].torch_prepared:
        return
    import torch

    running = _running[-1]
    running.torch_prepared = True
    limit_threads(running.threads)
    if running.seed is not None:
        import numpy

        torch.manual_seed(running.seed)
        numpy.random.seed(running.seed % 2**32)


def current_seed() -> int | None:
    """Return the seed of the command that runs in this process, or ``None``."""
    return _running[-1].seed if _running else None


def current_threads() -> int:
    """Return how many threads the command that runs in this process may use; outside of commands 1."""
    return _running[-1].threads if _running else 1
