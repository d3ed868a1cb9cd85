r"""Signals that ask a command to stop (SIGINT, SIGTERM, SIGHUP), and work that they may not cut in two.

The first of them raises an exception, and whatever is under construction is removed on the way out; the later ones
change nothing until that is done, so that impatience leaves nothing behind. SIGQUIT (Ctrl-\) and SIGKILL end the
process at once, and what they leave is removed by the next run.
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
    """Let the first signal raise KeyboardInterrupt or SystemExit, and the later ones nothing.

    What this process was started to ignore, as nohup has SIGHUP ignored, stays ignored.
    """
    global _told
    _told = 0
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def stop_again() -> None:
    """The signal that came has been dealt with: the next one raises again."""
    global _told
    _told = 0


def stopped_by() -> int:
    """The number of the signal that has asked to stop, or 0: what it raised may come out as another exception.

    Python before 3.12 makes a RuntimeError of one that is raised while the attributes of a class are named.
    """
    return _told


def stop_at_once() -> None:
    """Nothing is left to be removed: from now on a signal ends the process as it ends any other."""
    for number in STOPPING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Run the block whole: a signal that comes meanwhile counts once it is done.

    Signals that end the process without an exception are left alone, and so is everything in other threads than the
    main one, which get none.
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
