"""What a server may call things: names that are joined into paths and addresses, or printed, are checked here first.

Git forbids the parts ``.``, ``..`` and empty ones in paths, and more in names of branches (git-check-ref-format(1)).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from eagle3hub.network.bounds import Exceeded

OID = re.compile(r"[0-9a-f]{40}", re.ASCII)
"""A git object id: of a commit, or of a file's blob."""
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ETAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+=-]{0,127}", re.ASCII)
_REF = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,250}")
_PULL = re.compile(r"refs/pr/[0-9]{1,12}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_SHOWN = 60


def oid(value: object, what: str) -> str:
    """A git object id. Raises Exceeded (``name``) for anything else."""
    return _matching(OID, value, what)


def sha256(value: object, what: str) -> str:
    """A SHA-256 in hexadecimal digits. Raises Exceeded (``name``) for anything else."""
    return _matching(SHA256, value, what)


def etag(value: object, what: str) -> str:
    """An ETag that is safe as the name of a file. Raises Exceeded (``name``) for anything else."""
    return _matching(_ETAG, value, what)


def word(value: object, what: str) -> str:
    """An account's name or a job's id. Raises Exceeded (``name``) for anything else."""
    return _matching(_WORD, value, what)


def path(value: object) -> str:
    """A file's path in a repository: relative, printable, and nowhere above it. Raises Exceeded (``name``)."""
    if (
        not isinstance(value, str)
        or len(value) > 1000
        or not value.isprintable()
        or "\\" in value
        or any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in value.split("/"))
    ):
        raise Exceeded("name", f"it lists a file as {quoted(value)}, which is no path in a repository")
    return value


def ref(value: object, what: str) -> str:
    """The name of a branch or a tag. Raises Exceeded (``name``) for what git would not take."""
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
    """The ref of a pull request. Raises Exceeded (``name``) for anything else."""
    return _matching(_PULL, value, "ref of a pull request")


def address(value: object, origin: str) -> str:
    """A web address under ``origin`` (scheme and host). Raises Exceeded (``name``) for any other."""
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > 1000:
        raise Exceeded("name", f"it gives {quoted(value)} as an address")
    if origin_of(value) != origin_of(origin):
        raise Exceeded("name", f"it gives {quoted(value)} as an address of its own")
    return value


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an http address, or None for what is none."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return None
    if split.scheme not in {"http", "https"} or not split.hostname:
        return None
    return split.scheme, split.hostname.lower(), port or (443 if split.scheme == "https" else 80)


def quoted(value: object) -> str:
    """Something a server said, as part of a sentence."""
    text = repr(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _matching(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Exceeded("name", f"its {what} is {quoted(value)}")
    return value
