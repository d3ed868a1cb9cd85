"""Which folders and files may be written, and which of them this tool wrote before."""

from __future__ import annotations

import errno
import os
import select
import shutil
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.source import CONFIG, PROVENANCE, parse_json_object
from eagle3hub.errors import InputError, OutputError
from eagle3hub.system.reading import impossible_name, read_bytes, special_kind

# May a folder be written? What is there already, and is there room?


RELEASE = "release.json"
"""The record of a whole release, in its folder: ``files`` lists the path, size and SHA-256 of each file in it."""
RECORDS = (RELEASE, PROVENANCE)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = "choose a place you may write to, or change the permissions of its folder"
_HINTS = {
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "choose a place on another file system",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def check_destination(
    dest: Path, *, force: bool, keep_out: Iterable[str | Path] = (), beside: Collection[str] = ()
) -> None:
    """Raise OutputError if ``dest`` may not be written.

    Args:
        force: allow replacing a folder that this tool wrote (or an empty one), and in which nothing else lies and
            nothing was changed since.
        keep_out: inputs. ``dest`` may not be one of them, nor contain one or a file that a link in one leads to. Those
            that are not on this machine (Hub ids) are skipped.
        beside: patterns of further paths that this tool writes there and that no record lists; one that ends in a
            slash is the folder of a head with a record of its own.
    """
    try:
        _check_inputs(dest, keep_out)
        if os.path.lexists(dest):
            _check_replaceable(dest, force, beside)
        _check_parent(dest)
    except OSError as e:
        raise output_error(e, dest) from e


def require_space(dest: Path, nbytes: int) -> None:
    """Raise OutputError if the file system of ``dest`` has less than ``nbytes`` bytes free."""
    free = shutil.disk_usage(dest.absolute().parent).free
    if free < nbytes:
        raise OutputError(
            f"{dest} needs {nbytes:,} bytes but only {free:,} are free there",
            hint="free some space or choose another disk",
            code="output-disk-full",
        )


def output_error(e: OSError, dest: Path) -> OutputError:
    """The system's error from writing ``dest`` as an error of this package."""
    if e.errno in _FULL:
        return OutputError(
            f"the disk is full (or a size limit was reached) while writing {dest}; nothing was kept",
            hint="free some space or choose another disk",
            code="output-disk-full",
        )
    hint = _HINTS.get(e.errno or 0, "choose another place")
    return OutputError(f"cannot write {dest}: {e.strerror or e}", hint=hint, code="output-unwritable")


def _check_inputs(dest: Path, inputs: Iterable[str | Path]) -> None:
    place = dest.resolve()
    for path in (p for given in inputs for p in _with_files(Path(given).expanduser())):
        real = path.resolve()
        if place == real or place in real.parents:
            raise OutputError(
                f"the destination {dest} is, or contains, {path}, which it is to be made from",
                hint="choose another destination",
                code="output-is-source",
            )


def _with_files(path: Path) -> Iterator[Path]:
    """``path`` and, if it is a folder, the files directly in it; nothing where there is none."""
    if path.exists():
        yield path
    if path.is_dir():
        yield from (p for p in path.iterdir() if p.is_file())


def _check_parent(dest: Path) -> None:
    parent = dest.absolute().parent
    if parent.is_dir():
        if not os.access(parent, os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(parent).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(reason, os.strerror(reason))
        return
    there = next(p for p in (parent, *parent.parents) if os.path.lexists(p))
    if not there.is_dir():
        raise OutputError(
            f"{there} is not a folder, so {dest} cannot be made in it",
            hint="choose another destination",
            code="output-parent",
        )
    raise OutputError(f"the folder {parent} does not exist", hint="create it first", code="output-parent")


def _check_replaceable(dest: Path, force: bool, beside: Collection[str]) -> None:
    if dest.is_symlink() or not dest.is_dir():
        what = "a symbolic link" if dest.is_symlink() else "a file"
        raise OutputError(
            f"{dest} exists already, as {what}, which is never replaced",
            hint="choose another name",
            code="output-exists",
        )
    ours = written(dest, beside)
    foreign, edited = _not_ours(dest, ours, look=force)
    if not force:
        also = " and holds files this tool did not write" if foreign else ""
        hint = "choose another name" if foreign else "choose another name, or replace it with --force"
        raise OutputError(f"{dest} exists already{also}", hint=hint, code="output-exists")
    if foreign:
        which = _named(foreign) if (dest / PROVENANCE).is_file() else f"there is no {PROVENANCE}"
        raise OutputError(
            f"{dest} holds files this tool did not write ({which}), so --force does not replace it",
            hint="move elsewhere what you need of them, and remove the rest",
            code="output-foreign",
        )
    if edited:
        raise OutputError(
            f"{dest} holds files that were changed since this tool wrote them ({_named(edited)}), so --force does not "
            "replace it",
            hint="move elsewhere what you need of them, and remove the rest",
            code="output-edited",
        )


def _named(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")


def written(folder: Path, beside: Collection[str] = ()) -> dict[str, Mapping[str, object]]:
    """The files this tool wrote into a folder, by path, with ``size`` and ``sha256`` where its records have them.

    The records are those of heads (`PROVENANCE`), in the folder and in those for other layouts, and the one of a whole
    release (`RELEASE`). ``beside`` as in `check_destination`; without any record, no file counts as ours.
    """
    whole = _recorded(folder / RELEASE)
    ours = _recorded(folder / PROVENANCE)
    if not ours and not whole:
        return {}
    unlisted: dict[str, Mapping[str, object]] = {}
    for pattern in beside:
        if pattern.endswith("/"):
            inner = _recorded(folder / pattern / PROVENANCE) if not (folder / pattern.rstrip("/")).is_symlink() else {}
            unlisted |= {pattern + path: known for path, known in inner.items()}
        else:
            unlisted |= {path.relative_to(folder).as_posix(): {} for path in folder.glob(pattern)}
    return unlisted | ours | whole


def _recorded(record: Path) -> dict[str, Mapping[str, object]]:
    """The files that a record lists, and itself; nothing where there is no such record."""
    try:
        document = parse_json_object(read_bytes(record), record)
    except (InputError, OSError):
        return {}
    files = document.get("files")
    listed = {f["path"]: f for f in files if _is_entry(f)} if isinstance(files, list) else {}
    fingerprint = document.get("fingerprint")
    if CONFIG in listed and isinstance(fingerprint, dict):  # always recorded, unlike other digests
        listed[CONFIG] = {"sha256": fingerprint.get("config_sha256"), **listed[CONFIG]}
    return {record.name: {}} | listed


def _is_entry(listed: Any) -> bool:
    return isinstance(listed, dict) and isinstance(listed.get("path"), str)


def _not_ours(folder: Path, ours: Mapping[str, Mapping[str, object]], *, look: bool) -> tuple[list[str], list[str]]:
    """Paths in a folder, at any depth, that are not ``ours``; with ``look`` also those of ours that were changed."""
    needed = {parent.as_posix() for path in ours for parent in PurePosixPath(path).parents}
    foreign, edited = [], []
    open_folders = [folder]
    while open_folders:
        here = open_folders.pop()
        try:
            entries = sorted(here.iterdir())
        except OSError:
            if here == folder:
                raise
            entries = []  # unreadable, so it counts as foreign
            foreign.append(here.relative_to(folder).as_posix())
        for path in entries:
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                foreign.append(name)
            elif path.is_dir():
                if name in needed:
                    open_folders.append(path)
                else:
                    foreign.append(name)
            elif name not in ours:
                foreign.append(name)
            elif look and _is_edited(path, ours[name]):
                edited.append(name)
    return sorted(foreign), sorted(edited)


def _is_edited(path: Path, known: Mapping[str, object]) -> bool:
    size, sha256 = known.get("size"), known.get("sha256")
    if size is not None and path.stat().st_size != size:
        return True
    return sha256 is not None and file_digest(path)["sha256"] != sha256


# The place of a file that a user named: some are replaced, some are written through, some are refused.
#
# ===========================================  =========================================================
# no file yet, or a file                       replaced in one step; it keeps its permissions and owner
# a link to such a place                       the same, where it leads; the link stays
# standard output, another open descriptor     written through (``/dev/stdout``, ``/dev/fd/3``, ``>(…)``)
# ``/dev/null``, ``/dev/full``, a terminal     written through
# a pipe that somebody reads                   written through
# a pipe nobody reads, a socket, any other     refused, and left as it is
# device, a folder, a link to nothing
# ===========================================  =========================================================


_HARMLESS = ("/dev/null", "/dev/zero", "/dev/full")
_MOST_LINKS = 40
_opened: dict[tuple[int, int], int] = {}
"""Pipes that were found to have a reader and will be written to later, by device and inode."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes go: into ``file``, which is replaced (links followed), or else through ``descriptor``."""

    file: Path | None
    descriptor: int = -1
    is_ours: bool = False
    """Whether the descriptor must be closed."""


def check_place(path: Path, *, parents: bool = False) -> None:
    """Raise OutputError if a file cannot be written there; call it before the work that makes the file.

    ``parents``: its folders will be created.
    """
    try:
        place = find_place(path)
        if place.file is None:
            if place.is_ours and stat.S_ISFIFO(os.fstat(place.descriptor).st_mode):
                _opened[_identity(place.descriptor)] = place.descriptor  # closing it would end the reader's input
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
    """Whether a plain file is there, or nothing yet, so that other files can go into the same folder."""
    try:
        there, number = _followed(path)
        return number is None and (there.is_file() or not os.path.lexists(there))
    except (OSError, ValueError):
        return False


def find_place(path: Path) -> Place:
    """The place at ``path``. Raises OSError, and OutputError for one that is neither replaced nor written through.

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
    """The path with links in its folder followed, but not the last component's."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the last link, too
    return Path(os.path.realpath(whole.parent)) / whole.name


def _followed(path: Path) -> tuple[Path, int | None]:
    """The path with every link followed, or the number of our own open descriptor that it names."""
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
    what = special_kind(found.st_mode) or "no file"
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
    """Whether it is a terminal, by its name: opening another device could have an effect."""
    return there == Path("/dev/tty") or there.parent == Path("/dev/pts")


def _refused(path: Path, what: str, hint: str) -> OutputError:
    return OutputError(f"cannot write {path}: it is {what}", hint=hint, code="output-not-a-file")
