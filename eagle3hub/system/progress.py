"""How library code says what it is doing, without printing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Called with what is being done and, where it is known, the fraction done (0 … 1)."""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Report progress; must return at once and must not raise."""


def silent(message: str, fraction: float | None = None) -> None:
    """A `Progress` that says nothing."""


_told: Progress = silent


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Let `tell` reach ``progress`` while the block runs, from places that are handed none."""
    global _told
    outer, _told = _told, progress
    try:
        yield
    finally:
        _told = outer


def tell(message: str) -> None:
    """Say what is being waited for."""
    _told(message)


@contextmanager
def tell_after(seconds: float, message: str) -> Iterator[None]:
    """Say so, once the block has taken that long."""
    timer = threading.Timer(seconds, tell, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
