"""Who owns a journal, and whether that process is still alive; never by comparing the wall clocks of two machines."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mml_ray import atomic

#: seconds between two beats of an owner
HEARTBEAT_INTERVAL = 3.0
#: seconds without a beat after which an owner on another machine counts as dead
HEARTBEAT_TIMEOUT = 30.0
_WIDTH = 240
log = logging.getLogger(__name__)


@cache
def _machine_id() -> str:
    """Where a process number is unique: one boot of one machine, and one process namespace of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def current_owner() -> dict[str, Any]:
    """This process, as a lease names it: host, machine, pid, and when the process started."""
    return {"host": socket.gethostname(), "machine": _machine_id(), "pid": os.getpid(), "start_time": process_start(os.getpid())}


def process_start(pid: int) -> str | None:
    """When the process with this number started; ``None`` if it does not exist (a zombie does not count)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else f"ticks:{int(fields[19])}"
    except (FileNotFoundError, ProcessLookupError):
        return None


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends. A worker or an actor whose raylet was killed must not live on, since Ray
    starts another one elsewhere.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def same_process(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both name the same process."""
    return all(one.get(name) == other.get(name) for name in ("host", "machine", "pid", "start_time"))


def describe(owner: Mapping[str, Any]) -> str:
    """Process and host, and since when it holds the lease, for messages."""
    since = f", since {owner['since']}" if owner.get("since") else ""
    return f"process {owner.get('pid')} on {owner.get('host')}{since}"


def living(
    owners: Mapping[Path, Mapping[str, Any]],
    *,
    timeout: float = HEARTBEAT_TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> set[Path]:
    """The heartbeat files of those owners that are alive, of ``{heartbeat file: owner}``. On this machine: a process with the number
    and start time exists (it may be stopped). On another machine: the heartbeat changes within ``timeout`` seconds of this
    machine's monotonic clock; the answer may take that long.
    """
    here = current_owner()
    alive: set[Path] = set()
    elsewhere: dict[Path, str | None] = {}
    for file, owner in owners.items():
        if (owner.get("host"), owner.get("machine")) != (here["host"], here["machine"]):
            elsewhere[file] = read_heartbeat(file, owner)
        elif owner.get("start_time") is not None and process_start(int(owner["pid"])) == owner["start_time"]:
            alive.add(file)
    deadline = clock() + timeout
    while not elsewhere.keys() <= alive and clock() < deadline:
        sleep(min(0.5, timeout / 20))
        for file, first in elsewhere.items():
            if read_heartbeat(file, owners[file]) not in (None, first):
                alive.add(file)
    return alive


def _signature(owner: Mapping[str, Any]) -> str:
    return f"{owner.get('host')} {owner.get('machine')} {owner.get('pid')} {owner.get('start_time')}"


def read_heartbeat(file: Path, owner: Mapping[str, Any]) -> str | None:
    """The last beat of this owner; ``None`` if there is none, or another owner wrote the last one."""
    try:
        text = atomic.read_bytes(file).decode(errors="replace")
    except OSError:
        return None
    signature, _, count = text.rstrip().rpartition(" ")
    return count if signature == _signature(owner) else None


class Heartbeat:
    """Beats from a daemon thread of the owner's process, until it is closed or another process holds the lease."""

    def __init__(
        self, file: Path, owner: Mapping[str, Any], *, still_mine: Callable[[], bool], interval: float = HEARTBEAT_INTERVAL
    ) -> None:
        self._file, self._signature, self._still_mine = file, _signature(owner), still_mine
        self._interval, self._count = interval, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mml-ray-heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first beat, and start the thread."""
        self._beat()
        self._thread.start()

    def close(self) -> None:
        """Stop; no beat is written after this returns."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                if not self._still_mine():
                    return
                self._beat()
            except OSError as error:
                log.warning("The heartbeat could not be written to %s: %s", self._file, error)

    def _beat(self) -> None:
        """Write in place and with a fixed width: a reader on a network file system sees it at its next open, and never half of it."""
        self._count += 1
        line = f"{self._signature} {time.time_ns()}-{self._count:012d}".ljust(_WIDTH) + "\n"
        with atomic.opened(self._file, os.O_WRONLY | os.O_CREAT) as descriptor:
            atomic.write_all(descriptor, line.encode())
