"""Where a head, a target or a card is: on this machine, or on the Hub.

Every command, function and file reads an address by the one rule of `parse_address`:

    hf://owner/name[@revision][/folder]     a repository on the Hub, or a folder in it
    anything that exists here               a path: a folder wins over a repository of the same name
    owner/name[@revision]                   a repository on the Hub
    anything else                           a path, which does not exist

What a place may be depends on its role: a target is a whole repository, so `target_address` refuses a folder in one.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote

from eagle3hub.errors import SourceError

HUB = "hf://"
"""What the address of a repository begins with."""
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_ID = rf"{_PART}/{_PART}"
_HUB_ID = re.compile(_ID, re.ASCII)
_REVISION = r"refs/(?:pr/[0-9]+|convert/\w+)|[^/@\s]+"
_FULL = re.compile(rf"(?P<repo>{_ID})(?:@(?P<revision>{_REVISION}))?(?:/(?P<folder>[^\s].*))?", re.ASCII)
_BARE = re.compile(rf"(?P<repo>{_ID})(?:@(?P<revision>{_REVISION}))?", re.ASCII)
_FILE = re.compile(r".*\.(?:safetensors|bin|pt|npy|json|jsonl|ya?ml|md|markdown)(?:@.*)?", re.IGNORECASE)
"""Names that only files have: they are never looked up on the Hub."""
_PAGE = re.compile(
    rf"https?://(?:huggingface\.co|hf\.co)/(?P<repo>{_ID})(?:/tree/(?P<revision>[^/]+)(?P<folder>/.+?)?)?/?", re.ASCII
)
_MISSPELT = re.compile(rf"(?:hf:/?)?({_ID}(?:@[^/@\s]+)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A file or folder on this machine. ``text`` is what was given, ``path`` the same with ``~`` replaced."""

    text: str
    path: Path

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository on the Hub, or a folder in it.

    Attributes:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; None for the default branch.
        folder: folder in the repository; empty for its root.
        bare: whether it was given without ``hf://``, as the path of a folder could be.
    """

    repo_id: str
    revision: str | None = None
    folder: str = ""
    bare: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{HUB}{self.repo_id}{self._at}" + (f"/{self.folder}" if self.folder else "")

    @property
    def model_id(self) -> str:
        """``owner/name[@revision]``: what a target is called."""
        return f"{self.repo_id}{self._at}"

    @property
    def is_hidden(self) -> bool:
        """Whether something on this machine has the name of the repository, so that libraries would take that."""
        return _is_here(Path(self.repo_id))

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo_id.partition("/")[2]

    def file(self, name: str) -> str:
        """The path in the repository of a file in this place."""
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def _at(self) -> str:
        if not self.revision:
            return ""
        return f"@{self.revision if self.revision.startswith('refs/') else quote(self.revision, safe='')}"


Address: TypeAlias = LocalAddress | HubAddress


def parse_address(given: str | os.PathLike[str] | Address, base: Path | None = None) -> Address:
    """The address that a text or a path means; see the rule at the top of this module.

    Args:
        given: a `Path` always means this machine. In ``hf://owner/name@revision`` a slash of a branch is ``%2F``.
        base: folder that a relative path starts from; None for the current one.

    Raises SourceError (``source-hub-address``) for a text that begins with ``hf://`` and is no address.
    """
    if isinstance(given, LocalAddress | HubAddress):
        return given
    text = os.fspath(given)
    if text.startswith(HUB):
        return parse_hub_address(text)
    found = _BARE.fullmatch(text) if isinstance(given, str) else None
    if found is not None and not _FILE.fullmatch(text) and not _is_here((base or Path()) / text):
        return _hub(found["repo"], found["revision"], "", bare=True)
    path = Path(text).expanduser() if text.startswith("~") else Path(text)
    if base is not None:
        return LocalAddress(str(base / path), base / path)
    return LocalAddress(text, path)


def parse_hub_address(text: str) -> HubAddress:
    """The address of a repository, with or without ``hf://``. Raises SourceError (``source-hub-address``)."""
    match = _FULL.fullmatch(text.removeprefix(HUB).rstrip("/"))
    folder = (match["folder"] or "") if match else ""
    if match is None or any(part in {"", ".", ".."} for part in folder.split("/") if folder) or "\\" in folder:
        raise SourceError(
            f"{text} is not the address of a model on the Hub",
            hint="write hf://owner/name, hf://owner/name@revision or hf://owner/name@revision/subfolder",
            code="source-hub-address",
        )
    return _hub(match["repo"], match["revision"], folder)


def target_address(given: str | os.PathLike[str] | Address) -> Address:
    """The address of a target: a folder that exists, or a whole repository.

    Raises SourceError (``source-target``) for anything else.
    """
    try:
        at = parse_address(given)
    except SourceError:
        at = None
    if (isinstance(at, HubAddress) and not at.folder) or (isinstance(at, LocalAddress) and is_folder(at.path)):
        return at
    raise SourceError(
        f"the target {given} is neither a folder nor a Hub id",
        hint="name a folder with the target's config.json, or owner/name on the Hub",
        code="source-target",
    )


def head_address(given: str | os.PathLike[str] | Address) -> Address:
    """The address of a head: a folder that exists, or a place on the Hub.

    Raises SourceError (``source-head``) for anything else, and ``source-hub-address``.
    """
    at = parse_address(given)
    if isinstance(at, LocalAddress) and not is_folder(at.path):
        raise SourceError(
            f"the head {str(given)!r} is not a folder",
            hint="name the folder, or a repository as hf://owner/name",
            code="source-head",
        )
    return at


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name. Raises SourceError where that cannot be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e


def is_hub_id(text: str) -> bool:
    """Whether this is a name that a model may have on the Hub: ``owner/name``."""
    return _HUB_ID.fullmatch(text) is not None


def missing(text: str) -> SourceError:
    """The error for a place that exists neither on this machine nor on the Hub."""
    hint = "name the folder that holds config.json"
    if (address := suggested(text)) is not None:
        hint += f", or write {address} for a model on the Hub"
    return SourceError(f"{text} does not exist", hint=hint, code="source-missing")


def suggested(text: str) -> str | None:
    """The ``hf://`` address that somebody may mean who gives a web page or a misspelt address; None for others."""
    if page := _PAGE.fullmatch(text):
        at = f"@{page['revision']}" if page["revision"] else ""
        return f"{HUB}{page['repo']}{at}{page['folder'] or ''}"
    return f"{HUB}{found[1]}" if (found := _MISSPELT.fullmatch(text)) else None


def _is_here(path: Path) -> bool:
    """Whether there is something of that name, a broken link included, or a folder that may not be looked into."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _hub(repo: str, revision: str | None, folder: str, *, bare: bool = False) -> HubAddress:
    return HubAddress(repo, unquote(revision) if revision else None, folder, bare)
