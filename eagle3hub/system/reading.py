"""Read what a user named: files only, never a pipe, a device or a socket, which may have no end or never begin.

Every function raises OSError, so that a caller says in its own words which file it could not read; what ``strerror``
says of a place that is no file fits after "cannot read NAME: ".
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path

LARGEST = 64 << 20
"""Bytes of the largest file that is ever held in memory as a whole; weights and archives are read in pieces."""
_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(mode: int) -> str | None:
    """What a place that can be opened but is no file is: ``a pipe``, ``a device``, ``a socket``; else None."""
    return next((word for matches, word in _KINDS if matches(mode)), None)


def open_regular(path: str | Path) -> int:
    """A descriptor to read a file with. Never waits, and opens nothing but files.

    Raises OSError, also for a pipe, a device, a socket or a folder, and for a name that no file can have.
    """
    try:
        _refuse_kind(Path(path).stat().st_mode, path)  # first: opening alone can do something to a device
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as e:  # a NUL, or half of a surrogate pair
        raise impossible_name(path) from e
    try:
        _refuse_kind(os.fstat(fd).st_mode, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def opened(path: str | Path) -> io.FileIO:
    """A file to read in pieces, without a buffer; raises as `open_regular`."""
    return io.FileIO(open_regular(path), "rb")


def read_bytes(path: str | Path, most: int = LARGEST) -> bytes:
    """The bytes of a file. Raises OSError as `open_regular`, and for one of more than ``most`` bytes."""
    with opened(path) as f:
        return bytes(_at_most(f, most, path))


def read_text(path: str | Path, most: int = LARGEST) -> str:
    """The text of a UTF-8 file. Raises OSError as `read_bytes`, and for anything that is not UTF-8."""
    return _decoded(read_bytes(path, most), path)


def read_standard_input(most: int = LARGEST) -> str:
    """The text that is piped in. Raises OSError as `read_text`."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        return sys.stdin.read(most) if sys.stdin else ""
    return _decoded(bytes(_at_most(stream, most, "-")), "-")


def impossible_name(path: object) -> OSError:
    """The error of a name that no file can have."""
    return OSError(errno.EINVAL, "no file can have such a name", repr(str(path)))


def _at_most(f: io.RawIOBase | io.BufferedIOBase, most: int, path: object) -> bytearray:
    data = bytearray()
    while chunk := f.read(_CHUNK):
        data += chunk
        if len(data) > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return data


def _decoded(raw: bytes, path: object) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise OSError(errno.EILSEQ, f"line {line} is not UTF-8 text", str(path)) from e


def _refuse_kind(mode: int, path: object) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    what = special_kind(mode)
    if what is not None:
        raise OSError(errno.EINVAL, f"it is {what}, not a file: write its content to a file first", str(path))
