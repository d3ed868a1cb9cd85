"""Run an engine's worker: one request in, JSON lines out, a time limit, and no process left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

_LINE_LIMIT = 16 * 1024 * 1024
_READ_BYTES = 1 << 20
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_GRACE_SECONDS = 5.0
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a worker ended.

    Attributes:
        status: ``done`` (it said so), ``error`` (it said why), ``timeout``, ``crashed`` (ended without a word),
            ``garbled`` (spoke something other than the protocol), ``absent`` (could not be started).
        detail: for ``error`` the event it sent; else what happened, as a phrase.
        log_tail: last lines of what it wrote to standard error and standard output.
    """

    status: Literal["done", "error", "timeout", "crashed", "garbled", "absent"]
    detail: Event
    log_tail: tuple[str, ...]


class Garbled(Exception):
    """Something else than the protocol came; the message says what."""


def run_worker(
    command: Sequence[str],
    request: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    timeout: float,
    on_event: Callable[[Event], None],
) -> Outcome:
    """Start ``command`` in a session of its own, send it ``request``, and hand each event it reports to ``on_event``.

    The worker reads one JSON line from standard input and writes JSON lines to standard output; the last is
    ``{"event": "done"}`` or ``{"event": "error", …}``. Standard input stays open as long as this process lives, so a
    worker that watches it ends even if this process is killed. Whatever happens here, including SIGINT, SIGTERM and
    exceptions of ``on_event``, the worker's whole process group is gone when this returns or raises.
    """
    with tempfile.TemporaryDirectory(prefix="eagle3hub-") as scratch, (Path(scratch) / "log").open("w+b") as log:
        environment = {**env, "TMPDIR": scratch}
        with _terminable():
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=scratch,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                return Outcome("absent", {"message": f"{command[0]} cannot be run: {error.strerror or error}"}, ())
            finished = False
            try:
                status, detail = _converse(process, request, time.monotonic() + timeout, on_event)
                finished = status in ("done", "error")
            finally:
                _end(process, grace=0.0 if finished else _GRACE_SECONDS)
        if status == "crashed":
            detail = {"message": _exit_phrase(process.returncode)}
        elif status == "timeout":
            detail = {"message": f"it did not finish within {timeout:g} seconds"}
        return Outcome(status, detail, _tail(log))


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], deadline: float, on_event: Callable[[Event], None]
) -> tuple[Literal["done", "error", "timeout", "crashed", "garbled"], Event]:
    assert process.stdin is not None and process.stdout is not None
    message = json.dumps(request).encode() + b"\n"
    writer = threading.Thread(target=_send, args=(process.stdin, message), daemon=True)
    writer.start()
    try:
        for line in lines(process.stdout, deadline):
            event = _parse(line)
            if event["event"] in ("done", "error"):
                return event["event"], event
            on_event(event)
    except TimeoutError:
        return "timeout", {}
    except Garbled as garbled:
        return "garbled", {"message": str(garbled)}
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=max(0.0, min(_GRACE_SECONDS, deadline - time.monotonic())))
    return "crashed", {}


def _send(stdin: IO[bytes], message: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        stdin.write(message)
        stdin.flush()


def lines(stream: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Lines of a pipe until it closes; TimeoutError once ``deadline`` (monotonic) has passed.

    What has come of a line is kept in pieces, so that a long one costs as much as its bytes and no more.
    """
    pieces: list[bytes] = []
    length = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            chunk = os.read(stream.fileno(), _READ_BYTES)
            if not chunk:
                return
            first, *lines = chunk.split(b"\n")
            pieces.append(first)
            length += len(first)
            if length > _LINE_LIMIT:
                raise Garbled(f"it wrote a line of more than {_LINE_LIMIT >> 20} MiB, longer than any report is")
            if lines:
                yield b"".join(pieces)
                *lines, rest = lines
                yield from lines
                pieces, length = [rest], len(rest)


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        shown = line[:80].decode("utf-8", "replace")
        raise Garbled(f"it wrote {shown!r} where a report was expected")
    return event


def _end(process: subprocess.Popen[bytes], *, grace: float) -> None:
    """End the process group: ask, wait ``grace`` seconds, then kill. The leader is reaped last."""
    if grace and process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception while a worker runs, so that it is ended on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            previous[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_phrase(code: int) -> str:
    if code >= 0:
        return f"it ended with exit status {code} and no report"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{more}"


def _tail(log: IO[bytes]) -> tuple[str, ...]:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _TAIL_BYTES))
    text = _ANSI.sub("", log.read().decode("utf-8", "replace").replace("\r", "\n"))
    return tuple(line.rstrip() for line in text.split("\n") if line.strip())[-_TAIL_LINES:]
