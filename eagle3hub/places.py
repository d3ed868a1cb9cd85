"""Where a file is written that a user named: which places are replaced, which are written through, which refused.

===========================================  =========================================================
no file yet, or a file                       replaced in one step; it keeps its permissions and owner
a link to such a place                       the same, where it leads; the link stays
standard output, another open descriptor     written through (``/dev/stdout``, ``/dev/fd/3``, ``>(…)``)
``/dev/null``, ``/dev/full``, a terminal     written through
a pipe that somebody reads                   written through
a pipe nobody reads, a socket, any other     refused, and left as it is
device, a folder, a link to nothing
===========================================  =========================================================
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from eagle3hub.destination import output_error
from eagle3hub.errors import OutputError
from eagle3hub.reading import impossible_name, kind

_HARMLESS = ("/dev/null", "/dev/zero", "/dev/full")
_MOST_LINKS = 40
_opened: dict[tuple[int, int], int] = {}
"""Pipes that were found to have a reader and will be written to later, by device and inode."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes go: into ``file``, which is replaced (links followed), or else through a ``descriptor``."""

    file: Path | None
    descriptor: int = -1
    is_ours: bool = False
    """Whether the descriptor is to be closed."""


def check_place(path: Path, *, parents: bool = False) -> None:
    """Raise OutputError if a file cannot be written there; for before the work that makes it.

    ``parents``: the folders it lies in will be made.
    """
    try:
        place = find_place(path)
        if place.file is None:
            if place.is_ours and stat.S_ISFIFO(os.fstat(place.descriptor).st_mode):
                _opened[_identity(place.descriptor)] = place.descriptor  # closed, its reader would see the end
            else:
                _close(place)
            return
        folder = place.file.parent
        while parents and not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            what = errno.ENOTDIR if os.path.lexists(folder) else errno.ENOENT
            raise OSError(what, os.strerror(what))
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason))
    except OSError as e:
        raise output_error(e, path) from e


def is_replaced(path: Path) -> bool:
    """Whether a file lies there, or none yet, so that other files can lie beside it; nothing is opened."""
    try:
        there, number = _followed(path)
        return number is None and (there.is_file() or not os.path.lexists(there))
    except (OSError, ValueError):
        return False


def find_place(path: Path) -> Place:
    """What lies at ``path``. Raises OSError, and OutputError for a place that is neither replaced nor written through.

    A descriptor that is ours must be closed.
    """
    try:
        there, number = _followed(path)
        if number is not None:
            return Place(None, number)
        try:
            found = there.lstat()
        except FileNotFoundError:
            if there != _absolute(path):
                raise _refused(
                    path, f"a symbolic link to {there}, which does not exist", "make that file first, or name it"
                ) from None
            return Place(there)
    except ValueError as e:
        raise impossible_name(path) from e
    if stat.S_ISREG(found.st_mode):
        if not os.access(there, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return Place(there)
    if stat.S_ISDIR(found.st_mode):
        raise _refused(path, "a folder", "name a file in it")
    return Place(None, _through(path, there, found), True)


def write_through(place: Place, data: bytes) -> None:
    """Write all of ``data`` to a place that is not replaced. Raises OSError."""
    try:
        stream = {1: sys.stdout, 2: sys.stderr}.get(place.descriptor)
        if stream is not None:
            stream.flush()
            if (buffer := _buffer_of(stream, place.descriptor)) is not None:  # which outlives its readers
                buffer.write(data)
                stream.flush()
                return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(place.descriptor, view) :]
            except BlockingIOError:
                select.select([], [place.descriptor], [])
    finally:
        _close(place)


def _buffer_of(stream: TextIO, number: int) -> BinaryIO | None:
    with suppress(AttributeError, OSError, ValueError):
        return stream.buffer if stream.fileno() == number else None
    return None


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _close(place: Place) -> None:
    if place.is_ours:
        os.close(place.descriptor)


def _absolute(path: Path) -> Path:
    """The path with the links of its folder followed, and the one of its own not."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the last link, too
    return Path(os.path.realpath(whole.parent)) / whole.name


def _followed(path: Path) -> tuple[Path, int | None]:
    """Where a path leads once every link is followed, or the number of the open descriptor of ours that it names."""
    here = _absolute(path)
    own = {Path(f"/proc/{os.getpid()}/fd"), Path(f"/proc/{os.getpid()}/task/{os.getpid()}/fd"), Path("/dev/fd")}
    for _ in range(_MOST_LINKS):
        if here.parent in own and here.name.isdecimal():
            return here, int(here.name)
        if not here.is_symlink():
            return here, None
        here = _absolute(here.parent / here.readlink())
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _through(path: Path, there: Path, found: os.stat_result) -> int:
    """A descriptor that writes through a place that is neither a file nor a folder."""
    what = kind(found.st_mode) or "no file"
    if stat.S_ISCHR(found.st_mode):
        harmless = any(Path(p).exists() and Path(p).stat().st_rdev == found.st_rdev for p in _HARMLESS)
        fd = os.open(there, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY) if harmless or _is_terminal(there) else -1
    elif stat.S_ISFIFO(found.st_mode) and (found.st_dev, found.st_ino) in _opened:
        fd = _opened.pop((found.st_dev, found.st_ino))
    elif stat.S_ISFIFO(found.st_mode):
        try:
            fd = os.open(there, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            raise _refused(path, "a pipe that nobody reads", "start its reader first, or name a file") from e
    else:
        fd = -1
    if fd < 0:
        raise _refused(path, what, "name a file")
    os.set_blocking(fd, True)
    return fd


def _is_terminal(there: Path) -> bool:
    """Whether it is a terminal, told by its name: opening another device can do something to it."""
    return there == Path("/dev/tty") or there.parent == Path("/dev/pts")


def _refused(path: Path, what: str, hint: str) -> OutputError:
    return OutputError(f"cannot write {path}: it is {what}", hint=hint, code="output-not-a-file")
