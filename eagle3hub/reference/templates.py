"""Render chat templates under limits of time and memory, in one process that is kept for all of them."""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.engines.process import Garbled, lines

SECONDS = 10.0
"""Seconds a template may take for one text."""
_START_SECONDS = 120.0
_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateFault(Exception):
    """Why a template gave no text, as a phrase."""


class _Renderer:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, request: Mapping[str, Any]) -> str:
        with self._lock:
            try:
                return self._ask(request)
            except BaseException as error:
                if not isinstance(error, TemplateFault):
                    self.end()
                raise

    def _ask(self, request: Mapping[str, Any]) -> str:
        process = self._started()
        answer = _exchange(process, request, SECONDS)
        if answer is None:
            self.end()
            raise TemplateFault(f"it takes more than {SECONDS:g} seconds, or ended the process that renders it")
        if "text" not in answer:
            raise TemplateFault(str(answer.get("error")))
        return str(answer["text"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = subprocess.Popen(
                [sys.executable, str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            first = {"template": "", "messages": [], "variables": {}}
            if _exchange(self._process, first, _START_SECONDS) != {"text": ""}:
                self.end()
                raise TemplateFault("the process that renders it cannot be started")
        return self._process

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _exchange(process: subprocess.Popen[bytes], request: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
    """One request and its answer; None where none comes in time, or the process ends."""
    assert process.stdin is not None and process.stdout is not None
    message = json.dumps(request).encode() + b"\n"
    try:
        process.stdin.write(message)
        process.stdin.flush()
        line = next(lines(process.stdout, time.monotonic() + seconds), None)
    except (OSError, TimeoutError, Garbled):
        return None
    found = None if line is None else json.loads(line)
    return found if isinstance(found, dict) else None


_renderer = _Renderer()
atexit.register(_renderer.end)


def render(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """The text of a conversation, up to where the assistant begins, as transformers renders it.

    Raises TemplateFault where the template fails, takes longer than `SECONDS`, or wants more memory than it may have.
    """
    return _renderer.render({"template": template, "messages": messages, "variables": dict(variables)})
