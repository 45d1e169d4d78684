"""A web server on this machine that misbehaves as told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Behaviour:
    """What the server does, and what it was asked.

    Attributes:
        cut: bytes after which each answer but the last is cut off; one answer for each number.
        statuses: codes to answer with first.
    """

    body: bytes = BODY
    etag: str | None = '"v1"'
    ranges: bool = True
    length: bool = True
    kind: str = "application/octet-stream"
    cut: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    wrong_range: bool = False
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextlib.contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """The address of a server with this behaviour, which may change meanwhile. /moved leads to /file."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.requests.append((self.path, dict(self.headers)))
            if behaviour.statuses:
                self.send_error(behaviour.statuses.pop(0))
                return
            if self.path.endswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/file")
                self.end_headers()
                return
            body, start = behaviour.body, 0
            wanted = self.headers.get("Range")
            if wanted and behaviour.ranges and self.headers.get("If-Range") == behaviour.etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                shown = start + 1 if behaviour.wrong_range else start
                self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            self.send_header("Content-Type", behaviour.kind)
            if behaviour.length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = start + behaviour.cut.pop(0) if behaviour.cut else len(body)
            with contextlib.suppress(OSError):
                self.wfile.write(body[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
