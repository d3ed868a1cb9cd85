"""Run a program and everything it starts for no longer than this process lives, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from eagle3hub.held import held

_LEASH = """
import os, signal, subprocess, sys, threading
def watch():
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
try:
    code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error.strerror}")
os._exit(code if code >= 0 else 128 - code)
"""
"""Between us and the program: it ends their process group once nobody holds the other end of its standard input."""


def run_leashed(command: Sequence[str], env: Mapping[str, str], on_line: Callable[[bytes], object]) -> int:
    """Run ``command``, hand on each line it writes to either stream, and return its exit status (128 + a signal's).

    Its whole process group is gone when this returns or raises, and, where this process is killed, at once.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with held():
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LEASH, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        assert process.stdout is not None
        for line in process.stdout:
            on_line(line)
        return process.wait()
    finally:
        if process is not None:
            with held():
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
