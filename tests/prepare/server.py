"""A small web server that can be told to misbehave."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Behaviour:
    """What is served, and what goes wrong."""

    content: bytes = b""
    etag: str = '"v1"'
    ranges: bool = True
    #: statuses of the first answers, before things work
    failures: list[int] = field(default_factory=list)
    #: bytes after which the connection is dropped, for the first answers
    drops: list[int] = field(default_factory=list)
    #: (path, Range header, Authorization header) of every request
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(content: bytes) -> Iterator[Behaviour]:
    """Serve ``content`` at every path of ``behaviour.url``."""
    behaviour = Behaviour(content)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.requests.append((self.path, asked, self.headers.get("Authorization")))
            if behaviour.failures:
                self.send_response(behaviour.failures.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = self._start(asked)
            if start is not None and start >= len(behaviour.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(behaviour.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send(start)

        def _start(self, asked: str | None) -> int | None:
            same = self.headers.get("If-Range") in (None, behaviour.etag)
            found = re.fullmatch(r"bytes=(\d+)-", asked or "")
            return int(found[1]) if found and behaviour.ranges and same else None

        def _send(self, start: int | None) -> None:
            body = behaviour.content[start or 0 :]
            self.send_response(200 if start is None else 206)
            self.send_header("Content-Length", str(len(body)))
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            self.end_headers()
            self.wfile.write(body[: behaviour.drops.pop(0)] if behaviour.drops else body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    behaviour.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
