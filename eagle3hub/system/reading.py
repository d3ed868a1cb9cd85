"""Read files that a user named, and wait for written ones to be on the disk.

Pipes, devices and sockets are refused, because reading them may never end. Every function raises OSError, so that a
caller can say in its own words which file it could not read. The ``strerror`` for a place that is not a file fits
after "cannot read NAME: ".
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

LARGEST = 64 << 20
"""The most bytes of a file that is read into memory as a whole. Weights and archives are read in pieces."""
_CHUNK = 1 << 20
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special_kind(mode: int) -> str | None:
    """Return ``a pipe``, ``a device`` or ``a socket`` for the mode of such a place, else None."""
    return next((word for matches, word in _KINDS if matches(mode)), None)


def open_regular(path: str | Path) -> int:
    """Open a file for reading and return its descriptor. This never waits, and opens only files.

    Raises OSError, also for a pipe, a device, a socket, a folder, and a name that no file can have.
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
    """Open a file to read it in pieces, without a buffer. Raises as `open_regular`."""
    return io.FileIO(open_regular(path), "rb")


def read_bytes(path: str | Path, most: int = LARGEST) -> bytes:
    """Return the bytes of a file. Raises OSError as `open_regular`, and if there are more than ``most``."""
    with opened(path) as f:
        return bytes(_at_most(f, most, path))


def read_text(path: str | Path, most: int = LARGEST) -> str:
    """Return the text of a UTF-8 file. Raises OSError as `read_bytes`, and if it is not UTF-8."""
    return _decoded(read_bytes(path, most), path)


def read_standard_input(most: int = LARGEST) -> str:
    """Return the text on standard input. Raises OSError as `read_text`."""
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        return sys.stdin.read(most) if sys.stdin else ""
    return _decoded(bytes(_at_most(stream, most, "-")), "-")


def impossible_name(path: object) -> OSError:
    """Return the error for a name that no file can have."""
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


def wait_for_disk(fd: int) -> None:
    """Return once an open file or folder is on the disk. Raises OSError where it could not be written.

    On macOS ``fsync`` hands the data to the disk, which may keep it in a cache that a power cut empties: only
    F_FULLFSYNC, which not every file system there has, waits for the disk itself.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)
