"""Work that goes on beside copying: hashing, and bringing written data to the disk."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue


class BackgroundDigest:
    """SHA-256 of buffers handed over one by one, computed in a thread of its own (hashlib releases the GIL).

    Take a `buffer`, fill it, `feed` it; it is reused once it has been hashed.
    """

    def __init__(self, size: int, depth: int = 4) -> None:
        self._free: Queue[bytearray] = Queue()
        self._full: Queue[tuple[bytearray, int] | None] = Queue()
        for _ in range(depth):
            self._free.put(bytearray(size))
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._digest = self._pool.submit(self._work)

    def __enter__(self) -> BackgroundDigest:
        return self

    def __exit__(self, *_: object) -> None:
        self._full.put(None)
        self._pool.shutdown(wait=True)

    def buffer(self) -> bytearray:
        """A buffer that is free to be filled."""
        return self._free.get()

    def feed(self, buffer: bytearray, used: int) -> None:
        """Hash the first ``used`` bytes of ``buffer``, which then belongs to the thread."""
        self._full.put((buffer, used))

    def hexdigest(self) -> str:
        """The digest of everything fed, in hex; nothing can be fed afterwards."""
        self._full.put(None)
        return self._digest.result()

    def _work(self) -> str:
        digest = hashlib.sha256()
        while (item := self._full.get()) is not None:
            buffer, used = item
            digest.update(memoryview(buffer)[:used])
            self._free.put(buffer)
        return digest.hexdigest()


class Syncing:
    """Flush files to the disk in the background; `wait` returns when everything is there.

    A context manager: leaving it lets flushes that have begun come to their end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Syncing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def sync(self, fd: int) -> None:
        """Flush ``fd``, which may be closed at once."""
        self._pending.append(self._pool.submit(_sync_and_close, os.dup(fd)))

    def wait(self) -> None:
        """Return once all data is on the disk. Raises OSError where it could not be written."""
        for future in self._pending:
            future.result()
        self._pending.clear()


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
