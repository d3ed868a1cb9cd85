"""Whether files are still those that were looked at, which takes no reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from eagle3hub.errors import Eagle3HubError, SourceError

State = tuple[int, int, int]


def look(paths: Iterable[Path]) -> dict[Path, State]:
    """The file each path leads to: its inode, size in bytes and last change in ns. No entry where there is none."""
    return {path: state for path in paths if (state := _state(path)) is not None}


@contextmanager
def unchanged(seen: Mapping[Path, State]) -> Iterator[None]:
    """Raise SourceError if, when the block ends, a file is no longer as ``seen``, instead of what came of that."""
    try:
        yield
    except (Eagle3HubError, OSError):
        _compare(seen)
        raise
    _compare(seen)


def changed(what: Path | str, how: str = "changed") -> SourceError:
    """The error of a source that is being written."""
    return SourceError(
        f"{what} {how} while it was converted; nothing was kept",
        hint="wait until whatever writes it (a trainer, a download) has finished, then run it again",
        code="source-changed",
    )


def _compare(seen: Mapping[Path, State]) -> None:
    for path, state in seen.items():
        now = _state(path)
        if now != state:
            raise changed(path, "was removed" if now is None else "changed")


def _state(path: Path) -> State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
