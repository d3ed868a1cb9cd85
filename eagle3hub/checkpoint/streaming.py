"""The bytes of a tensor, a few megabytes at a time, whether they are copied or computed on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from eagle3hub.checkpoint.casting import CastOverflow, cast_bytes
from eagle3hub.checkpoint.derived import DerivedRef
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError, TensorError
from eagle3hub.reading import open_regular

CHUNK = 512 << 10
"""No chunk is longer than this; small enough to stay in a processor's cache between two uses."""


class OpenFiles:
    """File descriptors for reading, opened once each and closed together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._fds: dict[Path, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, path: Path) -> int:
        if path not in self._fds:
            self._fds[path] = open_regular(path)
            self._stack.callback(os.close, self._fds[path])
        return self._fds[path]


def fill(fd: int, buffer: memoryview, offset: int) -> None:
    """Read exactly ``len(buffer)`` bytes at ``offset``. Raises EOFError if the file ends before."""
    done = 0
    while done < len(buffer):
        n = os.preadv(fd, [buffer[done:]], offset + done)
        if n == 0:
            raise EOFError
        done += n


def stream(ref: TensorRef, files: OpenFiles) -> Iterator[memoryview]:
    """Yield the bytes of ``ref`` in order, at most `CHUNK` at a time; a chunk is only valid until the next one.

    Raises CheckpointError if the file has become shorter since its header was read, and TensorError where a cast
    overflows.
    """
    try:
        if not isinstance(ref, DerivedRef):
            yield from _copied(ref, files, CHUNK)
        elif ref.dtype == ref.source.dtype:
            yield from _pieces(ref, files, CHUNK)
        else:  # chunks of the source small enough that a cast to the double width stays within CHUNK
            part = CHUNK // 8
            raw = _pieces(ref, files, part) if ref.order else _copied(ref.source, files, part)
            for chunk in raw:
                yield cast_bytes(chunk, ref.source.dtype, ref.dtype)
    except EOFError:
        raise CheckpointError(f"{ref.path} became shorter while it was read", code="checkpoint-truncated") from None
    except CastOverflow as e:
        raise TensorError(
            f"{ref.name} holds {e.value:g}, which {ref.dtype} cannot hold",
            hint="choose --dtype bf16 or fp32, which have the range",
            code="tensor-overflow",
        ) from None


def _copied(ref: TensorRef, files: OpenFiles, limit: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(limit, ref.nbytes)))
    for at in range(0, ref.nbytes, limit):
        chunk = buffer[: min(limit, ref.nbytes - at)]
        fill(files[ref.path], chunk, ref.offset + at)
        yield chunk


def _pieces(ref: DerivedRef, files: OpenFiles, limit: int) -> Iterator[memoryview]:
    source, fd = ref.source, files[ref.path]
    buffer = memoryview(bytearray(min(limit, source.nbytes)))
    used = 0
    block = ref.piece * len(ref.order)
    runs = list(_runs(ref.order, ref.piece))
    for start in range(source.offset, source.offset + source.nbytes, block):
        for begin, length in runs:
            at, left = start + begin, length
            while left:
                n = min(left, len(buffer) - used)
                fill(fd, buffer[used : used + n], at)
                used, at, left = used + n, at + n, left - n
                if used == len(buffer):
                    yield buffer
                    used = 0
    if used:
        yield buffer[:used]


def _runs(order: tuple[int, ...], piece: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each stretch of pieces that lie one after the other in the source."""
    first = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or order[i] != order[i - 1] + 1:
            yield order[first] * piece, (i - first) * piece
            first = i
