"""The files of a release folder, each read once for every digest that is needed."""

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
"""Digests of every other published file, as ``sha256sum --check`` reads them."""
_CHUNK = 2 << 20
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish: its path in the repository, its bytes or where they are, and what they amount to.

    ``blob_id`` is git's name for the bytes: the Hub tells the SHA-256 of large files only.
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
        """Its first bytes."""
        if isinstance(self.source, bytes):
            return self.source[:count]
        with opened(self.source) as f:
            return f.read(count)


def read_folder(folder: Path, progress: Progress = silent) -> tuple[list[LocalFile], list[str]]:
    """Every regular file under ``folder`` by path, and every link, which is not followed.

    A list of digests from an earlier publication is left out: it is made anew. Raises SourceError.
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
        progress(f"reading file {number} of {len(paths)}")  # a name may hold a secret
        files.append(_read(path, name))
    return files, sorted(links)


def file_of_bytes(path: str, data: bytes) -> LocalFile:
    """A file that is made for the publication."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return LocalFile(path, data, len(data), hashlib.sha256(data).hexdigest(), blob.hexdigest())


def digest_list(files: Sequence[LocalFile]) -> LocalFile:
    """The list of digests of ``files``."""
    lines = "".join(f"{f.sha256}  {f.path}\n" for f in sorted(files, key=lambda f: f.path))
    return file_of_bytes(SUMS, lines.encode())


def read_digest_list(path: Path) -> dict[str, str]:
    """SHA-256 by path from a list in a file. Raises SourceError for anything that is no such list."""
    try:
        text = read_text(path)
    except OSError as e:
        raise SourceError(f"cannot read {SUMS}: {e.strerror}", code="source-sums") from e
    return parse_digest_list(text)


def parse_digest_list(text: str) -> dict[str, str]:
    """SHA-256 by path. Raises SourceError for anything that is no such list."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _SUM.fullmatch(line)
        if match is None or match[2] in found:
            raise SourceError(f"{SUMS} is not a list of digests", code="source-sums")
        found[match[2]] = match[1]
    return found


def head_folders(files: Sequence[LocalFile]) -> dict[str, str]:
    """Digest by folder (empty: the root) of every head among ``files``, as reports name it."""
    return head_digests({f.path: f.sha256 for f in files})


def whole_digest(folder: Path, progress: Progress = silent) -> str:
    """``sha256:…`` over every file of a folder, whatever it is, by path: weights, cards, reports, charts, lists.

    It is the SHA-256 of what ``sha256sum`` prints for them, in the order of their paths' bytes. Raises SourceError
    where the folder cannot be read, or holds a link or a special file.
    """
    files, links = read_folder(folder, progress)
    if links:
        raise SourceError(
            f"{folder} holds {links[0]}, which is a link or a special file",
            hint="a digest is over files; take it out",
            code="source-unreadable",
        )
    if (folder / SUMS).exists():
        files.append(_read(folder / SUMS, SUMS))
    lines = sorted((os.fsencode(f.path), f.sha256.encode()) for f in files)
    return "sha256:" + hashlib.sha256(b"".join(_line(path, digest) for path, digest in lines)).hexdigest()


def _line(path: bytes, digest: bytes) -> bytes:
    """A line of ``sha256sum``: a path that could be taken for several lines is escaped, and marked as that."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"\\" * (escaped != path) + digest + b"  " + escaped + b"\n"


def files_in(files: Sequence[LocalFile], folder: str) -> Iterator[LocalFile]:
    """The files of one folder, without those of its sub-folders."""
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
