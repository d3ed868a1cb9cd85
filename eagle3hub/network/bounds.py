"""Limit what a server may cost: time, bytes and redirects."""

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

# Limits of time and bytes for one question to a server, however many requests it takes
#
# The timeout of a socket limits only one read: a server that sends one byte per second is never too late for it. So an
# `Operation` has its own clock, which every read and write checks, and its own count of bytes.


TIMEOUT = "EAGLE3HUB_HUB_TIMEOUT"
"""Environment variable: how many seconds a question to the Hub may take, or a transfer may stand still."""
DEFAULT_SECONDS = 60.0
SMALL_ANSWER = 8 << 20
"""The most bytes of all answers to one question together, without transfers of files."""
CONTAINERS = 200_000
"""The most objects and lists in one JSON answer. An empty one takes 2 bytes on the wire and 100 in memory."""
HEADERS = 1 << 20
LINE = 1 << 20
"""The most bytes in a line of a log."""
QUOTA = 64 << 10
"""The bytes that a transfer must move within its number of seconds, or else it stands still."""
TIMES = 4
"""The most times that a file may be sent, if the transfer starts again after the connection broke."""
BREAKS = 1000
"""The most times that the connection may break while a file arrives."""
FAILURES = 4
"""The most requests in a row that may fail before an operation is given up, whoever tries them again."""

ExceededKind = Literal["time", "size", "name", "redirect", "busy", "network", "strange"]


class Exceeded(Exception):
    """A server exceeded its limits.

    Attributes:
        kind: which limit.
        says: what the server did, as a clause that starts with ``it`` or ``its``.
        status: the HTTP status, or None.
    """

    def __init__(self, kind: ExceededKind, says: str, status: int | None = None) -> None:
        super().__init__(says)
        self.kind = kind
        self.says = says
        self.status = status


def seconds() -> float:
    """Return the seconds in the environment variable `TIMEOUT`, or the default if it is no number above 0."""
    try:
        named = float(os.environ.get(TIMEOUT, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return named if 0 < named < 1e6 else DEFAULT_SECONDS


@dataclass
class Operation:
    """The limits of one question to a server, with all its redirects, pages, retries and waits.

    Attributes:
        seconds: how long it may take; with ``transfer``, how long it may stand still.
        transfer: whether it moves files. The bytes of a file, sent or received, give it more time.
        body: with ``transfer``, the most bytes of one file; None for what the server states.
        small: the most bytes of all other answers together.
        follow: whether its answer is a log that goes on as long as lines arrive. What only keeps the connection
            open is not a line.
        slow: requests with this text in their path may take five times as long.
        failures: how many requests in a row have failed.
        answered: whether the headers of any answer have arrived.
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
        """Return the seconds that remain. Raises Exceeded if none do."""
        left = self._mark + self.seconds * patience - time.monotonic()
        if left <= 0:
            what = "moved next to nothing" if self.transfer else "did not answer"
            raise Exceeded("time", f"it {what} for {self.seconds * patience:g} seconds")
        return left

    def moved(self, count: int) -> None:
        """Count bytes of a file. Raises Exceeded if the file is sent again and again."""
        self._moved += count
        self._all += count
        if self.body is not None and self._all > TIMES * self.body + HEADERS:
            raise Exceeded("size", f"it sends more than {TIMES} times the bytes of the file")
        if self.transfer and self._moved >= QUOTA:
            self._restart()

    def took(self, count: int) -> None:
        """Count bytes of another answer. Raises Exceeded if they are too many."""
        self._taken += count
        if self._taken > self.small:
            raise Exceeded("size", f"it answers more than {_bytes(self.small)}")

    def lives(self) -> None:
        """Count a line of a followed log."""
        self._restart()

    def failed(self, says: str, status: int | None = None) -> None:
        """Count a failed request. Raises Exceeded if too many failed in a row."""
        self.failures += 1
        if self.failures >= FAILURES:
            raise Exceeded("network", says, status)

    def broke(self, says: str) -> None:
        """Count a file whose transfer broke after some bytes. Raises Exceeded if that happens too often."""
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
    """Raise Exceeded if a file has more bytes than it may have."""
    if count > most:
        raise Exceeded("size", f"it sends more than the {_bytes(most)} that the file may have")


def _bytes(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


_own = threading.local()
_active: list[Operation] = []
_lock = threading.Lock()


@contextmanager
def operation(limits: Operation) -> Iterator[Operation]:
    """Apply these limits to every request in the block, also in threads that a library starts for it."""
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
    """Return the operation of this thread, or None.

    A thread that began no operation belongs to the only active one, if there is exactly one.
    """
    own: Operation | None = getattr(_own, "operation", None)
    if own is not None:
        return own
    with _lock:
        return _active[0] if len(_active) == 1 else None


# A time limit for libraries whose clients are not wrapped, and that have no limit of their own


_AGAIN_SECONDS = 1.0


class Alarm:
    """An alarm. ``rang`` says whether the time ran out."""

    rang = False


@contextmanager
def within(seconds: float) -> Iterator[Alarm]:
    """Raise TimeoutError inside the block after ``seconds``, and again every second after that.

    This interrupts waits for the network or the clock. Signals reach the main thread only. In other threads, or if the
    program has set its own alarm, the block is not limited.
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
