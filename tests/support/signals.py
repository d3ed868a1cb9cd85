"""Signals in child processes."""

from __future__ import annotations

import signal


def default_signals() -> None:
    """For ``preexec_fn``: a test run in the background may have been started with these ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
