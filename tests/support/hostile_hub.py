"""A Hub on loopback whose exchanges can be taken over, and another host that no token may reach."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.hub_server import _Handler
from support.hub_writes import WritableHub

TOKEN = "hf_good"


def _job(h: _Handler, n: str) -> None:
    owner = {"id": "1", "name": "alice", "type": "user"}
    shown = {"id": f"j{n}", "createdAt": "2026-11-22T12:00:00.000Z", "dockerImage": "i", "command": ["true"]}
    h.send_json({**shown, "status": {"stage": "COMPLETED", "message": None}, "owner": owner, "flavor": "cpu-basic"})


def _start(h: _Handler) -> None:
    _job(h, "0")


def _logs(h: _Handler, n: str) -> None:
    events = [{"timestamp": "2026-11-22T12:00:00.000Z", "data": text} for text in ("one", "two")]
    h.send_bytes("".join(f"data: {json.dumps(e)}\n\n" for e in events).encode(), 200)


class Hub(WritableHub):
    """A Hub with jobs that are over, and a collection for each case."""


Hub.routes = [
    ("GET", r"/api/jobs/alice/j(?P<n>\d+)", _job),
    ("GET", r"/api/jobs/alice/j(?P<n>\d+)/logs", _logs),
    ("POST", r"/api/jobs/alice/j(?P<n>\d+)/cancel", _job),
    ("POST", r"/api/jobs/alice", _start),
    *WritableHub.routes,
]


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """Another host, which writes down every request with its headers and body, and answers {}."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            heard.append(f"{self.command} {self.path}\n{self.headers}\n{body[:100_000].decode('latin-1')}")
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}" if self.command != "HEAD" else b"")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
