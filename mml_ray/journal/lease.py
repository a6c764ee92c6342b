"""Who may write a journal: a token, won by exclusively creating ``claims/<token>``, and ``lease.json`` that names its holder.

Two drivers that find the same dead owner try to create the same claim, so only one of them wins. A token is never given twice and
only rises; a writer checks before each append, and again before it acknowledges a durable one, that no higher token was claimed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from mml_ray import atomic
from mml_ray.errors import FencedError, JournalError, RunLockedError, StorageFailure
from mml_ray.failpoints import failpoint
from mml_ray.journal.folder import JournalFolder, create_exclusively
from mml_ray.journal.owner import HEARTBEAT_TIMEOUT, describe, living, same_process


class Lease:
    """The lease of one journal, held by this process (or, in an actor, by the driver that started it)."""

    def __init__(self, folder: JournalFolder, token: int, owner: Mapping[str, Any]) -> None:
        self._folder, self.token, self.owner = folder, token, dict(owner)
        self._seen: tuple[int, int, int] | None = None
        self.lost = ""

    @classmethod
    def acquire(
        cls, folder: JournalFolder, owner: Mapping[str, Any], *, adopt: bool = False, timeout: float = HEARTBEAT_TIMEOUT
    ) -> tuple[Lease, dict[str, Any] | None]:
        """Win the next token; returns the lease and who held it before (``None``: nobody, or it was released).

        ``adopt``: only where ``owner`` itself holds it, so that an actor which comes back late reopens nothing that was closed
        or taken over meanwhile.

        Raises:
            RunLockedError: a live owner holds it (``adopt``: anybody else, or nobody, does); names the owner.
            StorageFailure: the folder cannot be written.
        """
        owner = {**owner, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            while True:
                token, holder = current_holder(folder)
                if adopt:
                    _refuse_foreign(folder, holder, owner)
                elif holder is not None:
                    _refuse_if_alive(folder, holder, timeout)
                failpoint("lease.before_claim")
                if _claim(folder, token + 1, owner):
                    break
            failpoint("lease.after_claim")
            lease = cls(folder, token + 1, owner)
            lease._write(owner)
        except OSError as error:
            raise StorageFailure.of("take the lease of", folder.path, error) from error
        failpoint("lease.after_write")
        lease.check(RunLockedError)
        return lease, holder

    def check(self, error: type[Exception] = FencedError) -> None:
        """Raise ``error`` if another process claimed a higher token. Costs one open while nothing changed."""
        if self.lost:
            raise error(self.lost)
        try:
            seen = atomic.identity(self._folder.lease)
            if seen is not None and seen == self._seen:
                return
            token, holder = current_holder(self._folder)
            if token > self.token:
                by = f" by {describe(holder)}" if holder else ""
                self.lost = (
                    f"{self._folder.path} was taken over{by}. This process (token {self.token}) can no longer write to it."
                )
                raise error(self.lost)
            # the highest claim counts: lease.json may be missing, or an older claimer that woke up late has written it
            is_ours = _read_lease(self._folder)[0] == self.token
            if not is_ours:
                self._write(self.owner)
            self._seen = seen if is_ours else None
        except OSError as problem:
            raise StorageFailure.of("keep the lease of", self._folder.path, problem) from problem

    def release(self) -> None:
        """Release the lease, unless another process has taken it over."""
        token, holder = current_holder(self._folder)
        if holder is not None and same_process(holder, self.owner):
            failpoint("close.before_release")
            self._write(None, token=token)
        self.lost = f"{self._folder.path} was closed by this process."

    def is_still_held(self) -> bool:
        """Whether the lease still belongs to the process that took it, with this token or a higher one."""
        _, holder = current_holder(self._folder)
        return holder is not None and same_process(holder, self.owner)

    def _write(self, owner: Mapping[str, Any] | None, token: int | None = None) -> None:
        atomic.write_json(self._folder.lease, {"token": token or self.token, "owner": owner})


def current_holder(folder: JournalFolder) -> tuple[int, dict[str, Any] | None]:
    """The highest token ever claimed, and its holder (``None``: released, or nobody yet)."""
    try:
        claimed = max((int(name) for name in atomic.fs.listdir(folder.claims) if name.isdigit()), default=0)
    except FileNotFoundError:
        claimed = 0
    token, holder = _read_lease(folder)
    if claimed <= token:
        return token, holder
    return claimed, _read_claim(folder, claimed)


def _read_lease(folder: JournalFolder) -> tuple[int, dict[str, Any] | None]:
    try:
        content = json.loads(atomic.read_bytes(folder.lease))
        return int(content["token"]), content["owner"]
    except FileNotFoundError:
        return 0, None
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{folder.lease} is damaged ({error}). It is always written whole, so another program changed it. If no process works "
            "on this folder, remove the file: the claims beside it hold the token."
        ) from error


def _read_claim(folder: JournalFolder, token: int) -> dict[str, Any] | None:
    try:
        content = json.loads(atomic.read_bytes(folder.claims / str(token)))
    except ValueError:  # killed between creating and writing it, on a file system without hard links
        return None
    return content if isinstance(content, dict) else None


def _claim(folder: JournalFolder, token: int, owner: Mapping[str, Any]) -> bool:
    atomic.make_folder(folder.claims)
    temporary = folder.claims / f".{token}.{os.getpid()}.{time.monotonic_ns()}.tmp"
    won = create_exclusively(folder.claims / str(token), json.dumps(owner).encode(), temporary=temporary)
    if won:
        atomic.sync(folder.claims)
    return won


def _refuse_if_alive(folder: JournalFolder, holder: Mapping[str, Any], timeout: float) -> None:
    if living({folder.heartbeat: holder}, timeout=timeout):
        raise RunLockedError(
            f"{folder.path} is in use by {describe(holder)}, which is alive. Wait for it, or end that process. A dead owner is "
            "replaced automatically, so nothing has to be removed by hand."
        )


def _refuse_foreign(folder: JournalFolder, holder: Mapping[str, Any] | None, owner: Mapping[str, Any]) -> None:
    if holder is None or not same_process(holder, owner):
        by = f"belongs to {describe(holder)}" if holder else "was closed"
        raise RunLockedError(f"{folder.path} {by}, so {describe(owner)} can no longer write to it.")
