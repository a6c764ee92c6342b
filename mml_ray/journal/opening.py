"""Opening a journal for writing: first the lease, then the journal."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from mml_ray import atomic
from mml_ray.errors import FencedError, JournalError, RunLockedError, StorageError, StorageFailure
from mml_ray.failpoints import failpoint
from mml_ray.journal import log
from mml_ray.journal.folder import JournalFolder
from mml_ray.journal.lease import Lease
from mml_ray.journal.log import Journal
from mml_ray.journal.owner import same_process
from mml_ray.journal.replay import State

S = TypeVar("S", bound=State)


def create(
    folder: JournalFolder, state: type[S], *, roots: Mapping[str, str], owner: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[Lease, Journal, S]:
    """Start a new journal. It appears whole, with its first line, or not at all.

    ``roots``: by name, the folders that its paths are relative to; themselves relative to ``folder`` where both may be moved together.

    Raises:
        RunLockedError: another live process is creating it.
        StorageError: the folder cannot be written, or holds a journal already.
    """
    _refuse_existing(folder, state.kind)
    try:
        atomic.make_folder(folder.path)
    except OSError as error:
        raise StorageFailure.of("create", folder.path, error) from error
    failpoint("create.after_folder")
    lease, _ = Lease.acquire(folder, owner)
    with _released_on_error(lease):
        failpoint("create.after_lease")
        _refuse_existing(folder, state.kind)
        fields = {state.kind: uuid.uuid4().hex, "manifest": dict(manifest), **_opening(lease, roots, adopted=False)}
        operations = [(f"{state.kind}_opened", fields)]
        writer, added = Journal.take_over(folder.journal, b"", operations=operations, seq=0, token=lease.token, guard=lease.check)
        failpoint("create.after_journal")
        return lease, writer, state.replay(added)


def reopen(
    folder: JournalFolder, state: type[S], *, roots: Mapping[str, str], owner: Mapping[str, Any], adopt: bool, timeout: float
) -> tuple[Lease, Journal, S]:
    """Take over an existing journal; one that is damaged is found before anything is written.

    ``roots`` as for :func:`create`. ``adopt``: go on for ``owner``, which holds the lease (a restarted actor). ``timeout``: seconds to
    wait for the heartbeat of an owner on another machine.

    Raises:
        RunLockedError: a live owner holds it; names host, process and since when.
        JournalError: the journal is missing, damaged or from a newer version; nothing was changed.
        StorageFailure: the folder cannot be written.
    """
    before = log.read_raw(folder.journal)
    content = log.parse(folder.journal, before)
    lease, holder = Lease.acquire(folder, owner, adopt=adopt, timeout=timeout)
    with _released_on_error(lease):
        failpoint("open.after_lease")
        raw = log.read_raw(folder.journal)
        if raw != before:
            content = log.parse(folder.journal, raw)
        found = state.replay(content.operations, source=folder.journal)
        failpoint("open.after_replay")
        adopted = adopt and holder is not None and same_process(holder, owner)
        operations = [(f"{state.kind}_opened", {state.kind: found.id, **_opening(lease, roots, adopted=adopted)})]
        writer, added = Journal.take_over(
            folder.journal, raw[: content.size], operations=operations, seq=content.seq, token=lease.token, guard=lease.check
        )
        found.apply(*added)
        return lease, writer, found


def now() -> float:
    """The wall clock, for people; nothing is decided by it."""
    return round(time.time(), 3)


def _opening(lease: Lease, roots: Mapping[str, str], *, adopted: bool) -> dict[str, Any]:
    return {
        "version": log.FORMAT,
        "token": lease.token,
        "owner": lease.owner,
        "roots": dict(roots),
        "at": now(),
        "adopted": adopted,
    }


def _refuse_existing(folder: JournalFolder, kind: str) -> None:
    if folder.journal.exists():
        raise StorageError(f"{folder.path} already holds a {kind}. Continue it, or choose another folder.")


@contextlib.contextmanager
def _released_on_error(lease: Lease) -> Iterator[None]:
    """A journal that could not be opened does not stay locked, unless another process holds it by now."""
    try:
        yield
    except (FencedError, RunLockedError):
        raise
    except Exception:
        with contextlib.suppress(OSError, JournalError):
            lease.release()
        raise
