"""Where a checkpoint's files come from: a folder on this machine, or a repository on the Hub."""

from __future__ import annotations

import errno
import json
import re
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.checkpoint.completeness import listed
from eagle3hub.checkpoint.reader import ByteReader, open_local, refuse_pointer
from eagle3hub.errors import ConfigError, SourceError
from eagle3hub.reading import read_bytes

HUB = "hf://"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROVENANCE = "eagle3hub.json"
PICKLE_WEIGHTS = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
TRAINING_STATES = ("training_state.pt", "model.pt")
"""Files of whole training runs: weights, and what else a trainer goes on from."""
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
            hint = f"name the folder that holds {CONFIG}"
            if not self.folder.exists() and (address := _meant(text)) is not None:
                hint += f", or write {address} for a model on the Hub"
            raise SourceError(f"{text} {what}", hint=hint, code="source-missing")
        if CONFIG not in self.names() and (inside := _folders_with_config(self.folder)):
            raise SourceError(
                f"there is no {CONFIG} in {text}",
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
    found = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"snapshots/*/{CONFIG}")]
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


def parse_json_object(raw: bytes, path: Path | str) -> dict[str, Any]:
    """Parse a JSON object. Raises ConfigError naming the file and the place, CheckpointError for a Git LFS pointer."""
    refuse_pointer(raw, path)
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text (byte {e.start})", code="config-json") from e
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path} is not valid JSON: line {e.lineno}: {e.msg}", code="config-json") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not usable JSON: {e}", code="config-json") from e
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object", code="config-json")
    return value
