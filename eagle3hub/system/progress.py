"""Report progress from library code, which must not print."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from eagle3hub.system.text import visible


class Progress(Protocol):
    """A function that is called with what is being done and, if known, the fraction done (0 … 1)."""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Report progress. This must return at once and must not raise."""


@runtime_checkable
class Display(Progress, Protocol):
    """A `Progress` that also shows how many bytes are done, and what an engine says."""

    def of_bytes(self, done: int, whole: int | None) -> None:
        """Say how much of the present download is done; this comes before the call that says the fraction."""

    def of_log(self, line: str) -> None:
        """Say what the engine that is being started or run has written."""


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
    """While the block runs, pass messages of `tell` to ``progress``, from code that is given no `Progress`.

    If it is a `Display`, it also gets bytes and lines of logs.
    """
    global _told
    outer, _told = _told, progress
    try:
        yield
    finally:
        _told = outer


def tell(message: str) -> None:
    """Say what the program waits for."""
    _told(message)


def tell_bytes(done: int, whole: int | None) -> None:
    """Say how many bytes of the present download are done, and how many there are, if known."""
    if isinstance(_told, Display):
        _told.of_bytes(done, whole)


def tell_log(line: str) -> None:
    """Pass on a line that an engine has written to its log."""
    if isinstance(_told, Display):
        _told.of_log(line)


def tell_torch(progress: Progress, who: str = "") -> None:
    """Say that torch is being started, which takes seconds to half a minute, unless it runs already."""
    if "torch" not in sys.modules:
        progress(f"{who}starting torch")


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


class Pace:
    """How fast something gets done, from what was done in the last half minute of one stage.

    Before there are three values over at least ``least`` seconds it says nothing: a first value is often a jump.
    """

    def __init__(self, window: float = 30.0, least: float = 2.0) -> None:
        self._window = window
        self._least = least
        self._stage = ""
        self._seen: deque[tuple[float, float]] = deque()

    def saw(self, stage: str, done: float | None, now: float | None = None) -> None:
        """Note how much is done, at a time (monotonic seconds). Another stage, or less than before, begins anew."""
        now = time.monotonic() if now is None else now
        if done is None or stage != self._stage or (self._seen and done < self._seen[-1][1]):
            self._seen.clear()
        self._stage = stage
        if done is None:
            return
        self._seen.append((now, done))
        while len(self._seen) > 3 and now - self._seen[0][0] > self._window:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """How much is done in a second; None where that is not known yet."""
        if len({done for _, done in self._seen}) < 3:
            return None
        (then, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - then) if now - then >= self._least else None

    def seconds_left(self, whole: float) -> float | None:
        """How long the rest will take at this pace; None where that is not known yet."""
        return None if not self.rate else max(0.0, (whole - self._seen[-1][1]) / self.rate)
