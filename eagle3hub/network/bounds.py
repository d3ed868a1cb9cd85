"""Limits on what a server may cost: time, bytes and redirects."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

# How long, and how much: the limits of one question to a server, however many requests it takes to answer it.
#
# A timeout of a socket bounds one read: a server that sends a byte a second is never late by it. So an `Operation`
# holds its own clock, which every read and write asks, and its own account of bytes.


TIMEOUT = "EAGLE3HUB_HUB_TIMEOUT"
"""Environment variable: seconds that a question to the Hub may take, or that a transfer may stand still."""
DEFAULT_SECONDS = 60.0
SMALL_ANSWER = 8 << 20
"""Bytes that all answers to one question may have together, transfers of files apart."""
CONTAINERS = 200_000
"""Objects and lists in one JSON answer: an empty one takes two bytes on the wire and a hundred in memory."""
HEADERS = 1 << 20
LINE = 1 << 20
"""Bytes of a line of a log."""
QUOTA = 64 << 10
"""Bytes a transfer must move in its number of seconds, or it stands still."""
TIMES = 4
"""A file may be sent so many times over, where it is begun anew after the connection broke."""
BREAKS = 1000
"""So many times may the connection break while a file comes."""
FAILURES = 4
"""So many requests in a row may fail before an operation is given up, whoever tries them again."""

ExceededKind = Literal["time", "size", "name", "redirect", "busy", "network", "strange"]


class Exceeded(Exception):
    """A server went beyond its limits: ``kind`` says which, ``says`` how, ``status`` is its HTTP status or None."""

    def __init__(self, kind: ExceededKind, says: str, status: int | None = None) -> None:
        super().__init__(says)
        self.kind = kind
        self.says = says
        self.status = status


def seconds() -> float:
    """The seconds that `TIMEOUT` names, or the default where it names no number above 0."""
    try:
        named = float(os.environ.get(TIMEOUT, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return named if 0 < named < 1e6 else DEFAULT_SECONDS


@dataclass
class Operation:
    """One question to a server with everything that belongs to it: redirects, pages, tries, and waits between them.

    Attributes:
        seconds: how long it may take; with ``transfer``, how long it may stand still.
        transfer: it moves files: bytes of a file's body, sent or received, give it more time.
        body: with ``transfer``, the most bytes of one file's body; None: whatever its server says it has.
        small: the most bytes of all other answers together.
        follow: its answer is a log that goes on for as long as lines of it come; what only keeps the connection up
            is no line.
        slow: requests whose paths hold this may take five times as long.
        failures: requests in a row that failed. answered: whether the headers of any answer have come.
    """

    seconds: float = field(default_factory=seconds)
    transfer: bool = False
    body: int | None = None
    small: int = SMALL_ANSWER
    follow: bool = False
    slow: str | None = None
    failures: int = 0
    answered: bool = False
    _mark: float = field(default_factory=time.monotonic)
    _moved: int = 0
    _taken: int = 0
    _all: int = 0
    _breaks: int = 0

    def left(self, patience: float = 1.0) -> float:
        """Seconds that remain. Raises Exceeded where none do."""
        left = self._mark + self.seconds * patience - time.monotonic()
        if left <= 0:
            what = "moved next to nothing" if self.transfer else "did not answer"
            raise Exceeded("time", f"it {what} for {self.seconds * patience:g} seconds")
        return left

    def moved(self, count: int) -> None:
        """Count bytes of a file's body. Raises Exceeded where it is sent again and again."""
        self._moved += count
        self._all += count
        if self.body is not None and self._all > TIMES * self.body + HEADERS:
            raise Exceeded("size", f"it sends more than {TIMES} times the bytes of the file")
        if self.transfer and self._moved >= QUOTA:
            self._restart()

    def took(self, count: int) -> None:
        """Count bytes of another answer. Raises Exceeded where they are too many."""
        self._taken += count
        if self._taken > self.small:
            raise Exceeded("size", f"it answers more than {_bytes(self.small)}")

    def lives(self) -> None:
        """Count a line of a log that is followed."""
        self._restart()

    def failed(self, says: str, status: int | None = None) -> None:
        """Count a request that failed. Raises Exceeded where there were too many in a row."""
        self.failures += 1
        if self.failures >= FAILURES:
            raise Exceeded("network", says, status)

    def broke(self, says: str) -> None:
        """Count a body that ended early, after some of it had come. Raises Exceeded where that never ends."""
        self._breaks += 1
        if self._breaks >= BREAKS:
            raise Exceeded("network", f"{says}, {BREAKS} times")

    def succeeded(self) -> None:
        """Count a request that was answered in full."""
        self.failures = 0
        if self.transfer:
            self._restart()

    def _restart(self) -> None:
        self._mark, self._moved = time.monotonic(), 0


def check_size(count: int, most: int) -> None:
    """Raise Exceeded where a body has more bytes than it may."""
    if count > most:
        raise Exceeded("size", f"it sends more than the {_bytes(most)} that the file may have")


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


_own = threading.local()
_active: list[Operation] = []
_lock = threading.Lock()


@contextmanager
def operation(limits: Operation) -> Iterator[Operation]:
    """Hold every request inside the block, also those of threads that a library starts for it, to these limits."""
    outer = getattr(_own, "operation", None)
    _own.operation = limits
    with _lock:
        _active.append(limits)
    try:
        yield limits
    finally:
        _own.operation = outer
        with _lock:
            _active.remove(limits)


def current() -> Operation | None:
    """The operation this thread is in; for a thread that began none, the only one there is, or None."""
    own: Operation | None = getattr(_own, "operation", None)
    if own is not None:
        return own
    with _lock:
        return _active[0] if len(_active) == 1 else None


# A time limit for code that keeps none of its own: libraries whose clients nothing of ours is wrapped around.


_AGAIN_SECONDS = 1.0


class Alarm:
    """``rang`` says whether the time was over."""

    rang = False


@contextmanager
def within(seconds: float) -> Iterator[Alarm]:
    """Raise TimeoutError inside the block once so many seconds are over, and every second after that.

    What is waiting for the network or the clock is woken by it. Signals reach the main thread only: elsewhere, or
    where a program has set an alarm of its own, the block is not limited.
    """
    alarm = Alarm()
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield alarm
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        alarm.rang = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
        try:
            yield alarm
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
