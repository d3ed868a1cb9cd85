"""Work that goes on beside copying: hashing, and bringing written data to the disk."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Condition

from eagle3hub.checkpoint.digest import FileDigest

_BUFFER = 2 << 20


class GrowingDigest:
    """SHA-256 of a file that is still being written, from its beginning; a thread of ``pool`` reads it back."""

    def __init__(self, path: Path, pool: ThreadPoolExecutor) -> None:
        self._path = path
        self._written = 0
        self._complete = False
        self._grown = Condition()
        self._digest = pool.submit(self._work)

    def grow(self, written: int, *, complete: bool = False) -> None:
        """Say that the first ``written`` bytes are in the file, and whether that is all."""
        with self._grown:
            self._written, self._complete = written, complete
            self._grown.notify()

    def result(self) -> FileDigest:
        """Wait for the digest of the complete file. Raises OSError where it cannot be read."""
        sha256 = self._digest.result()
        return {"path": self._path.name, "size": self._written, "sha256": sha256}

    def _work(self) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_BUFFER))
        at = 0
        with self._path.open("rb", buffering=0) as file:
            while True:
                with self._grown:
                    while not self._complete and self._written <= at:
                        self._grown.wait()
                    written, complete = self._written, self._complete
                if at < written:
                    n = file.readinto(buffer[: written - at])
                    if not n:
                        raise OSError(errno.EIO, f"{self._path.name} became shorter")
                    digest.update(buffer[:n])
                    at += n
                elif complete:
                    return digest.hexdigest()


class Beside:
    """What goes on beside the writing of files: hashing them as they grow, and flushing them to the disk.

    A context manager: leaving it lets flushes that have begun come to their end, and gives up hashing.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._flushing = self._stack.enter_context(ThreadPoolExecutor(max_workers=1))
        self._hashing = self._stack.enter_context(ThreadPoolExecutor(max_workers=1))
        self._pending: list[Future[None]] = []
        self._digests: list[GrowingDigest] = []

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        for digest in self._digests:
            digest.grow(0, complete=True)
        self._stack.close()

    def digest(self, path: Path) -> GrowingDigest:
        """The digest of a new file, to be told how far it has been written."""
        self._digests.append(GrowingDigest(path, self._hashing))
        return self._digests[-1]

    def digests(self) -> list[FileDigest]:
        """Wait for the digests of all the files, which are complete. Raises OSError."""
        return [digest.result() for digest in self._digests]

    def sync(self, fd: int) -> None:
        """Flush ``fd``, which may be closed at once."""
        self._pending.append(self._flushing.submit(_sync_and_close, os.dup(fd)))

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
