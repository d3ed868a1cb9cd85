"""Bring files to the disk while they are still being written."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from eagle3hub.checkpoint.syscalls import start_writing

_STEP = 64 << 20


class GrowingFile:
    """A file that is being written from its beginning, and whose data goes to the disk meanwhile."""

    def __init__(self, fd: int, pool: ThreadPoolExecutor) -> None:
        self._fd = os.dup(fd)
        self._pool = pool
        self._begun = 0
        self._flushed: Future[None] | None = None

    def grow(self, written: int) -> None:
        """Say that the first ``written`` bytes are in the file."""
        if written - self._begun >= _STEP:
            self._pool.submit(start_writing, self._fd, self._begun, written - self._begun)
            self._begun = written

    def complete(self) -> None:
        """Say that all of it is there."""
        self._flushed = self._pool.submit(os.fsync, self._fd)

    def wait(self) -> None:
        """Return once the complete file is on the disk. Raises OSError where it could not be written."""
        if self._flushed is not None:
            self._flushed.result()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Flushing:
    """Files on their way to the disk, one after the other, in a thread of their own.

    A context manager: leaving it lets what has begun come to its end, and gives up the rest.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._files: list[GrowingFile] = []

    def __enter__(self) -> Flushing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for file in self._files:
            file.close()

    def file(self, fd: int) -> GrowingFile:
        """A new file, open as ``fd``, which may be closed at any time."""
        self._files.append(GrowingFile(fd, self._pool))
        return self._files[-1]

    def wait(self) -> None:
        """Return once all files are on the disk. Raises OSError where one could not be written."""
        for file in self._files:
            file.wait()
