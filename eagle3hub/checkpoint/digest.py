"""SHA-256 of files, and of the files that make up a head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from eagle3hub.checkpoint.source import CONFIG, INDEX, PICKLE_INDEX, PROVENANCE
from eagle3hub.errors import SourceError
from eagle3hub.system.reading import opened

_BUFFER = 2 << 20


class FileSize(TypedDict):
    """One file: ``path`` relative to its folder, ``size`` in bytes."""

    path: str
    size: int


class FileDigest(FileSize):
    """One file, and its ``sha256`` in hex."""

    sha256: str


def file_digest(path: Path, name: str | None = None) -> FileDigest:
    """Hash one file; ``name`` is what to call it, by default its last component."""
    digest = hashlib.sha256()
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    size = 0
    try:
        with opened(path) as f:
            while n := f.readinto(buffer):
                digest.update(view[:n])
                size += n
    except OSError as e:
        raise _unreadable(path, e) from e
    return {"path": name or path.name, "size": size, "sha256": digest.hexdigest()}


def file_size(path: Path) -> FileSize:
    """The size of a file; its bytes are not read."""
    try:
        return {"path": path.name, "size": path.stat().st_size}
    except OSError as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, e: OSError) -> SourceError:
    return SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable")


def head_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that decide what an engine loads: config, index and weights, by name."""
    names = {CONFIG, INDEX, PICKLE_INDEX}
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and p.name != PROVENANCE and (p.name in names or p.suffix in {".safetensors", ".bin", ".pt"})
    )


def folder_digest(folder: Path) -> tuple[str, list[FileDigest]]:
    """Identity of a head folder: ``sha256:…`` over the names and digests of its `head_files`, and those digests."""
    files = [file_digest(p) for p in head_files(folder)]
    return combined_digest({f["path"]: f["sha256"] for f in files}), files


def combined_digest(files: Mapping[str, str]) -> str:
    """One digest, ``sha256:…``, for several by name: `folder_digest` from the SHA-256 of its `head_files`."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def head_digests(sha256: Mapping[str, str]) -> dict[str, str]:
    """Digest by folder (empty: the root) of every head among files, from their SHA-256 by path; as reports name it."""
    names = {CONFIG, INDEX, PICKLE_INDEX}
    inside: dict[str, dict[str, str]] = {}
    for path, digest in sha256.items():
        folder, _, name = path.rpartition("/")
        if name != PROVENANCE and (name in names or Path(name).suffix in {".safetensors", ".bin", ".pt"}):
            inside.setdefault(folder, {})[name] = digest
    return {folder: combined_digest(inside[folder]) for folder in sorted(inside) if CONFIG in inside[folder]}


def release_digest(sha256: Mapping[str, str]) -> str:
    """``sha256:…`` over every head among files (SHA-256 by path) and where it lies; cards and reports do not count."""
    return combined_digest({folder or ".": digest for folder, digest in head_digests(sha256).items()})
