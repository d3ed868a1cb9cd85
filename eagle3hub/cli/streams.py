"""Standard output and standard error that do not care whether anybody still reads them.

A reader that leaves early (``| head``, ``| true``, a closed terminal) has no say in what a command finds or does: it
goes on in silence, and its exit status is what it would have been.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def outlive_readers() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that outlive their readers."""
    sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)


def _outliving(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed from the start
        return io.TextIOWrapper(io.FileIO(_nowhere(), "w", closefd=False), encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Outliving(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Outliving(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as e:
            if not self._is_unread(e):
                raise
        nowhere = _nowhere()
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return super().write(data)

    def _is_unread(self, e: OSError) -> bool:
        """Whether it is a pipe without a reader, or a terminal that was closed; a full disk, say, is neither."""
        closed_terminal = e.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return closed_terminal or e.errno == errno.EPIPE


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
