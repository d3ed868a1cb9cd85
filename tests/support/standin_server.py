"""A small local server that answers as vLLM's or SGLang's does, and can misbehave as no real one does on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.versions import VLLM


@dataclass
class StandIn:
    """What it serves, and what happened: every request with its headers and body.

    Attributes:
        foreign: requests of somebody else that finish during each of ours. active: those under way, per engine.
        late: seconds until the metrics count a request. slow: seconds an answer takes, with this ``status``.
        answer: fields of the choice to change. moved: where every request is redirected to.
        own: what vLLM's answers say of their own request (``metrics.speculative_decoding``), if anything.
    """

    target: str = "org/target"
    speculative: bool = True
    metrics: bool = True
    key: str | None = None
    info: dict[str, Any] | None = None
    foreign: int = 0
    active: int = 0
    late: float = 0.0
    slow: float = 0.0
    status: int = 200
    answer: dict[str, Any] = field(default_factory=dict)
    moved: str | None = None
    own: Any = None
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    counted: list[tuple[float, int]] = field(default_factory=list)

    def prometheus(self) -> str:
        """vLLM's metrics as it writes them, two engines behind one address."""
        done = [requests for when, requests in self.counted if when <= time.monotonic()]
        lines = ["# HELP vllm:generation_tokens_total Number of generation tokens.", 'python_info{version="3"} 1.0']
        for engine in (0, 1):
            label = f'engine="{engine}",model_name="{self.target}"'
            n = sum(done) if engine == 0 else 0
            lines.append(f"vllm:num_requests_running{{{label}}} {float(self.active)}")
            lines.append(f"vllm:generation_tokens_total{{{label}}} {4.0 * n}")
            lines.append(f'vllm:request_success_total{{{label},finished_reason="stop"}} {float(n)}')
            if self.speculative:
                lines.append(f"vllm:spec_decode_num_drafts_total{{{label}}} {2.0 * n}")
                lines.append(f"vllm:spec_decode_num_drafts_created{{{label}}} 1.7953783627565e+09")
                lines.append(f"vllm:spec_decode_num_draft_tokens_total{{{label}}} {6.0 * n}")
                lines.append(f"vllm:spec_decode_num_accepted_tokens_total{{{label}}} {1.0 * n}")
                for position, accepted in enumerate((n, 0, 0)):
                    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
                    lines.append(f'{name}{{{label},position="{position}"}} {float(accepted)}')
        return "\n".join(lines) if self.metrics else 'python_info{version="3"} 1.0\n'

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and body, text for metrics."""
        if path == "/v1/models":
            return 200, {"data": [{"id": "adapter", "parent": "x"}, {"id": "served", "root": self.target}]}
        if path == "/version":
            return 200, {"version": VLLM}
        if path == "/metrics":
            return 200, self.prometheus()
        if path.startswith("/server_info") and self.info is not None:
            return 200, self.info
        if path == "/v1/chat/completions":
            return self._chat()
        return 404, {"detail": "Not Found"}

    def _chat(self) -> tuple[int, Any]:
        time.sleep(self.slow)
        if self.status != 200:
            return self.status, {"error": {"message": "the prompt is longer\nthan the context"}}
        self.counted.append((time.monotonic() + self.late, 1 + self.foreign))
        meta = {"spec_verify_ct": 2, "spec_num_correct_drafts": 1, "spec_correct_drafts_histogram": [1, 1]}
        choice = {"token_ids": [5, 6, 7, 8], "response_token_ids": [5, 6, 7, 8], "prompt_token_ids": [1, 2]}
        choice |= {"meta_info": meta, **self.answer}
        found: dict[str, Any] = {"choices": [choice], "prompt_token_ids": [1, 2]}
        return 200, found if self.own is None else {**found, "metrics": {"speculative_decoding": self.own}}


@contextlib.contextmanager
def standing_in(server: StandIn) -> Iterator[str]:
    """Serve on a port of this machine; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            server.seen.append((self.path, dict(self.headers), body))
            if server.moved is not None:
                self.send_response(307)
                self.send_header("Location", server.moved + self.path)
                self.end_headers()
                return
            status, found = server.reply(self.path, body)
            if server.key is not None and self.headers["Authorization"] != f"Bearer {server.key}":
                status, found = 401, {"error": "Unauthorized"}
            raw = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
