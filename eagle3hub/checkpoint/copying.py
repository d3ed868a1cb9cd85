"""Move byte ranges between files, and write them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from eagle3hub.checkpoint.streaming import fill

_THREADS = 2
_PIECE = 8 << 20
_BUFFER = 256 << 10


def copy_range(src: int, src_offset: int, dst: int, dst_offset: int, count: int, grown: Callable[[int], None]) -> None:
    """Copy ``count`` bytes between two open files: one thread reads while another writes.

    ``grown`` is told, now and then, up to which offset of ``dst`` everything has been copied.

    A safetensors header moves the data to offsets that no longer agree in the two files' pages, where
    ``copy_file_range`` neither shares blocks nor copies faster than this. Raises OSError as the system does, and
    EOFError if the source ends early.
    """

    def piece(at: int) -> int:
        size = min(_PIECE, count - at)
        _copy(src, src_offset + at, dst, dst_offset + at, size)
        return at + size

    with ThreadPoolExecutor(_THREADS) as pool:
        for end in pool.map(piece, range(0, count, _PIECE)):
            grown(dst_offset + end)


def _copy(src: int, src_offset: int, dst: int, dst_offset: int, count: int) -> None:
    buffer = memoryview(bytearray(min(_BUFFER, count)))
    for at in range(0, count, _BUFFER):
        part = buffer[: min(_BUFFER, count - at)]
        fill(src, part, src_offset + at)
        write_all(dst, part, dst_offset + at)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
