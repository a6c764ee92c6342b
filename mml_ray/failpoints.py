"""Named places in the code where a test can end, break or delay the process.

``failpoint("commit.after_append")`` does nothing unless that name is armed. A process arms what the environment variable
``MML_RAY_FAILPOINTS`` says when it starts, or the text of the file that ``MML_RAY_FAILPOINTS_FILE`` names; a test arms its own
process with :func:`armed`. The text holds entries ``name=mode[:argument][@n]``, separated by ``;`` or line ends:

=====================  ============================================================================
``kill``               SIGKILL to this process
``exit[:code]``        ``os._exit``: no clean-up, no flushing (code 1 unless given)
``raise[:ERRNO]``      :class:`FailpointError`, or an ``OSError`` with that errno (``raise:ENOSPC``)
``delay:seconds``      sleeps, then goes on
``@n``                 at the n-th time the name is reached (1 unless given), once
=====================  ============================================================================

Hits are counted by process. Where the environment variable ``MML_RAY_FAILPOINTS_ONCE`` names a folder they are counted there,
over all processes that share it, so that a process started again does not die of the same entry.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE, FILE_VARIABLE, ONCE_VARIABLE = "MML_RAY_FAILPOINTS", "MML_RAY_FAILPOINTS_FILE", "MML_RAY_FAILPOINTS_ONCE"

#: every name there is; a test compares it with the source
FAILPOINTS: frozenset[str] = frozenset(
    """
    create.after_folder create.after_lease create.after_journal
    lease.before_claim lease.after_claim lease.after_write
    open.after_lease open.after_replay open.before_clean open.after_clean
    journal.before_append journal.after_write journal.after_fsync journal.before_replace journal.after_replace
    plan.after_append plan.after_write
    start.after_append start.after_clean
    reserve.before_create marker.before_link reserve.after_create reserve.after_append
    publish.before_put publish.after_put publish.after_unlink
    commit.before_append commit.after_append commit.after_update
    update.before_write update.after_write
    fail.after_append
    clean.before_unlink clean.after_unlink
    finish.before_remove finish.after_remove finish.after_folders finish.after_append
    close.before_release
    driver.after_start driver.before_commit driver.after_commit
    worker.start worker.before_command worker.after_command worker.after_publish
    """.split()
)
MODES = ("kill", "exit", "raise", "delay")


class FailpointError(RuntimeError):
    """What mode ``raise`` raises."""


@dataclass
class _Armed:
    mode: str
    argument: str
    at: int
    hits: int = 0


_armed: dict[str, _Armed] | None = None


def failpoint(name: str) -> None:
    """A place where a test can interfere; costs one comparison when nothing is armed."""
    if _armed is not None:
        _reach(name)


def parse(text: str) -> dict[str, _Armed]:
    """The entries of ``text``.

    Raises:
        ValueError: an unknown name or mode, or a malformed entry.
    """
    entries = (entry.strip() for line in text.splitlines() for entry in line.split(";"))
    return dict(_parse_one(entry) for entry in entries if entry)


def _parse_one(entry: str) -> tuple[str, _Armed]:
    name, _, rest = entry.partition("=")
    rest, _, count = rest.partition("@")
    mode, _, argument = rest.partition(":")
    if name not in FAILPOINTS:
        close = ", ".join(difflib.get_close_matches(name, sorted(FAILPOINTS))) or ", ".join(sorted(FAILPOINTS))
        raise ValueError(f"Unknown failpoint '{name}'. There are: {close}.")
    if mode not in MODES or (count and not count.isdigit()) or count == "0":
        raise ValueError(
            f"'{entry}' is not a failpoint entry: name=mode[:argument][@n], mode one of {', '.join(MODES)}, n from 1."
        )
    if mode == "raise" and argument and not hasattr(errno, argument):
        raise ValueError(f"'{entry}': {argument} is not an errno.")
    if mode in ("delay", "exit") and (argument or mode == "delay"):
        float(argument)
    return name, _Armed(mode, argument, int(count or 1))


def arm(text: str) -> None:
    """Arm what ``text`` says in this process, in place of what was armed; an empty text disarms all."""
    global _armed
    _armed = parse(text) or None


@contextlib.contextmanager
def armed(text: str) -> Iterator[None]:
    """Arm what ``text`` says within the block."""
    global _armed
    before = _armed
    arm(text)
    try:
        yield
    finally:
        _armed = before


def _reach(name: str) -> None:
    entry = (_armed or {}).get(name)
    if entry is None or not _is_due(name, entry):
        return
    sys.stderr.write(f"failpoint {name}: {entry.mode} {entry.argument}\n")
    sys.stderr.flush()
    if entry.mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif entry.mode == "exit":
        os._exit(int(entry.argument or 1))
    elif entry.mode == "delay":
        time.sleep(float(entry.argument))
    elif entry.argument:
        code = getattr(errno, entry.argument)
        raise OSError(code, os.strerror(code), f"failpoint {name}")
    else:
        raise FailpointError(f"failpoint {name}")


def _is_due(name: str, entry: _Armed) -> bool:
    folder = os.environ.get(ONCE_VARIABLE)
    if folder is None:
        entry.hits += 1
        return entry.hits == entry.at
    return _ticket(Path(folder), name) == entry.at


def _ticket(folder: Path, name: str) -> int:
    """The 1-based number of this hit, over all processes: each wins one number by creating its file."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            os.close(os.open(folder / f"{name}.{number}", os.O_CREAT | os.O_EXCL))
            return number
        except FileExistsError:
            number += 1


def _arm_from_environment() -> None:
    text = os.environ.get(VARIABLE, "")
    file = os.environ.get(FILE_VARIABLE)
    if file and os.path.exists(file):
        text = f"{text}\n{Path(file).read_text()}"
    if text.strip():
        arm(text)


_arm_from_environment()
