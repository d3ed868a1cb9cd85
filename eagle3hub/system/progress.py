"""Report progress from library code, which must not print."""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from eagle3hub.system.text import readable_size, readable_time, visible


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


@dataclass(frozen=True, slots=True)
class Moment:
    """How far the work is.

    Attributes:
        message: what is being done. stage: its last part, without what it is part of.
        fraction: of the whole that is done, 0 to 1. seconds_left: at the pace of this stage.
        bytes, total_bytes, bytes_per_second: of a download.
    """

    message: str
    fraction: float | None = None
    seconds_left: float | None = None
    bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None

    @property
    def stage(self) -> str:
        """The last part of the message: ``generating`` of ``vLLM, with the head: generating``."""
        return self.message.rpartition(": ")[2]

    def facts(self) -> list[str]:
        """What there is to say beside the message, for people: percentage, bytes, rate, time left."""
        said = [] if self.fraction is None else [f"{self.fraction:.0%}"]
        if self.bytes is not None:
            of = "" if self.total_bytes is None else f" of {readable_size(self.total_bytes)}"
            said.append(f"{readable_size(self.bytes)}{of}")
        said += [f"{readable_size(round(self.bytes_per_second))}/s"] if self.bytes_per_second else []
        return said + ([f"{readable_time(self.seconds_left)} left"] if self.seconds_left is not None else [])


class Watch(ABC):
    """A `Display` that makes a `Moment` of each call; every way to show one builds on this."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = clock()
        self._pace, self._flow = Pace(), Pace()
        self._bytes: tuple[int, int | None] | None = None

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Make a `Moment` of what is said, and show it."""
        now, part = self.clock(), self._bytes
        self._bytes = None
        self._pace.saw(message, fraction, now)
        self._flow.saw(message, None if part is None else part[0], now)
        left = None if fraction is None else self._pace.seconds_left(1.0)
        done, whole = part or (None, None)
        self.show(Moment(message, fraction, left, done, whole, self._flow.rate))

    def of_bytes(self, done: int, whole: int | None) -> None:
        """Keep the bytes for the call that follows."""
        self._bytes = done, whole

    @abstractmethod
    def of_log(self, line: str) -> None:
        """Show a line of an engine's log, where that was asked for."""

    @abstractmethod
    def show(self, moment: Moment) -> None:
        """Show a moment."""


class ShownProgress(Watch):
    """A `Progress` for Python sessions: one line that changes, in a notebook's cell or on a terminal.

    Only who passes it as ``progress`` sees anything. It shows itself at most ten times a second.
    """

    def __init__(self, after: float = 0.5) -> None:
        super().__init__()
        self._next = self.began + after
        self._place: Any = None
        self._text = ""

    def show(self, moment: Moment) -> None:
        """Show what is being done, and how far it is if that is known."""
        self._text = f"{visible(moment.message)} {', '.join(moment.facts())}".rstrip()
        now = self.clock()
        ended = moment.fraction is not None and moment.fraction >= 1 and self._place is not None
        if now < self._next and not ended:
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

    def of_log(self, line: str) -> None:
        """Show nothing of an engine's log: there is one line."""

    def __repr__(self) -> str:
        return f"{self._text} ({self.clock() - self.began:.0f} s)"


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


_WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def starting_torch(progress: Progress, who: str = "") -> Iterator[None]:
    """Say that the block starts torch, which takes seconds to half a minute, unless it runs already.

    The threads of a torch that is started here sleep while they wait for each other. By default they spin, and where
    other programs want the processor too, they take it from the thread that they wait for: on two cores at a load of
    ten, a step of the demo's target took 4.8 s, and 0.5 s so. `OMP_WAIT_POLICY` is read while OpenMP's library is
    loaded (OpenMP 5.2, 21.7). Afterwards it is removed, so that no engine gets it; one that was set stays.
    """
    if "torch" in sys.modules:
        yield
        return
    progress(f"{who}starting torch")
    ours = not _WAITING.keys() & os.environ.keys()
    if ours:
        os.environ.update(_WAITING)
    try:
        yield
    finally:
        if ours:
            for name in _WAITING:
                os.environ.pop(name, None)


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
