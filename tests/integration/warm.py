"""A server that has imported what every run imports and forks for each call: as fresh as a new interpreter, without seconds of imports.

The server is run as a script (``python warm.py <socket>``); it ends when its standard input is closed. :class:`Call` is the handle of
one call, with the methods of ``subprocess.Popen`` that tests use.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

#: other people's packages only, and none that reads the environment of a call when it is imported, as Ray does
PACKAGES = (
    "albumentations", "cv2", "hydra", "kornia", "lightning", "monai.networks.nets", "omegaconf", "optuna", "orjson", "pandas", "psutil",
    "pyarrow.parquet", "pydantic", "rich.live", "rich.table", "safetensors.torch", "sklearn.metrics", "torch", "torchmetrics",
)  # fmt: skip


# -- the server --------------------------------------------------------------------------------------------------------
def serve(address: str) -> None:
    """Fork for each request until standard input is closed."""
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    watched = selectors.DefaultSelector()
    watched.register(listener, selectors.EVENT_READ)
    watched.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in watched.select():
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is listener:
                connection, _ = listener.accept()
                content, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
                pid = os.fork()
                if not pid:
                    _become(json.loads(content), *descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.send(str(pid).encode())
                watched.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            else:
                pid, connection = key.data
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(OSError):
                    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
                watched.unregister(key.fileobj)
                os.close(key.fd)
                connection.close()


def _become(request: Mapping[str, Any], output: int) -> None:
    """In the child: ``python -m mml_ray`` as it would have been started."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 1024)
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            signal.signal(number, handler)
        sys.stdin, sys.stdout, sys.stderr = open(0), _unbuffered(1), _unbuffered(2)  # noqa: SIM115
        sys.__dict__.update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        sys.path[:1] = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        importlib.invalidate_caches()
        sys.argv = ["mml-ray", *request["arguments"]]
        runpy.run_module("mml_ray", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _end(code)


def _end(code: int) -> None:
    """What an interpreter does at its end, as far as runs can see it."""
    import atexit
    import threading

    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(code)


def _unbuffered(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(open(descriptor, "wb", 0, closefd=False), encoding="utf-8", write_through=True)


# -- the tests' side ---------------------------------------------------------------------------------------------------
class Server:
    """Started with the first call, ends with this process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self.address = str(Path(self._folder.name) / "socket")
        self._process = subprocess.Popen([sys.executable, __file__, self.address], stdin=subprocess.PIPE)
        while not os.path.exists(self.address):
            assert self._process.poll() is None, "the server of warm processes did not start"
            time.sleep(0.05)


_servers: list[Server] = []


class Call:
    """One ``mml-ray <arguments>`` in a process and session of its own; its output in a pipe, or a file."""

    def __init__(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], into: IO[str] | int = subprocess.PIPE
    ) -> None:
        if not _servers:
            _servers.append(Server())
        self.args = ["mml-ray", *arguments]
        self._code: int | None = None
        self.stdout: IO[str] | None = None
        output = into if isinstance(into, int) else into.fileno()
        if into == subprocess.PIPE:
            read, output = os.pipe()
            self.stdout = open(read, encoding="utf-8", errors="replace")  # noqa: SIM115
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_servers[0].address)
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}
        socket.send_fds(self._connection, [json.dumps(request).encode()], [output])
        self.pid = int(self._connection.recv(64))
        if into == subprocess.PIPE:
            os.close(output)

    @property
    def returncode(self) -> int:
        """The exit code of a call that was waited for; negative: the signal that ended it."""
        assert self._code is not None, "it still runs"
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as there is one."""
        if self._code is None:
            ready, _, _ = select.select([self._connection], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._code = int(self._connection.recv(64) or b"-9")
            self._connection.close()
        return self._code

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All its output, when it has ended and nobody holds the pipe any more."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        parts: list[bytes] = []
        if self.stdout is not None:
            descriptor = self.stdout.fileno()
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not select.select([descriptor], [], [], left)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0, b"".join(parts))
                part = os.read(descriptor, 1 << 16)
                if not part:
                    break
                parts.append(part)
            self.stdout.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return b"".join(parts).decode(errors="replace"), None

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to this process alone."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to this process alone."""
        self.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    serve(sys.argv[1])
