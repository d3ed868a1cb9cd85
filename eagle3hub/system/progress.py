"""Report progress from library code, which must not print."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

from eagle3hub.system.text import visible


class Progress(Protocol):
    """A function that is called with what is being done and, if known, the fraction done (0 … 1)."""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Report progress. This must return at once and must not raise."""


def silent(message: str, fraction: float | None = None) -> None:
    """Report nothing; this is a `Progress`."""


class ShownProgress:
    """A `Progress` for Python sessions: one line that changes, in a notebook's cell or on a terminal.

    Only who passes it as ``progress`` sees anything. It shows itself at most ten times a second.
    """

    def __init__(self, after: float = 0.5) -> None:
        self._begun = time.monotonic()
        self._next = self._begun + after
        self._place: Any = None
        self._text = ""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Show a message, and the fraction done if it is known."""
        self._text = visible(message) + ("" if fraction is None else f" {fraction:.0%}")
        now = time.monotonic()
        if now < self._next and not (fraction is not None and fraction >= 1 and self._place is not None):
            return
        self._next = now + 0.1
        notebook = sys.modules.get("IPython")
        shell = None if notebook is None else notebook.get_ipython()
        if shell is None or not hasattr(shell, "kernel"):
            self._place = sys.stderr
            sys.stderr.write(f"\r\x1b[K{self._text}" if sys.stderr.isatty() else f"{self._text}\n")
            sys.stderr.flush()
        elif self._place is None:
            self._place = import_module("IPython.display").display(self, display_id=True)
        else:
            self._place.update(self)

    def __repr__(self) -> str:
        return f"{self._text} ({time.monotonic() - self._begun:.0f} s)"


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
