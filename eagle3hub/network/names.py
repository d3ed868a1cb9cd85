"""Check the names that a server sends, before they become parts of paths and addresses or are printed.

Git forbids ``.``, ``..`` and empty parts in paths, and more in the names of branches (git-check-ref-format(1)).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from eagle3hub.network.bounds import Exceeded

OID = re.compile(r"[0-9a-f]{40}", re.ASCII)
"""A git object id: of a commit, or of the blob of a file."""
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ETAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=-]{0,127}", re.ASCII)
_REF = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,250}")
_PULL = re.compile(r"refs/pr/[0-9]{1,12}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_SHOWN = 60


def oid(value: object, what: str) -> str:
    """Return a git object id. Raises Exceeded (``name``) for anything else."""
    return _matching(OID, value, what)


def sha256(value: object, what: str) -> str:
    """Return a SHA-256 in hexadecimal digits. Raises Exceeded (``name``) for anything else."""
    return _matching(SHA256, value, what)


def etag(value: object, what: str) -> str:
    """Return an ETag that is safe as the name of a file. Raises Exceeded (``name``) for anything else."""
    return _matching(_ETAG, value, what)


def word(value: object, what: str) -> str:
    """Return the name of an account or the id of a job. Raises Exceeded (``name``) for anything else."""
    return _matching(_WORD, value, what)


def path(value: object) -> str:
    """Return the path of a file in a repository: relative, printable, and inside the repository.

    Raises Exceeded (``name``) for anything else.
    """
    if (
        not isinstance(value, str)
        or len(value) > 1000
        or not value.isprintable()
        or "\\" in value
        or any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in value.split("/"))
    ):
        raise Exceeded("name", f"it lists a file as {quoted(value)}, which is not a path in a repository")
    return value


def ref(value: object, what: str) -> str:
    """Return the name of a branch or tag. Raises Exceeded (``name``) for a name that git does not accept."""
    if (
        not isinstance(value, str)
        or not _REF.fullmatch(value)
        or not value.isprintable()
        or ".." in value
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in value.split("/"))
    ):
        raise Exceeded("name", f"it names a {what} {quoted(value)}")
    return value


def pull(value: object) -> str:
    """Return the ref of a pull request. Raises Exceeded (``name``) for anything else."""
    return _matching(_PULL, value, "ref of a pull request")


def address(value: object, origin: str) -> str:
    """Return a web address under ``origin`` (scheme and host). Raises Exceeded (``name``) for anything else."""
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > 1000:
        raise Exceeded("name", f"it gives {quoted(value)} as an address")
    if origin_of(value) != origin_of(origin):
        raise Exceeded("name", f"it gives {quoted(value)} as one of its own addresses")
    return value


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an http address, or None for anything else."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return None
    if split.scheme not in {"http", "https"} or not split.hostname:
        return None
    return split.scheme, split.hostname.lower(), port or (443 if split.scheme == "https" else 80)


def quoted(value: object) -> str:
    """Return what a server said as part of a sentence, in quotes and cut if it is long."""
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _matching(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Exceeded("name", f"its {what} is {quoted(value)}")
    return value
