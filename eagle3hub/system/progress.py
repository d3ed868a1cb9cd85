"""Report progress from library code, which must not print."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A function that is called with what is being done and, if known, the fraction done (0 … 1)."""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Report progress. This must return at once and must not raise."""


def silent(message: str, fraction: float | None = None) -> None:
    """Report nothing; this is a `Progress`."""


_told: Progress = silent


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """While the block runs, pass messages of `tell` to ``progress``, from code that is given no `Progress`."""
    global _told
    outer, _told = _told, progress
    try:
        yield
    finally:
        _told = outer


def tell(message: str) -> None:
    """Say what the program waits for."""
    _told(message)


@contextmanager
def tell_after(seconds: float, message: str) -> Iterator[None]:
    """Send the message to `tell` if the block takes longer than ``seconds``."""
    timer = threading.Timer(seconds, tell, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
