"""Signals in child processes."""

from __future__ import annotations

import signal


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
