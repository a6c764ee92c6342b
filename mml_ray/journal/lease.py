"""Who may write a run: a token, won by exclusively creating ``claims/<token>``, and ``lease.json`` that names its holder.

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
from mml_ray.errors import FencedError, JournalError, RunLockedError
from mml_ray.failpoints import failpoint
from mml_ray.journal.log import failure
from mml_ray.journal.owner import PATIENCE, describe, is_alive, same_process
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.markers import create_exclusively


class Lease:
    """The lease of one run in the hands of this process (or, for an actor, of the driver that started it)."""

    def __init__(self, paths: RunPaths, token: int, owner: Mapping[str, Any]) -> None:
        self._paths, self.token, self.owner = paths, token, dict(owner)
        self._seen: tuple[int, int, int] | None = None
        self.lost = ""

    @classmethod
    def acquire(
        cls, paths: RunPaths, owner: Mapping[str, Any], *, adopt: bool = False, patience: float = PATIENCE
    ) -> tuple[Lease, dict[str, Any] | None]:
        """Win the next token; returns the lease and who held it before (``None``: nobody, or it was released).

        Raises:
            RunLockedError: a live owner holds it (with ``adopt``: another one than ``owner``); names it.
            StorageFailure: the run folder cannot be written.
        """
        owner = {**owner, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            while True:
                token, holder = current_holder(paths)
                if holder is not None and not (adopt and same_process(holder, owner)):
                    _refuse_if_alive(paths, holder, patience)
                failpoint("lease.before_claim")
                if _claim(paths, token + 1, owner):
                    break
            failpoint("lease.after_claim")
            lease = cls(paths, token + 1, owner)
            lease._write(owner)
        except OSError as error:
            raise failure("take the lease of", paths.run_dir, error) from error
        failpoint("lease.after_write")
        lease.check(RunLockedError)
        return lease, holder

    def check(self, error: type[Exception] = FencedError) -> None:
        """Raise ``error`` where somebody claimed a higher token. Costs one open while nothing changed."""
        if self.lost:
            raise error(self.lost)
        try:
            seen = atomic.identity(self._paths.lease)
            if seen is not None and seen == self._seen:
                return
            token, holder = current_holder(self._paths)
        except OSError as problem:
            raise failure("read the lease of", self._paths.run_dir, problem) from problem
        if token > self.token:
            by = f" by {describe(holder)}" if holder else ""
            self.lost = f"Run {self._paths.run_dir} was taken over{by}; this process (token {self.token}) may write nothing more."
            raise error(self.lost)
        self._restore(seen)

    def release(self) -> None:
        """Give the run free, unless it belongs to another process by now."""
        token, holder = current_holder(self._paths)
        if holder is not None and same_process(holder, self.owner):
            failpoint("close.before_release")
            self._write(None, token=token)
        self.lost = f"Run {self._paths.run_dir} was closed here."

    def is_owners(self) -> bool:
        """Whether the run still belongs to the process that took this lease, with this token or a higher one."""
        _, holder = current_holder(self._paths)
        return holder is not None and same_process(holder, self.owner)

    def _restore(self, seen: tuple[int, int, int] | None) -> None:
        """lease.json is missing, or an older claimer that woke up late wrote it: the highest claim is this one, so write it
        again.
        """
        try:
            token, _ = _read_lease(self._paths)
            if token != self.token:
                self._write(self.owner)
            self._seen = seen if token == self.token else None
        except OSError as error:
            raise failure("write the lease of", self._paths.run_dir, error) from error

    def _write(self, owner: Mapping[str, Any] | None, token: int | None = None) -> None:
        atomic.write_json(self._paths.lease, {"token": token or self.token, "owner": owner})


def current_holder(paths: RunPaths) -> tuple[int, dict[str, Any] | None]:
    """The highest token ever claimed, and its holder (``None``: released, or nobody yet)."""
    claimed = _highest_claim(paths)
    token, holder = _read_lease(paths)
    if claimed <= token:
        return token, holder
    return claimed, _read_claim(paths, claimed)


def _highest_claim(paths: RunPaths) -> int:
    try:
        names = atomic.fs.listdir(paths.claims)
    except FileNotFoundError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def _read_lease(paths: RunPaths) -> tuple[int, dict[str, Any] | None]:
    try:
        content = json.loads(atomic.read_bytes(paths.lease))
        return int(content["token"]), content["owner"]
    except FileNotFoundError:
        return 0, None
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{paths.lease} is damaged ({error}); it is always written whole, so something else changed it. If no process works "
            "on this run, "
            "remove the file: the claims beside it hold the token."
        ) from error


def _read_claim(paths: RunPaths, token: int) -> dict[str, Any] | None:
    try:
        content = json.loads(atomic.read_bytes(paths.claims / str(token)))
    except ValueError:  # killed between creating and writing it, on a file system without hard links
        return None
    return content if isinstance(content, dict) else None


def _claim(paths: RunPaths, token: int, owner: Mapping[str, Any]) -> bool:
    atomic.make_folder(paths.claims)
    temporary = paths.claims / f".{token}.{os.getpid()}.{time.monotonic_ns()}.tmp"
    won = create_exclusively(paths.claims / str(token), json.dumps(owner).encode(), temporary=temporary)
    if won:
        atomic.sync_folder(paths.claims)
    return won


def _refuse_if_alive(paths: RunPaths, holder: Mapping[str, Any], patience: float) -> None:
    if is_alive(holder, paths.beat, patience=patience):
        raise RunLockedError(
            f"Run {paths.run_dir} belongs to {describe(holder)}, which is alive. Wait for it, or end that process; a dead owner "
            "is replaced "
            "by itself, so nothing has to be removed by hand."
        )
