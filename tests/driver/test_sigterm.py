"""SIGTERM that all processes of a run get at once: who ends of it, and who does not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from mml_ray.driver import sigterm
from tests.integration.harness import wait_for
from tests.patience import GUARD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sender of a signal is told on Linux")


def _fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = 0 if work() else 71
        finally:
            os._exit(code)
    return pid


def _exit_code(pid: int) -> int:
    ended: list[int] = []

    def over() -> bool:
        number, status = os.waitpid(pid, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] if number else [])
        return bool(ended)

    try:
        wait_for(over, what="the end of the process", seconds=GUARD)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return ended[0]


def _blocked() -> bool:
    return signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_is_started_where_it_is_held_back_never_sees_it() -> None:
    def work() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return _blocked()

    with sigterm.held_back():
        pid = _fork(work)
    assert not _blocked()
    assert _exit_code(pid) == 0


def test_a_worker_lives_on_and_its_children_end_as_always() -> None:
    def work() -> bool:
        sigterm.let_pass()
        os.kill(os.getpid(), signal.SIGTERM)
        sleep = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1)
        assert sleep.stdout is not None and sleep.stdout.readline()
        sleep.terminate()
        for _ in range(20):  # also one that has only just been forked
            forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            forked.start()
            forked.terminate()
            forked.join()
            assert forked.exitcode == -signal.SIGTERM
        with multiprocessing.get_context("fork").Pool(2) as pool:  # its end is terminate()
            right = pool.map(abs, [-1, 2]) == [1, 2]
        return right and sleep.wait() == -signal.SIGTERM

    with sigterm.held_back():
        pid = _fork(work)
    assert _exit_code(pid) == 0


def test_where_it_was_not_held_back_a_worker_answers_it_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)  # other tests may have left theirs

    def work() -> bool:
        sigterm.let_pass()
        return signal.getsignal(signal.SIGTERM) is before

    assert _exit_code(_fork(work)) == 0


def test_a_process_obeys_its_parent_only() -> None:
    parent = os.getpid()
    ready, told = os.pipe()

    def work() -> bool:
        sigterm.obey_only(parent)
        os.write(told, b"x")
        time.sleep(GUARD)
        return True

    with sigterm.held_back():
        pid = _fork(work)
    assert os.read(ready, 1) == b"x"
    stranger = _fork(lambda: os.kill(pid, signal.SIGTERM) is None)
    assert _exit_code(stranger) == 0
    time.sleep(0.1)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert _exit_code(pid) == 0
    os.close(ready), os.close(told)
