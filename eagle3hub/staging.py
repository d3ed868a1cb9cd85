"""Build a folder, or a file, out of sight, then put it in place in one step.

The destination is either absent or complete, whatever happens in between: the work goes into a hidden sibling
folder that is renamed at the end. A sibling left behind by a killed process is removed by the next run.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.destination import check_destination, output_error

_OLD = "-old"


def prepare_destination(
    dest: Path, *, force: bool, keep_out: Iterable[str | Path] = (), beside: Collection[str] = ()
) -> None:
    """As `check_destination`, and make the folder that ``dest`` will lie in. Raises OutputError."""
    try:
        dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise output_error(e, dest) from e
    remove_leftovers(dest)
    check_destination(dest, force=force, keep_out=keep_out, beside=beside)


@dataclass(slots=True)
class Stage:
    """A folder under construction. It is put in place at the end unless ``keep`` has been set to false.

    ``left`` is then what could not be removed of the folder it replaced.
    """

    path: Path
    keep: bool = True
    left: Path | None = None


@contextmanager
def staged_folder(
    dest: Path, *, force: bool = False, flush: bool = True, beside: Collection[str] = ()
) -> Iterator[Stage]:
    """A new hidden folder that becomes ``dest`` when the block ends without an exception.

    ``force`` and ``beside`` are those of `check_destination`. ``flush``: have it on the disk under its name before
    returning, so that a power cut cannot undo it. Raises OutputError where the destination cannot be written, the
    disk-full case included. On any exception nothing is left behind and an existing ``dest`` is untouched.
    """
    parent = dest.absolute().parent
    remove_leftovers(dest)
    stage = Stage(parent / f"{_prefix(dest.name)}{secrets.token_hex(4)}")
    try:
        stage.path.mkdir()
        lock = os.open(stage.path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise output_error(e, dest) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stage
        if stage.keep:
            if flush:
                os.fsync(lock)
            stage.left = _put_in_place(stage.path, dest, force=force, beside=beside)
            if flush:
                _sync_folder(parent)
    except OSError as e:
        raise output_error(e, dest) from e
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
            raise output_error(e, path) from e
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(dest: Path) -> None:
    """Remove what killed runs for the same destination left; a running one holds the lock of its folder.

    What a run had put aside and not yet replaced gets its name back.
    """
    try:
        found = set(dest.absolute().parent.glob(f"{glob.escape(_prefix(dest.name))}*"))
    except OSError:  # nothing can be written there either, which who tries to will say
        return
    aside = {path for path in found if path.name.endswith(_OLD)}
    for stage in found - aside:
        try:
            lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.lexists(_old_of(stage)) and not os.path.lexists(dest):
                os.rename(_old_of(stage), dest)
            _remove(stage)
        except OSError:
            pass
        finally:
            os.close(lock)
    for old in aside:
        if not os.path.lexists(old.with_name(old.name.removesuffix(_OLD))):
            _remove(old)


def _put_in_place(stage: Path, dest: Path, *, force: bool, beside: Collection[str]) -> Path | None:
    """Give ``stage`` its name. Returns what is left of the folder it replaced, None where that could be removed."""
    if not os.path.lexists(dest):
        os.rename(stage, dest)
        return None
    check_destination(dest, force=force, beside=beside)
    old = _old_of(stage)
    os.rename(dest, old)
    try:
        os.rename(stage, dest)
    except OSError:
        os.rename(old, dest)
        raise
    return None if _remove(old) else old


def _remove(folder: Path) -> bool:
    """Whether ``folder`` and all in it could be removed, also out of folders that may not be written to."""
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
    """What the folder that ``stage`` replaces is called meanwhile; until then ``stage`` is there as well."""
    return stage.with_name(stage.name + _OLD)


def _prefix(name: str) -> str:
    return f".{name}.eagle3hub-"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
