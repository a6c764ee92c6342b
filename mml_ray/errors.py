"""Every error the package raises on purpose.

A message says what was given, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
import errno as codes
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class MMLError(Exception):
    """Base class of all errors raised on purpose."""

    exit_code: int = EXIT_FAILED

    def __str__(self) -> str:  # KeyError (a second base of some) would print the repr
        return str(self.args[0]) if self.args else self.__class__.__name__


class UserError(MMLError):
    """Something that the user can fix; the command line shows the message without a traceback."""

    exit_code = EXIT_USER


class MMLMisconfigurationException(UserError):
    """A setting is invalid, or two settings contradict one another."""


class UnknownNameError(MMLMisconfigurationException, KeyError):
    """A name that nobody registered. Build it with :meth:`of`, which names the nearest valid choices."""

    @classmethod
    def of(cls, kind: str, given: str, allowed: Iterable[str], hint: str = "") -> UnknownNameError:
        """The error for ``given``, naming the ``allowed`` ones that come close (or all, if they are few)."""
        return cls(unknown_name_message(kind, given, allowed, hint))


class PlanMismatchError(MMLMisconfigurationException):
    """The run to be continued was planned differently."""


class InfeasibleResourcesError(MMLMisconfigurationException):
    """No node of the cluster can ever hold what a command requests."""


class MissingExtraError(MMLMisconfigurationException, ImportError):
    """An optional dependency is missing; the message has the pip command."""

    @classmethod
    def of(cls, package: str, extra: str, needed_for: str) -> MissingExtraError:
        """The error for ``package``, shipped by the extra ``extra``."""
        return cls(f"{needed_for} needs the package '{package}', which is not installed: pip install 'mml-ray[{extra}]'")


class TaskNotFoundError(UserError, KeyError):
    """No such task in the data root."""


class InvalidTransitionError(UserError):
    """A task creator's methods were called in the wrong order."""


class DataError(UserError):
    """Data on disk is broken, missing, or contradicts its description."""


class BrokenSampleError(DataError):
    """One sample cannot be read; the message names its file."""


class ArchiveError(DataError):
    """An archive is damaged, or tries to write where it must not; the message names its entry."""


class LeakageError(DataError):
    """Samples or groups appear in splits that have to be disjoint."""


class RunLockedError(UserError):
    """Another live driver owns the run."""


class JournalError(UserError):
    """The journal of a run is damaged, or was written by a newer version."""


class StorageError(UserError):
    """A folder cannot be written: permissions, or no space left."""


class DiskFullError(StorageError):
    """No space left for what a command writes: the run waits for some and tries again."""


class StorageFailure(StorageError, OSError):
    """A file operation of a journal or a store failed; ``errno`` says how, so that a full disk can be waited for."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[type[StorageFailure], tuple[str, int | None]]:
        return type(self), (str(self), self.errno)

    @classmethod
    def of(cls, action: str, path: object, error: OSError) -> StorageFailure:
        """The error to raise where ``action`` ("write", "take the lease of") failed on ``path``."""
        full = error.errno in (codes.ENOSPC, codes.EDQUOT)
        hint = "Free some space" if full else "Check the folder's permissions and the disk"
        return cls(f"Cannot {action} {path}: {error.strerror or error}. {hint}, then continue the run.", error.errno)


class CommandError(MMLError):
    """A command of the plan failed."""


class StructConflictError(CommandError):
    """Two commands that ran side by side set the same path key of one task struct."""


class FencedError(MMLError):
    """A later owner took the run over; this process must stop, and what it still wanted to write is refused."""


class CommandInterrupted(MMLError):
    """A command stopped before its end because the run was interrupted; it goes on from its checkpoint."""

    exit_code = EXIT_INTERRUPTED


def unknown_name_message(kind: str, given: str, allowed: Iterable[str], hint: str = "") -> str:
    """One line: the unknown ``given``, then the nearest of ``allowed`` (all of them if there are at most twelve)."""
    names = sorted({str(name) for name in allowed})
    close = difflib.get_close_matches(str(given), names, n=5, cutoff=0.5)
    message = f"Unknown {kind} '{given}'."
    if close:
        message += f" Did you mean: {', '.join(close)}?"
    if names and (len(names) <= 12 or not close):
        shown = names if len(names) <= 30 else [*names[:30], f"... ({len(names)} in all)"]
        message += f" Available: {', '.join(shown)}."
    if not names:
        message += " None is registered."
    return f"{message} {hint}".rstrip()
