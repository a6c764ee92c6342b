"""A small process beside the driver that ends what the driver's death leaves behind.

A driver that is killed with -9 cannot end its local Ray. Most of Ray's processes notice within seconds; its agents may not. The reaper looks up
the driver's descendants once a second. When the driver has ended, it waits a moment, kills those that are still running, and removes the
session folder. Descendants that started after the last look are recognized by the variable :data:`MARK` in their environment. What the driver
had started before Ray is left alone; so is, when the driver lives and ends Ray itself, everything without the mark.
The reaper is run as a script and uses the standard library alone:

    python reaper.py <pid of the driver> <folder to remove> [<pid>:<start time> of those that are not its own ...]
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

#: variable that holds the session folder, in the environment of all workers and so of what they start
MARK = "MML_RAY_SESSION"
#: names of the files by which a session folder tells its owner, now and in earlier versions
OWNER_FILES = ("owner.json", "machine")
#: seconds between two looks at the processes, and those that descendants get to end by themselves
LOOK, GRACE = 1.0, 2.0
Process = tuple[int, str]


class Reaper:
    """The driver's handle of the reaper process."""

    def __init__(self, folder: Path) -> None:
        others = [f"{pid}:{started}" for pid, started in descendants({os.getpid()}, process_table())]
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(folder), *others]
        self._process = subprocess.Popen(  # in a session of its own, so that Ctrl-C in the terminal does not reach it
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def close(self) -> None:
        """Call when the driver has ended Ray: kill what is left of it, and wait for that."""
        self._process.send_signal(signal.SIGUSR1)
        try:
            self._process.wait(timeout=4 * GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def process_table() -> dict[int, tuple[int, str]]:
    """Parent and start time by process id; without zombies."""
    found: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                found[int(name)] = (int(fields[1]), fields[19].decode())
    return found


def descendants(roots: set[int], processes: dict[int, tuple[int, str]]) -> set[Process]:
    """All descendants of ``roots``, which are not included."""
    found: set[Process] = set()
    below = set(roots)
    while True:
        more = {pid for pid, (parent, _) in processes.items() if parent in below and pid not in below}
        if not more:
            return found
        below |= more
        found |= {(pid, processes[pid][1]) for pid in more}


def alive(known: set[Process], processes: dict[int, tuple[int, str]]) -> set[Process]:
    """Those that still run; another process that was given the same number does not count."""
    return {(pid, started) for pid, started in known if processes.get(pid, (0, ""))[1] == started}


def is_marked(pid: int, folder: str) -> bool:
    """Whether the environment of a process holds the mark of this session. A process that set its own title may have overwritten it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={folder}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def watch(driver: int, folder: str, others: set[Process]) -> None:
    """Wait until the driver has ended or sends SIGUSR1, then clean up."""
    requests: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: requests.append(number))
    processes = process_table()
    identity = processes.get(driver, (0, ""))[1]
    known: set[Process] = set()
    own: set[Process] = set()
    others = others | {(os.getpid(), processes[os.getpid()][1])}
    while not requests and processes.get(driver, (0, ""))[1] == identity:
        known, own = alive(known, processes), alive(own, processes)
        new = descendants({driver, *(pid for pid, _ in known)}, processes) - others - known
        known |= new
        own |= {(pid, started) for pid, started in new if is_marked(pid, folder)}
        own |= descendants({pid for pid, _ in own}, processes)
        time.sleep(LOOK)
        processes = process_table()
    end(own if requests else known, folder)


def end(known: set[Process], folder: str) -> None:
    """Give the processes a moment, then kill them and what they started meanwhile; remove the folder."""
    deadline = time.monotonic() + GRACE
    while (left := alive(known, process_table())) and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(3):
        processes = process_table()
        left = alive(known, processes)
        left |= {(pid, started) for pid, (_, started) in processes.items() if is_marked(pid, folder)}
        left |= descendants({pid for pid, _ in left}, processes)
        known |= left
        for pid, _ in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    remove_folder(folder)


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove a session folder, the file that names its owner last: as long as anything is left, the next local run can repeat it."""
    folder = Path(folder)
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in OWNER_FILES:
                path.unlink(missing_ok=True)
        left = list(folder.iterdir())
        if all(path.name in OWNER_FILES for path in left):
            for path in left:
                path.unlink(missing_ok=True)
            folder.rmdir()
    except OSError:  # somebody else is removing it, or still writes into it
        return


if __name__ == "__main__":
    given = (item.partition(":") for item in sys.argv[3:])
    watch(int(sys.argv[1]), sys.argv[2], {(int(pid), started) for pid, _, started in given})
