"""Folders in the temporary directory that last as long as a piece of work, and no longer than this process.

Whoever makes one holds the lock of it. The kernel frees the lock when the process ends, however that ends, so that the
next one to make a folder can tell what SIGKILL left behind from what is in use.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eagle3hub.checkpoint.destination import output_error
from eagle3hub.checkpoint.staging import begin_folder, remove_folder
from eagle3hub.system.signals import held

_PREFIX = "eagle3hub-scratch-"
_NAME = re.compile(rf"{_PREFIX}[0-9a-f]{{16}}")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder, for this user alone, that is removed when the block ends.

    Folders that killed processes of this user left are removed first. Raises OutputError where none can be made.
    """
    remove_abandoned()
    lock, folder = -1, Path()
    try:
        try:
            try:
                with held():
                    folder = Path(tempfile.gettempdir()).resolve() / f"{_PREFIX}{secrets.token_hex(8)}"
                    lock = begin_folder(folder, mode=0o700)
            except OSError as e:
                raise output_error(e, folder) from e
            yield folder
        finally:
            _remove(folder, lock)
    finally:  # once more: a signal may have come on the way into the first, and no second one raises
        _remove(folder, lock)
        if lock >= 0:
            os.close(lock)


def _remove(folder: Path, lock: int) -> None:
    if lock >= 0 and os.path.lexists(folder):
        with held():
            remove_folder(folder)


def remove_abandoned() -> None:
    """Remove scratch folders of this user that no living process holds; what is anybody else's is left alone."""
    try:
        found = [Path(e.path) for e in os.scandir(tempfile.gettempdir()) if _NAME.fullmatch(e.name)]
    except OSError:  # none can be made there either, which who tries to will say
        return
    for folder in found:
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_folder(folder)
            finally:
                os.close(lock)
