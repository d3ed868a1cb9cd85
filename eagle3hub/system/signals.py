r"""Handle the signals that ask a command to stop (SIGINT, SIGTERM, SIGHUP), and protect work from them.

The first signal raises an exception, and unfinished files are removed on the way out. Later signals do nothing until
that is done, so an impatient user leaves nothing behind. SIGQUIT (Ctrl-\) and SIGKILL end the process at once, and the
next run removes what they leave.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_told = 0


def stop_once() -> None:
    """Make the first signal raise KeyboardInterrupt or SystemExit, and later signals do nothing.

    A signal that this process was started to ignore, as nohup does with SIGHUP, stays ignored.
    """
    global _told
    _told = 0
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def stop_again() -> None:
    """Let the next signal raise again, because the last one has been dealt with."""
    global _told
    _told = 0


def stopped_by() -> int:
    """Return the number of the signal that asked to stop, or 0.

    This is needed because the exception may come out as another one: Python before 3.12 turns it into a RuntimeError
    if it is raised while the attributes of a class are named.
    """
    return _told


def stop_at_once() -> None:
    """Let signals end the process as they end any other, because nothing is left to be removed."""
    for number in STOPPING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Run the block without interruption. A signal that arrives meanwhile takes effect after the block.

    Signals that end the process without an exception are not held back. Other threads than the main one get no
    signals, so there this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {}
    try:
        for number in STOPPING:
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)


def _stop(number: int, _frame: FrameType | None) -> None:
    global _told
    if _told:
        return
    _told = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
