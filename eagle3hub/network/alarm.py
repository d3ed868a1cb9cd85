"""A time limit for code that keeps none of its own: libraries whose clients nothing of ours is wrapped around."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
