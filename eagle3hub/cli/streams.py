"""Standard output and standard error that do not care whether anybody still reads them.

A reader that leaves early (``| head``, ``| true``, a closed terminal) has no say in what a command finds or does: it
goes on in silence, and its exit status is what it would have been. Output that somebody waits for and that cannot be
written (a full disk) is an error. What the encoding of a stream has no place for is replaced, and so is what cannot be
seen (`visible`).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from eagle3hub.errors import OutputError
from eagle3hub.visible import visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_STRICT = ("strict", "surrogateescape")
"""Error handlers that stop at a character which the encoding lacks."""


class Unwritable(OutputError):
    """Standard output cannot be written."""

    default_code = "output-stream"


def outlive_readers() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that outlive their readers.

    Writing to standard output raises Unwritable, once, where that fails for any other reason; writing to standard
    error does not, since there is no place left to say so. Both go on into nothing.
    """
    sys.stdout, sys.stderr = _outliving(sys.stdout, needed=True), _outliving(sys.stderr, needed=False)


def _outliving(stream: TextIO | None, *, needed: bool) -> TextIO:
    if stream is None:  # closed from the start
        return _Clean(io.FileIO(_nowhere(), "w", closefd=False), encoding="utf-8", errors="replace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        raw = _Outliving(stream.fileno(), needed=needed)
    except io.UnsupportedOperation:  # a stream in memory, which has no readers
        return stream
    return _Clean(
        _Unheld(raw) if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="replace" if stream.errors in _STRICT else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Clean(io.TextIOWrapper):
    """Text, in which what cannot be seen is replaced: the last net, below every console and every library."""

    as_it_is = False

    def write(self, text: str, /) -> int:
        super().write(text if self.as_it_is else visible(text, keep_lines=True))
        return len(text)

    def write_styled(self, text: str) -> int:
        """Write what a console has made, styles included."""
        return super().write(text)


@contextmanager
def as_it_is() -> Iterator[None]:
    """Write what the block prints as it is, styles included: for text in which nothing comes from outside."""
    _Clean.as_it_is = True
    try:
        yield
    finally:
        _Clean.as_it_is = False


def styled(stream: TextIO) -> TextIO:
    """The stream for a console that makes its text `visible` itself."""
    return cast("TextIO", _Styled(stream)) if isinstance(stream, _Clean) else stream


class _Styled:
    def __init__(self, stream: _Clean) -> None:
        self._stream = stream
        self.write = stream.write_styled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Unheld(io.BufferedWriter):
    """Writes everything at once; the buffer is there because a raw file may write a part only."""

    def write(self, data: ReadableBuffer, /) -> int:
        written = super().write(data)
        self.flush()
        return written


class _Outliving(io.FileIO):
    def __init__(self, descriptor: int, *, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._needed = needed

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as e:
            unread = self._is_unread(e)
            nowhere = _nowhere()
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._needed and not unread:
                raise Unwritable(
                    f"cannot write the output: {e.strerror}",
                    hint="make room where standard output goes, or send it elsewhere",
                ) from e
        return super().write(data)

    def _is_unread(self, e: OSError) -> bool:
        """Whether it is a pipe or socket without a reader, or a terminal that was closed; a full disk is neither."""
        closed_terminal = e.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return closed_terminal or e.errno in (errno.EPIPE, errno.ECONNRESET)


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
