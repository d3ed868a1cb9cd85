"""Signals in child processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def default_signals() -> None:
    """For ``preexec_fn``: a test run in the background may have been started with these ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def killed_at_a_call(of_os: tuple[str, ...], body: str) -> str:
    """A script that kills itself at the n-th call of these functions of os; n is its first argument, then ``body``."""
    return f"""
import os, shutil, signal, sys  # shutil before os is changed: it looks then at what os can do
calls = 0
def fatal(real):
    def wrapped(*a, **k):
        global calls
        calls += 1
        if calls == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*a, **k)
    return staticmethod(wrapped)  # Python 3.10's pathlib keeps it in a class
for name in {of_os}:
    setattr(os, name, fatal(getattr(os, name)))
{body}"""


_FORKING = """
import contextlib, json, os, sys
with contextlib.redirect_stdout(sys.stderr):
    {first}
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["-c", *json.loads(line)]
        exec({script!r}, {{"__name__": "__main__"}})
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def forking(script: str, first: str) -> Iterator[Callable[..., int]]:
    """Run a script many times, each in a fork of one process that has run ``first``, so that what it loads is there.

    ``first`` is one line. Yields a function that takes the script's arguments and returns its exit status, or minus
    the signal that ended it.
    """
    command = [sys.executable, "-c", _FORKING.format(first=first, script=script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(*argv: object) -> int:
            process.stdin.write(json.dumps([str(word) for word in argv]) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run
        process.stdin.close()
