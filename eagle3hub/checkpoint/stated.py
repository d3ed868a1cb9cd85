"""What a listing of the Hub states of a file, and whether a file is that one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_BUFFER = 2 << 20


@dataclass(frozen=True, slots=True)
class Stated:
    """A file as the Hub lists it; None for what it does not say.

    Attributes:
        size: bytes. blob_id: git's id of the file, or of the pointer that stands for a file in LFS.
        sha256: of a file in LFS.
    """

    size: int | None = None
    blob_id: str | None = None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """What the bytes are known by."""
        return self.sha256 or self.blob_id


def holds(path: Path, stated: Stated) -> bool:
    """Whether a file has the bytes that are stated; True where nothing is stated of them."""
    if stated.size is not None and path.stat().st_size != stated.size:
        return False
    if stated.digest is None:
        return True
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), _git_id(size)
    with path.open("rb", buffering=0) as f:
        while data := f.read(_BUFFER):
            sha256.update(data)
            if stated.sha256 is None:
                blob.update(data)
    if stated.sha256 is not None:
        return sha256.hexdigest() == stated.sha256
    # Of a file in LFS a listing without its SHA-256 states the id of the pointer (git-lfs, docs/spec.md).
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256.hexdigest()}\nsize {size}\n".encode()
    pointer = _git_id(len(text))
    pointer.update(text)
    return stated.blob_id in {blob.hexdigest(), pointer.hexdigest()}


def _git_id(size: int) -> hashlib._Hash:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
