"""Build a folder, or a file, out of sight, then put it in place in one step.

The destination is either absent or complete, whatever happens in between: the work goes into a hidden sibling
folder that is renamed at the end. A sibling left behind by a killed process is removed by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.checkpoint.folder import PROVENANCE
from eagle3hub.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_destination(dest: Path, *, force: bool, keep_out: Path | None = None) -> None:
    """Raise OutputError if ``dest`` may not be written.

    Args:
        force: allow replacing a folder that this tool wrote (or an empty one).
        keep_out: a folder that must survive; ``dest`` may not be it or contain it.
    """
    if keep_out is not None and (dest.resolve() == keep_out.resolve() or dest.resolve() in keep_out.resolve().parents):
        raise OutputError(f"the destination {dest} is, or contains, the source folder", code="output-is-source")
    if not os.path.lexists(dest):
        if not dest.absolute().parent.is_dir():
            raise OutputError(
                f"the folder {dest.absolute().parent} does not exist", hint="create it first", code="output-parent"
            )
        return
    if not force:
        raise OutputError(
            f"{dest} exists already", hint="choose another name, or replace it with --force", code="output-exists"
        )
    if dest.is_symlink() or not dest.is_dir():
        raise OutputError(f"{dest} is not a folder, so --force does not replace it", code="output-exists")
    if any(dest.iterdir()) and not (dest / PROVENANCE).is_file():
        raise OutputError(
            f"{dest} holds files this tool did not write (there is no {PROVENANCE}), so --force does not replace it",
            hint="remove it yourself if nothing in it is needed",
            code="output-foreign",
        )


def prepare_destination(dest: Path, *, force: bool, keep_out: Path | None = None) -> None:
    """As `check_destination`, and make the folder that ``dest`` will lie in. Raises OutputError."""
    try:
        dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise _output_error(e, dest) from e
    check_destination(dest, force=force, keep_out=keep_out)


def require_space(dest: Path, nbytes: int) -> None:
    """Raise OutputError if the file system of ``dest`` has less than ``nbytes`` bytes free."""
    free = shutil.disk_usage(dest.absolute().parent).free
    if free < nbytes:
        raise OutputError(
            f"{dest} needs {nbytes:,} bytes but only {free:,} are free there",
            hint="free some space or choose another disk",
            code="output-disk-full",
        )


@dataclass(slots=True)
class Stage:
    """A folder under construction. It is put in place at the end unless ``keep`` has been set to false."""

    path: Path
    keep: bool = True


@contextmanager
def staged_folder(dest: Path, *, force: bool = False, flush: bool = True) -> Iterator[Stage]:
    """A new hidden folder that becomes ``dest`` when the block ends without an exception.

    ``flush``: have it on the disk under its name before returning, so that a power cut cannot undo it. Raises
    OutputError where the destination cannot be written, the disk-full case included. On any exception nothing is
    left behind and an existing ``dest`` is untouched.
    """
    parent = dest.absolute().parent
    _remove_stale(parent, dest.name)
    stage = Stage(parent / f"{_prefix(dest.name)}{secrets.token_hex(4)}")
    try:
        stage.path.mkdir()
        lock = os.open(stage.path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise _output_error(e, dest) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stage
        if stage.keep:
            if flush:
                os.fsync(lock)
            _put_in_place(stage.path, dest, force=force)
            if flush:
                _sync_folder(parent)
    except OSError as e:
        raise _output_error(e, dest) from e
    finally:
        os.close(lock)
        shutil.rmtree(stage.path, ignore_errors=True)


def write_file(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write a new file and, with ``flush``, wait until it is on the disk."""
    with path.open("xb") as f:
        f.write(data)
        f.flush()
        if flush:
            os.fsync(f.fileno())


def replace_file(path: Path, data: bytes, *, parents: bool = False) -> None:
    """Write a file, with ``parents`` also the folders it lies in; an existing one is replaced in one step, at the end.

    Raises OutputError where it cannot be written; what was there before is then untouched.
    """
    partial: Path | None = None
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            partial = Path(out.name)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except BaseException as e:
        if partial is not None:
            partial.unlink(missing_ok=True)
        if isinstance(e, OSError):
            raise _output_error(e, path) from e
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put_in_place(stage: Path, dest: Path, *, force: bool) -> None:
    if not os.path.lexists(dest):
        os.rename(stage, dest)
        return
    check_destination(dest, force=force)
    old = stage.with_name(stage.name + "-old")
    os.rename(dest, old)
    try:
        os.rename(stage, dest)
    except OSError:
        os.rename(old, dest)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(parent: Path, name: str) -> None:
    """Remove what killed runs for the same destination left; a running one holds the lock of its folder."""
    for left in parent.glob(f"{_prefix(name).replace('[', '[[]')}*"):
        try:
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left.name.endswith("-old") and not os.path.lexists(parent / name):
                os.rename(left, parent / name)
            else:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(fd)


def _prefix(name: str) -> str:
    return f".{name}.eagle3hub-"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _output_error(e: OSError, dest: Path) -> OutputError:
    if e.errno in _FULL:
        return OutputError(
            f"the disk is full (or a size limit was reached) while writing {dest}; nothing was kept",
            hint="free some space or choose another disk",
            code="output-disk-full",
        )
    return OutputError(f"cannot write {dest}: {e.strerror or e}", code="output-unwritable")
