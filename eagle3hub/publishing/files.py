"""Read the files of a release folder, each file once for all digests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.card.folder import CARD as CARD
from eagle3hub.checkpoint.digest import head_digests
from eagle3hub.errors import SourceError
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import opened, read_text

SUMS = "SHA256SUMS"
"""The list of digests: the SHA-256 of every other published file, in the format of ``sha256sum --check``."""
_CHUNK = 2 << 20
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish.

    Attributes:
        path: its path in the repository.
        source: its bytes, or the path of the file on this machine.
        size: its size in bytes.
        sha256: the SHA-256 of its bytes, in hexadecimal digits.
        blob_id: git's name for its bytes, because the Hub states the SHA-256 of large files only.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str
    blob_id: str

    @property
    def name(self) -> str:
        """The last component of its path."""
        return self.path.rpartition("/")[2]

    def head(self, count: int) -> bytes:
        """Return the first ``count`` bytes."""
        if isinstance(self.source, bytes):
            return self.source[:count]
        with opened(self.source) as f:
            return f.read(count)


def read_folder(folder: Path, progress: Progress = silent) -> tuple[list[LocalFile], list[str]]:
    """Return every regular file under ``folder``, sorted by path, and the paths of all links and special files.

    Links are not followed. The list of digests of an earlier publication is left out, because a new one is made.
    Raises SourceError.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder", hint="name the folder of a release", code="source-missing")
    links: list[str] = []
    paths: list[Path] = []
    for here, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(here, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                links.append(path.relative_to(folder).as_posix())
            elif path.is_file() and path != folder / SUMS:
                paths.append(path)
    files = []
    for number, path in enumerate(sorted(paths), 1):
        name = path.relative_to(folder).as_posix()
        progress(f"reading file {number} of {len(paths)}")  # no names: a name may hold a secret
        files.append(_read(path, name))
    return files, sorted(links)


def file_of_bytes(path: str, data: bytes) -> LocalFile:
    """Make a file for the publication from its bytes."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return LocalFile(path, data, len(data), hashlib.sha256(data).hexdigest(), blob.hexdigest())


def digest_list(files: Sequence[LocalFile]) -> LocalFile:
    """Make the list of digests of ``files``."""
    lines = "".join(f"{f.sha256}  {f.path}\n" for f in sorted(files, key=lambda f: f.path))
    return file_of_bytes(SUMS, lines.encode())


def read_digest_list(path: Path) -> dict[str, str]:
    """Read a list of digests from a file: SHA-256 by path. Raises SourceError if it is not such a list."""
    try:
        text = read_text(path)
    except OSError as e:
        raise SourceError(f"cannot read {SUMS}: {e.strerror}", code="source-sums") from e
    return parse_digest_list(text)


def parse_digest_list(text: str) -> dict[str, str]:
    """Parse a list of digests: SHA-256 by path. Raises SourceError if it is not such a list."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _SUM.fullmatch(line)
        if match is None or match[2] in found:
            raise SourceError(f"{SUMS} is not a list of digests", code="source-sums")
        found[match[2]] = match[1]
    return found


def head_folders(files: Sequence[LocalFile]) -> dict[str, str]:
    """Return the folder (empty for the root) and digest of every head in ``files``, as reports name them."""
    return head_digests({f.path: f.sha256 for f in files})


def whole_digest(folder: Path, progress: Progress = silent) -> str:
    """Return ``sha256:…`` over every file of a folder: weights, cards, reports, charts, lists.

    It is the SHA-256 of the lines that ``sha256sum`` prints for the files, sorted by the bytes of their paths. Raises
    SourceError if the folder cannot be read, or if it holds a link or a special file.
    """
    files, links = read_folder(folder, progress)
    if links:
        raise SourceError(
            f"{folder} holds {links[0]}, which is a link or a special file",
            hint="a digest covers files only: take it out",
            code="source-unreadable",
        )
    if (folder / SUMS).exists():
        files.append(_read(folder / SUMS, SUMS))
    lines = sorted((os.fsencode(f.path), f.sha256.encode()) for f in files)
    return "sha256:" + hashlib.sha256(b"".join(_line(path, digest) for path, digest in lines)).hexdigest()


def _line(path: bytes, digest: bytes) -> bytes:
    """Return the line of ``sha256sum``. A path that could look like several lines is escaped and marked."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"\\" * (escaped != path) + digest + b"  " + escaped + b"\n"


def files_in(files: Sequence[LocalFile], folder: str) -> Iterator[LocalFile]:
    """Return the files directly in one folder, without those of its sub-folders."""
    return (f for f in files if f.path.rpartition("/")[0] == folder)


def _read(path: Path, name: str) -> LocalFile:
    try:
        size = path.stat().st_size
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        seen = 0
        with opened(path) as f:
            while data := f.read(_CHUNK):
                sha256.update(data)
                blob.update(data)
                seen += len(data)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e
    if seen != size:
        raise SourceError(f"{path} changed while it was read", hint="run it again", code="source-moved")
    return LocalFile(name, path, size, sha256.hexdigest(), blob.hexdigest())
