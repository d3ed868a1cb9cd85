"""Whether a folder, or a file, may be written: what is there already, and whether there is room."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from eagle3hub.checkpoint.folder import PROVENANCE, parse_json_object
from eagle3hub.checkpoint.source import read_small
from eagle3hub.errors import InputError, OutputError

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
        force: allow replacing a folder that this tool wrote (or an empty one).
        keep_out: what must survive: ``dest`` may not be such a file or folder, nor contain it or what a link in it
            leads to. What is not on this machine (a Hub id) is passed over.
        beside: names of what this tool writes there beside the files of a head.
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
    """What the system said when ``dest`` was to be written, as an error of this package."""
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
    foreign = _foreign(dest, beside)
    if not force:
        also = " and holds files this tool did not write" if foreign else ""
        hint = "choose another name" if foreign else "choose another name, or replace it with --force"
        raise OutputError(f"{dest} exists already{also}", hint=hint, code="output-exists")
    if foreign:
        named = ", ".join(foreign[:3]) + (" …" if len(foreign) > 3 else "")
        which = named if (dest / PROVENANCE).is_file() else f"there is no {PROVENANCE}"
        raise OutputError(
            f"{dest} holds files this tool did not write ({which}), so --force does not replace it",
            hint="move elsewhere what you need of them, and remove the rest",
            code="output-foreign",
        )


def _foreign(folder: Path, beside: Collection[str]) -> list[str]:
    """Names of what lies in ``folder`` and is neither in the record beside a head nor among ``beside``."""
    try:
        record = parse_json_object(read_small(folder / PROVENANCE) or b"{}", folder / PROVENANCE)
    except InputError:
        record = {}
    files = record.get("files")
    listed = {str(f.get("path")) for f in files if isinstance(f, dict)} if isinstance(files, list) else set()
    ours = {PROVENANCE, *beside, *listed} if record else set()
    return sorted(p.name for p in folder.iterdir() if p.name not in ours)
