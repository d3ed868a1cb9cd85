"""Bounded reads of a weights file, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from eagle3hub.errors import CheckpointError
from eagle3hub.reading import open_regular

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ByteReader(Protocol):
    """A file that is read in pieces."""

    @property
    def path(self) -> Path:
        """Where the file lies on this machine, or would lie once downloaded."""

    @property
    def shown(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def remote(self) -> Callable[[int, int], bytes] | None:
        """None for a file on this machine, else what a `TensorRef` reads its bytes with."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before."""


class LocalReader:
    """A `ByteReader` of an open file."""

    remote = None

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.shown = str(path)
        self.size = os.fstat(fd).st_size
        self._fd = fd

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise truncated(self)
        try:
            data = os.pread(self._fd, count, offset)
        except OSError as e:
            raise _unreadable(self.path, e) from e
        if len(data) != count:
            raise truncated(self)
        return data


@contextmanager
def open_local(path: Path) -> Iterator[LocalReader]:
    """Open a file for bounded reads. Raises CheckpointError where the system refuses."""
    try:
        fd = open_regular(path)
    except OSError as e:
        raise _unreadable(path, e) from e
    try:
        yield LocalReader(path, fd)
    finally:
        os.close(fd)


def refuse_pointer(start: bytes, shown: Path | str) -> None:
    """Raise CheckpointError if a file begins as a Git LFS pointer does, which stands in for what was not fetched."""
    if start.startswith(_LFS_POINTER):
        raise CheckpointError(
            f"{shown} is a pointer of Git LFS: the file it stands for was not fetched",
            hint="run `git lfs pull` in the clone, or download the repository with `hf download`",
            code="checkpoint-lfs-pointer",
        )


def truncated(reader: ByteReader) -> CheckpointError:
    """The error of a file that ends before what it promises."""
    return CheckpointError(
        f"{reader.shown} is truncated: it has only {reader.size} bytes",
        hint="copy or download the file again",
        code="checkpoint-truncated",
    )


def _unreadable(path: Path, e: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read {path}: {e.strerror}", code="checkpoint-unreadable")
