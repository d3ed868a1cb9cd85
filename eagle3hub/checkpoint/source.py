"""Where a checkpoint's files come from: a folder on this machine, or a repository on the Hub."""

from __future__ import annotations

import errno
import re
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from eagle3hub.checkpoint.completeness import listed
from eagle3hub.checkpoint.reader import ByteReader, open_local
from eagle3hub.errors import ConfigError, SourceError
from eagle3hub.progress import Progress, silent
from eagle3hub.reading import read_bytes

HUB = "hf://"
_CONFIG = "config.json"
_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_PAGE = re.compile(
    rf"https?://(?:huggingface\.co|hf\.co)/(?P<repo>{_REPO})(?:/tree/(?P<revision>[^/]+)(?P<folder>/.+?)?)?/?"
)
_BARE = re.compile(rf"(?:hf:/?)?({_REPO}(?:@[^/@\s]+)?)")
MAX_JSON_BYTES = 2_000_000
"""Parsed JSON takes up to 28 times its size, and a folder has three such files."""


class Source(Protocol):
    """A flat set of files, some small (JSON) and some large (weights)."""

    @property
    def name(self) -> str:
        """What the source is called from here on; a Hub source is pinned to a commit."""

    @property
    def folder(self) -> Path:
        """The folder that holds its files on this machine, those that have been downloaded."""

    def names(self) -> set[str]:
        """Names of the files directly in it."""

    def small(self, name: str) -> bytes | None:
        """A small file, or None where there is none of that name."""

    def weights(self, name: str) -> AbstractContextManager[ByteReader]:
        """A weights file, for bounded reads."""

    def shown(self, name: str) -> str:
        """What messages call a file."""


class FolderSource:
    """A folder on this machine. Raises SourceError where there is none, or where the head is in a folder in it."""

    def __init__(self, text: str) -> None:
        self.name = text
        self.folder = Path(text).expanduser()
        if not is_folder(self.folder):
            what = "is a file, not a folder" if self.folder.exists() else "does not exist"
            hint = f"name the folder that holds {_CONFIG}"
            if not self.folder.exists() and (address := _meant(text)) is not None:
                hint += f", or write {address} for a model on the Hub"
            raise SourceError(f"{text} {what}", hint=hint, code="source-missing")
        if _CONFIG not in self.names() and (inside := _folders_with_config(self.folder)):
            raise SourceError(
                f"there is no {_CONFIG} in {text}",
                hint=f"name a folder in it that has one: {listed(inside)}",
                code="source-no-config",
            )

    def names(self) -> set[str]:
        """Names of the files directly in it, links to files included."""
        try:
            return {p.name for p in self.folder.iterdir() if p.is_file()}
        except OSError as e:
            raise SourceError(f"cannot read {self.name}: {e.strerror}", code="source-unreadable") from e

    def small(self, name: str) -> bytes | None:
        """A small file, or None where there is none of that name."""
        return read_small(self.folder / name)

    def weights(self, name: str) -> AbstractContextManager[ByteReader]:
        """A weights file, for bounded reads."""
        return open_local(self.folder / name)

    def shown(self, name: str) -> str:
        """What messages call a file."""
        return str(self.folder / name)


def open_source(source: str | Path, *, headers_only: bool = False, progress: Progress = silent) -> Source:
    """The source a user named: ``hf://owner/name[@revision][/subfolder]``, else a folder.

    Args:
        headers_only: leave the weights of a Hub source where they are and read small ranges of them.
        progress: told about downloads.
    """
    text = str(source)
    if text.startswith(HUB):
        from eagle3hub.checkpoint.remote import HubSource

        return HubSource(text, headers_only=headers_only, progress=progress)
    return FolderSource(text)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name. Raises SourceError where that cannot be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e


def _folders_with_config(folder: Path) -> list[str]:
    """The folders in a folder, or of a repository in the Hub cache, that hold a config.json."""
    found = [*folder.glob(f"*/{_CONFIG}"), *folder.glob(f"snapshots/*/{_CONFIG}")]
    return sorted(str(path.parent) for path in found if not path.parent.name.startswith("."))


def _meant(text: str) -> str | None:
    """The address of the model on the Hub that somebody may mean who names it otherwise, or None."""
    if page := _PAGE.fullmatch(text):
        at = f"@{page['revision']}" if page["revision"] else ""
        return f"{HUB}{page['repo']}{at}{page['folder'] or ''}"
    return f"{HUB}{bare[1]}" if (bare := _BARE.fullmatch(text)) else None


def read_small(path: Path) -> bytes | None:
    """A small local file, or None where there is none. Raises SourceError, or ConfigError where it is not small."""
    try:
        return read_bytes(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    except OSError as e:
        if e.errno == errno.EFBIG:
            raise ConfigError(f"{path} is larger than {MAX_JSON_BYTES} bytes", code="config-json") from e
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e
