"""Files that a manifest includes by pattern."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import translate
from pathlib import Path

from eagle3hub.errors import ManifestError

MOST = 20_000
"""Names that are looked at for one pattern: it is to name reports, not to search a disk."""
_WILD = re.compile(r"[*?\[]")


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files below ``folder`` that the patterns name, sorted, each once.

    A pattern is that of `glob.glob`, except that ``**`` does not follow links. Raises ManifestError for one that no
    file can fit, or for which more than `MOST` names would have to be looked at.
    """
    found: set[Path] = set()
    for pattern in patterns:
        if "\0" in pattern:
            raise ManifestError(f"the pattern {pattern!r} has a NUL in it", code="manifest-pattern")
        found |= set(_Search(folder, pattern).files())
    return sorted(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link that may not be followed, a name that is too long
        return False


class _Search:
    def __init__(self, folder: Path, pattern: str) -> None:
        self._pattern = pattern
        self._left = MOST
        path = Path(pattern)
        self._start = Path(path.anchor) if path.is_absolute() else folder
        self._parts = path.parts[1:] if path.is_absolute() else path.parts

    def files(self) -> Iterator[Path]:
        return (path for path in self._below(self._start, self._parts) if _is_file(path))

    def _below(self, here: Path, parts: Sequence[str]) -> Iterator[Path]:
        if not parts:
            yield here
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._below(here, rest)
            for entry in self._entries(here, "*"):
                if entry.is_dir(follow_symlinks=False):
                    yield from self._below(here / entry.name, parts)
                elif not rest:
                    yield here / entry.name
        elif _WILD.search(part):
            for entry in self._entries(here, part):
                yield from self._below(here / entry.name, rest)
        else:
            yield from self._below(here / part, rest)

    def _entries(self, here: Path, part: str) -> Iterator[os.DirEntry[str]]:
        """What lies in a folder and fits; what begins with a dot only where the pattern does."""
        fits = re.compile(translate(part)).match
        try:
            with os.scandir(here) as inside:
                entries = []
                for entry in inside:
                    self._left -= 1
                    if self._left < 0:
                        raise ManifestError(
                            f"the pattern {self._pattern!r} would look at more than {MOST:,} files",
                            hint="name the folder that the files are in, as in reports/*.json",
                            code="manifest-pattern",
                        )
                    entries.append(entry)
        except OSError:
            return
        for entry in entries:
            if fits(entry.name) and (entry.name[0] != "." or part[0] == "."):
                yield entry
