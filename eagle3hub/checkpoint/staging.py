"""Build a folder or a file under a hidden name, then put it in place in one step.

The destination is absent or complete at every moment: the work goes into a hidden sibling that is renamed at the end.
The next run removes a sibling that a killed process left behind.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.checkpoint.destination import (
    RECORDS,
    check_destination,
    find_place,
    output_error,
    write_through,
    written,
)
from eagle3hub.system.reading import wait_for_disk
from eagle3hub.system.signals import held

_OLD = "-old"
_LONGEST_NAME = 220


def prepare_destination(
    dest: Path, *, force: bool, keep_out: Iterable[str | Path] = (), beside: Collection[str] = ()
) -> None:
    """Create the folder that ``dest`` goes into, then `check_destination`. Raises OutputError."""
    try:
        dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise output_error(e, dest) from e
    remove_leftovers(dest, beside)
    check_destination(dest, force=force, keep_out=keep_out, beside=beside)


@dataclass(slots=True)
class Stage:
    """A folder under construction. It is put in place at the end unless ``keep`` has been set to false.

    ``left`` is then the rest of the folder it replaced, if that could not be removed completely.
    """

    path: Path
    keep: bool = True
    left: Path | None = None


@contextmanager
def staged_folder(
    dest: Path, *, force: bool = False, flush: bool = True, beside: Collection[str] = ()
) -> Iterator[Stage]:
    """A new hidden folder that becomes ``dest`` when the block ends without an exception.

    ``force`` and ``beside`` are those of `check_destination`. ``flush``: return only when it is on the disk under its
    name, so that a power cut cannot undo it. Raises OutputError if the destination cannot be written (a full disk
    included). On any exception nothing is left behind and an existing ``dest`` is untouched.
    """
    parent = dest.absolute().parent
    remove_leftovers(dest, beside)
    stage = Stage(parent / f"{_prefix(dest.name)}{secrets.token_hex(4)}")
    lock = -1
    try:
        try:
            with held():
                lock = begin_folder(stage.path)
            yield stage
            if stage.keep:
                if flush:
                    wait_for_disk(lock)
                check_destination(dest, force=force, beside=beside)
                with held():
                    stage.left = _put_in_place(stage.path, dest, beside)
                    if flush:
                        _sync_folder(parent)
        except OSError as e:
            raise output_error(e, dest) from e
        finally:
            _remove_stage(stage.path)
    finally:  # again: a signal may have interrupted the first `finally`; a second one raises nothing
        _remove_stage(stage.path)
        if lock >= 0:
            os.close(lock)


def write_file(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write a new file and, with ``flush``, wait until it is on the disk."""
    with path.open("xb") as f:
        f.write(data)
        f.flush()
        if flush:
            wait_for_disk(f.fileno())


def replace_file(path: Path, data: bytes, *, parents: bool = False) -> None:
    """Write a file; an existing one is replaced in one step, at the end. ``parents``: create its folders.

    Places that are no files are written through or refused; `eagle3hub.checkpoint.destination` has the rules. Raises
    OutputError if it cannot be written; what was there before is then untouched.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        place = find_place(path)
        if place.file is None:
            write_through(place, data)
        else:
            _replace(place.file, data)
    except OSError as e:
        raise output_error(e, path) from e


def append_file(path: Path, text: str) -> None:
    """Append to a file, or write through a place that is no file. Raises OutputError."""
    try:
        place = find_place(path)
        if place.file is None:
            write_through(place, text.encode("utf-8", "backslashreplace"))
            return
        with place.file.open("ab") as f:
            f.write(text.encode("utf-8", "backslashreplace"))
    except OSError as e:
        raise output_error(e, path) from e


def _replace(file: Path, data: bytes) -> None:
    """Replace the bytes of ``file`` in one step; its permissions and owner stay."""
    remove_leftovers(file)
    partial = file.with_name(f"{_prefix(file.name)}{secrets.token_hex(4)}")
    try:
        try:
            with held():
                fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                fcntl.flock(fd, fcntl.LOCK_EX)
            with os.fdopen(fd, "wb") as out:
                out.write(data)
                out.flush()
                with suppress(FileNotFoundError):
                    _keep_mode(fd, file.stat())
                wait_for_disk(fd)
                with held():
                    partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    finally:  # as in `staged_folder`
        partial.unlink(missing_ok=True)


def _keep_mode(fd: int, before: os.stat_result) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):
            os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, stat.S_IMODE(before.st_mode))


def remove_leftovers(dest: Path, beside: Collection[str] = ()) -> None:
    """Remove what killed runs for the same destination left behind; a run that still goes on holds a lock.

    A folder that a run had moved aside and not yet replaced gets its name back. ``beside`` as in `check_destination`.
    """
    try:
        found = set(dest.absolute().parent.glob(f"{glob.escape(_prefix(dest.name))}*"))
    except OSError:  # whoever writes there next reports it
        return
    aside = {path for path in found if path.name.endswith(_OLD)}
    for stage in found - aside:
        try:
            lock = os.open(stage, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if stat.S_ISREG(os.fstat(lock).st_mode):
                stage.unlink()
                continue
            with held():
                if os.path.lexists(_old_of(stage)) and not os.path.lexists(dest):
                    os.rename(_old_of(stage), dest)
            remove_folder(stage)
        except OSError:
            pass
        finally:
            os.close(lock)
    for old in aside:
        if not os.path.lexists(old.with_name(old.name.removesuffix(_OLD))):
            _remove_written(old, beside)


def _put_in_place(stage: Path, dest: Path, beside: Collection[str]) -> Path | None:
    """Rename ``stage`` to ``dest``. Returns the rest of the folder it replaced, None if that could be removed."""
    if not os.path.lexists(dest):
        os.rename(stage, dest)
        return None
    old = _old_of(stage)
    os.rename(dest, old)
    try:
        os.rename(stage, dest)
    except OSError:
        os.rename(old, dest)
        raise
    return None if _remove_written(old, beside) else old


def begin_folder(stage: Path, mode: int = 0o777) -> int:
    """Make a folder, and return the descriptor that holds its lock. Raises OSError, also where there is one."""
    while True:
        stage.mkdir(mode)
        lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(stage):
            return lock
        os.close(lock)  # before it was locked, another run removed it as a leftover


def _remove_stage(stage: Path) -> None:
    """Remove a folder under construction; signals wait."""
    if os.path.lexists(stage):
        with held():
            remove_folder(stage)


def _remove_written(folder: Path, beside: Collection[str]) -> bool:
    """Remove only what this tool wrote from a folder that was replaced. Returns whether nothing else was in it.

    The records go last, so that the next run can continue if this one is killed.
    """
    ours = written(folder, beside)
    inside = [(Path(here), folders, names) for here, folders, names in os.walk(folder)]
    for here, _, _ in inside:
        with suppress(OSError):
            if not os.access(here, os.W_OK | os.X_OK):
                here.chmod(0o700)
    files = [here / name for here, _, names in inside for name in names]
    for file in sorted(files, key=lambda file: file.name in RECORDS):
        if file.relative_to(folder).as_posix() in ours and not file.is_symlink():
            with suppress(OSError):
                file.unlink()
    for here, _, _ in reversed(inside):
        with suppress(OSError):
            here.rmdir()
    return not os.path.lexists(folder)


def remove_folder(folder: Path) -> bool:
    """Remove ``folder`` and all in it, even from read-only folders. Returns whether that worked."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        return True
    with suppress(OSError):
        folder.chmod(0o700)
        for here, folders, _ in os.walk(folder):
            for inner in (Path(here, name) for name in folders):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    return not os.path.lexists(folder)


def _old_of(stage: Path) -> Path:
    """The name of the replaced folder until it is removed; ``stage`` exists as long as it may have to be restored."""
    return stage.with_name(stage.name + _OLD)


def _prefix(name: str) -> str:
    """How hidden names for ``name`` begin; cut to what a file system takes."""
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return f".{name}.eagle3hub-"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wait_for_disk(fd)
    finally:
        os.close(fd)
