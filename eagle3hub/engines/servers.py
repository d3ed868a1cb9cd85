"""Start an engine's server on this machine, wait until it answers, and end it with everything it started."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.base import RunSpec
from eagle3hub.engines.endpoints.http_client import HttpClient, HttpFault
from eagle3hub.engines.process import LEASH, LogFollower, bare_environment, end_group
from eagle3hub.errors import UnavailableError
from eagle3hub.system.progress import Progress
from eagle3hub.system.signals import held

_ASK_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_LONGEST_WORDS = 300
_LAST_BYTES = 256 << 10
_CAUSE = re.compile(r"\b\w*(?:Error|Exception): ")


@runtime_checkable
class Serves(Protocol):
    """An engine whose server we can start."""

    name: str
    version: str

    def server(self, spec: RunSpec, python: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command of a server of ``spec`` on this machine, and its environment variables."""


def options(arguments: Mapping[str, object], negated: Collection[str] = ()) -> list[str]:
    """Return arguments of an engine's constructor as options of its server's command.

    A switch that is off is left out, unless it is one of ``negated``, which are on by default. Objects are JSON.
    """
    words: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{option}"] if value else [f"--no-{option}"] if name in negated else []
        elif isinstance(value, (list, tuple)):
            words += [f"--{option}", *map(str, value)]
        elif value is not None:
            words += [f"--{option}", json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return words


class Server:
    """A server that we started; ``url`` is its address."""

    def __init__(self, title: str, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self._title = title
        self._process = process
        self.log = log

    def fault(self) -> str | None:
        """Return why the server is no longer there, in one sentence with its last words; None while it runs."""
        code = self._process.poll()
        return None if code is None else f"{self._title}'s server ended with exit status {code}: {self.last_words()}"

    def last_words(self) -> str:
        """Return the last line of its log that states an error's cause, with the next one, or else the last one."""
        text = self.log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [i for i, line in enumerate(lines) if _CAUSE.search(line) and "root cause" not in line]
        if not told:
            return lines[-1] if lines else "it said nothing"
        words = " ".join(lines[told[-1] : told[-1] + 2])
        return words if len(words) <= _LONGEST_WORDS else f"{words[: _LONGEST_WORDS - 1]}…"


@contextlib.contextmanager
def started(
    title: str, command: Sequence[str], env: Mapping[str, str], port: int, *, seconds: float, progress: Progress
) -> Iterator[Server]:
    """Run a server until the block ends; it answers at ``port`` of this machine when the block begins.

    It ends at once if this process is killed. Raises UnavailableError (``server-start``) if it ends, or does not
    answer within ``seconds``.
    """
    with scratch_folder() as scratch:
        log = scratch / "log"
        with log.open("wb") as out, held():
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", LEASH, *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env={**bare_environment(), **env},
                start_new_session=True,
            )
        server = Server(title, f"http://127.0.0.1:{port}", process, log)
        try:
            _wait(server, title, seconds, progress)
            yield server
        finally:
            with held():
                end_group(process)


def _wait(server: Server, title: str, seconds: float, progress: Progress) -> None:
    client, begun, log = HttpClient(server.url), time.monotonic(), LogFollower(server.log)
    progress(f"{title}'s server: starting")
    while True:
        fault = server.fault()
        if fault is not None:
            raise _not_started(fault)
        spent = time.monotonic() - begun
        if spent > seconds:
            raise _not_started(f"{title}'s server did not answer within {seconds:g} seconds: {server.last_words()}")
        log.look()
        with contextlib.suppress(HttpFault):
            client.text("/health", deadline=time.monotonic() + _ASK_SECONDS)
            return
        time.sleep(_PAUSE_SECONDS)


def _not_started(why: str) -> UnavailableError:
    return UnavailableError(
        why, hint="its log says more: start the engine by hand as eagle3hub recipe prints it", code="server-start"
    )


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
