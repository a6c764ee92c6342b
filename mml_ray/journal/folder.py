"""The folder of a journal, and the exclusive creation of whole files that leases and reservations are won with."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from mml_ray import atomic
from mml_ray.failpoints import failpoint

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class JournalFolder:
    """The files with which a folder is written by one owner at a time."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(os.path.abspath(path))
        #: one operation per line; the state is a replay of it
        self.journal = self.path / "journal.jsonl"
        #: who may write, with which token
        self.lease = self.path / "lease.json"
        #: the heartbeat of the owner; a file of its own, so that a beat never overwrites a raised token
        self.heartbeat = self.path / "lease.beat"
        #: one file for each token that was ever won
        self.claims = self.path / "claims"


def create_exclusively(path: Path, data: bytes, *, temporary: Path) -> bool:
    """Create ``path`` with ``data``, whole, unless it exists; returns whether this call created it."""
    _write_durably(temporary, data, os.O_TRUNC)
    try:
        failpoint("marker.before_link")
        atomic.fs.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:  # a later owner swept the temporary file of one that comes too late
        if not path.exists():
            raise
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with contextlib.suppress(FileExistsError):  # without hard links, a kill between the two steps leaves an empty file
            _write_durably(path, data, os.O_EXCL)
            return True
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _write_durably(path: Path, data: bytes, flag: int) -> None:
    with atomic.opened(path, os.O_WRONLY | os.O_CREAT | flag) as descriptor:
        atomic.write_all(descriptor, data)
        atomic.fs.fsync(descriptor)
