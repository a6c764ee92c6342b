"""Opening the folder of a run for writing: first the lease, then the journal."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mml_ray import atomic
from mml_ray.errors import FencedError, JournalError, RunLockedError, StorageError
from mml_ray.failpoints import failpoint
from mml_ray.journal import log as journal
from mml_ray.journal.lease import Lease
from mml_ray.journal.log import Journal
from mml_ray.journal.owner import same_process
from mml_ray.store.paths import Roots, RunPaths
from mml_ray.store.run.state import RunState

Opened = tuple[Lease, Journal, RunState]


def begin(paths: RunPaths, roots: Roots, *, owner: Mapping[str, Any], manifest: Mapping[str, Any]) -> Opened:
    """Start a new run. Its journal appears whole, with its first line, or not at all; errors as ``RunStore.create``."""
    _refuse_existing(paths)
    try:
        atomic.make_folder(paths.run_dir)
    except OSError as error:
        raise journal.failure("create", paths.run_dir, error) from error
    failpoint("create.after_folder")
    lease, _ = Lease.acquire(paths, owner)
    with released_on_error(lease):
        failpoint("create.after_lease")
        _refuse_existing(paths)
        fields = {"run": uuid.uuid4().hex, "manifest": dict(manifest), **_opening(lease, roots, adopted=False)}
        writer, added = Journal.take_over(
            paths.journal, b"", operations=[("run_opened", fields)], seq=0, token=lease.token, guard=lease.check
        )
        failpoint("create.after_journal")
        return lease, writer, RunState.replay(added)


def reopen(paths: RunPaths, roots: Roots, *, owner: Mapping[str, Any], adopt: bool, patience: float) -> Opened:
    """Take an existing run over; a journal that is damaged is found before anything is written. Errors as ``RunStore.open``."""
    before = journal.read_raw(paths.journal)
    content = journal.parse(paths.journal, before)
    lease, holder = Lease.acquire(paths, owner, adopt=adopt, patience=patience)
    with released_on_error(lease):
        failpoint("open.after_lease")
        raw = journal.read_raw(paths.journal)
        if raw != before:
            content = journal.parse(paths.journal, raw)
        state = RunState.replay(content.operations, source=paths.journal)
        failpoint("open.after_replay")
        adopted = adopt and holder is not None and same_process(holder, owner)
        fields = {"run": state.run, **_opening(lease, roots, adopted=adopted)}
        writer, added = Journal.take_over(
            paths.journal,
            raw[: content.size],
            operations=[("run_opened", fields)],
            seq=content.seq,
            token=lease.token,
            guard=lease.check,
        )
        replay_all(state, added)
        return lease, writer, state


def now() -> float:
    """The wall clock, for people; nothing is decided by it."""
    return round(time.time(), 3)


def replay_all(state: RunState, operations: Sequence[Mapping[str, Any]]) -> None:
    """Apply operations to a state."""
    for operation in operations:
        state.apply(operation)


def _opening(lease: Lease, roots: Roots, *, adopted: bool) -> dict[str, Any]:
    relative = {name: os.path.relpath(getattr(roots, name), roots.run) for name in ("results", "project")}
    return {
        "version": journal.FORMAT,
        "token": lease.token,
        "owner": lease.owner,
        "roots": {**relative, "data": str(roots.data)},
        "at": now(),
        "adopted": adopted,
    }


def _refuse_existing(paths: RunPaths) -> None:
    if paths.journal.exists():
        raise StorageError(f"{paths.run_dir} holds a run already: continue it, or create another folder.")


@contextlib.contextmanager
def released_on_error(lease: Lease) -> Iterator[None]:
    """A run that could not be opened is not kept locked, unless somebody else has it by now."""
    try:
        yield
    except (FencedError, RunLockedError):
        raise
    except Exception:
        with contextlib.suppress(OSError, JournalError):
            lease.release()
        raise
