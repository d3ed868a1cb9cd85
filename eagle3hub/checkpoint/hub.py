"""The Hub through its own client, with limits, checked names and errors a user can act on."""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin

from eagle3hub._version import __version__
from eagle3hub.errors import Eagle3HubError, HubError
from eagle3hub.network import names
from eagle3hub.network.bounds import TIMEOUT, Exceeded, Operation, current, operation
from eagle3hub.network.transport import bound
from eagle3hub.system.progress import Progress, silent, tell, tell_after, tell_bytes

# What the Hub's listing states about a file, and whether a file matches it.


_BUFFER = 2 << 20


@dataclass(frozen=True, slots=True)
class Stated:
    """A file as the Hub lists it; None for what the Hub does not state.

    Attributes:
        size: bytes. blob_id: git's id of the file, or of the pointer that stands for a file in LFS.
        sha256: of a file in LFS.
    """

    size: int | None = None
    blob_id: str | None = None
    sha256: str | None = None

    @property
    def digest(self) -> str | None:
        """The digest that identifies the bytes."""
        return self.sha256 or self.blob_id


def holds(path: Path, stated: Stated) -> bool:
    """Whether a file matches what is stated; True if nothing is stated."""
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


# Checks of every request that huggingface_hub makes: what the Hub may ask of it, and which names the Hub may use.
#
# huggingface_hub joins an ETag and a commit into paths of its cache as they come, sends the access token to wherever
# an upload's instructions point, follows ``Link: rel=next`` with the token, and waits as long as ``Retry-After`` says
# (2.4.0: ``file_download.py``, ``lfs.py``, ``utils/_pagination.py``, ``utils/_http.py``).


LONGEST_WAIT = 20
"""Seconds that a server may ask to wait before another try."""
UNSTATED_SIZE = 64 << 20
"""The most bytes of a file whose size nobody states."""
_RATE_LIMIT = re.compile(r"\br\s*=\s*(\d{1,18})\s*;\s*t\s*=\s*(\d{1,18})", re.ASCII)
_FILE = re.compile(r"/resolve(-cache)?/", re.ASCII)
_REDIRECTS = {301, 302, 303, 307, 308}


class HubRules:
    """`eagle3hub.network.transport.ExchangeRules` for huggingface_hub."""

    def request(self, request: Any) -> None:
        """Send the access token to the Hub only, and nothing over a connection without encryption."""
        home, there = names.origin_of(endpoint()), names.origin_of(str(request.url))
        if home is not None and home[0] == "https" and (there is None or there[0] != "https"):
            raise Exceeded("redirect", "it sends us on to an address without encryption")
        if "authorization" in request.headers and there != home and not _is_the_runners(request):
            del request.headers["authorization"]

    def response(self, request: Any, response: Any) -> None:
        """Check every header that becomes a path, an address or a wait."""
        headers = response.headers
        if "x-repo-commit" in headers:
            names.oid(headers["x-repo-commit"], "commit")
        if request.method == "HEAD" and response.status_code < 400:
            if not (response.status_code in _REDIRECTS and "x-linked-size" not in headers):
                _bound_file(headers)
            for name in ("etag", "x-linked-etag"):
                if name in headers:
                    names.etag(headers[name].removeprefix("W/").strip('"'), name)
        if current() is not None and "x-xet-hash" in headers:
            del headers["x-xet-hash"]  # Xet's own client ignores our limits, so the file comes over HTTP
        here = str(request.url)
        if response.status_code in _REDIRECTS and "location" in headers:
            _check_redirect(request, here, headers["location"])
        following = _next_page(response)
        if following is not None and names.origin_of(urljoin(here, following)) != names.origin_of(here):
            raise Exceeded("redirect", "it names a next page on another host")
        _check_wait(response)


def install() -> None:
    """Make huggingface_hub's clients keep to these rules; its present factory still builds them."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    factory = _http._GLOBAL_CLIENT_FACTORY
    if not getattr(factory, "keeps_to_limits", False):

        def bounded() -> Any:
            return bound(factory(), HubRules())

        bounded.keeps_to_limits = True  # type: ignore[attr-defined]
        set_client_factory(bounded)


def endpoint() -> str:
    """The address of the Hub in use."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_the_runners(request: Any) -> bool:
    """Whether this asks GitHub's runner for an identity, with the token it gave for that purpose."""
    url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    token = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    scheme, _, value = request.headers["authorization"].partition(" ")
    same = url is not None and names.origin_of(url) == names.origin_of(str(request.url))
    return same and bool(token) and scheme.lower() == "bearer" and value == token


def _check_redirect(request: Any, here: str, location: str) -> None:
    """Refuse a redirect to another host, except for files."""
    there = names.origin_of(urljoin(here, location))
    if there is None or not location.isprintable() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//[^/])", location):
        raise Exceeded("redirect", f"it sends us on to {names.quoted(location)}")
    is_file = request.method in {"GET", "HEAD"} and _FILE.search(request.url.path)
    home = names.origin_of(endpoint())
    if not is_file and names.origin_of(here) == home and there not in (home, _encrypted(home)):
        raise Exceeded("redirect", "it sends us on to another host with what is between it and us")


def _encrypted(origin: tuple[str, str, int] | None) -> tuple[str, str, int] | None:
    """The same host at the usual port with encryption, for a host at the usual port without."""
    return ("https", origin[1], 443) if origin is not None and origin[::2] == ("http", 80) else None


def _next_page(response: Any) -> str | None:
    if "link" not in response.headers:
        return None
    url = response.links.get("next", {}).get("url")
    return None if url is None else str(url)


def _check_wait(response: Any) -> None:
    """Refuse a long wait: the client would sleep, and the user should decide."""
    status, headers = response.status_code, response.headers
    if status not in {408, 429} and status < 500:
        return
    asked = [headers.get("retry-after", "").strip()]
    asked += [wait for left, wait in _RATE_LIMIT.findall(headers.get("ratelimit", "")) if int(left) == 0]
    if any(a.isdecimal() and (len(a) > 6 or int(a) > LONGEST_WAIT) for a in asked):
        raise Exceeded("busy", "it asks for a longer wait than is allowed", status)


def _bound_file(headers: Any) -> None:
    """Limit a download to the size that the answer to HEAD states."""
    limits = current()
    if limits is not None and limits.body is not None:
        stated = headers.get("x-linked-size") or headers.get("content-length") or ""
        size = int(stated) if stated.isdecimal() and len(stated) < 19 else UNSTATED_SIZE
        limits.body = min(limits.body, size)


# Errors of huggingface_hub as one sentence and a hint. No message repeats a URL or a header.


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_SENSELESS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, NameError)
OTHER_HUB = "a proxy may have answered in its place: check the network and HF_ENDPOINT, then try again"


def transport_errors() -> type[Exception]:
    """The root of the HTTP library's errors (httpx, or httpx2 since huggingface_hub 2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")


def explain(e: BaseException, what: str, repo_id: str, revision: str | None, doing: str) -> HubError:
    """The error for whatever the client raised; ``doing`` is the verb for what could not be done to ``what``."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if (exceeded := _exceeded(e)) is not None:
        return _explain_exceeded(exceeded, what, doing)
    if isinstance(e, RuntimeError) and e.__cause__ is not None:  # how the client reports a failed transfer
        return explain(e.__cause__, what, repo_id, revision, doing)
    if type(e).__name__ == "OIDCError":
        hint = "a job of GitHub Actions needs `permissions: id-token: write`, others put theirs into HF_OIDC_ID_TOKEN"
        return HubError("there is no identity to get a token for HF_OIDC_RESOURCE with", hint=hint, code="hub-oidc")
    if isinstance(e, HfHubHTTPError) and (asked := _identity_service(str(e.response.url))):
        hint = "its trusted publisher must name this workflow's repository, branch and file exactly"
        message = f"{asked} gave no token for HF_OIDC_RESOURCE (status {e.response.status_code})"
        return HubError(message, hint=hint if asked == "the Hub" else None, code="hub-oidc")
    if isinstance(e, GatedRepoError):
        hint = "ask for access on its page, then run `hf auth login`, or set HF_TOKEN where nobody can"
        return HubError(f"{repo_id} is gated and this account has no access to it", hint=hint, code="hub-gated")
    if isinstance(e, RepositoryNotFoundError):
        hint = "check the name; for a private model run `hf auth login`, or set HF_TOKEN where nobody can"
        return HubError(f"there is no model {repo_id} on the Hub, or it is private", hint=hint, code="hub-not-found")
    if isinstance(e, RevisionNotFoundError):
        hint = "look at its branches and tags; in hf://owner/name@revision a slash of theirs is written %2F"
        return HubError(f"{repo_id} has no revision {revision}", hint=hint, code="hub-not-found")
    if isinstance(e, LocalEntryNotFoundError):
        if isinstance(e.__cause__, HfHubHTTPError) or (
            e.__cause__ is not None and not isinstance(e.__cause__, (OfflineModeIsEnabled, ConnectionError))
        ):
            return explain(e.__cause__, what, repo_id, revision, doing)
        return _offline(what, doing)
    if isinstance(e, EntryNotFoundError):
        return HubError(f"there is no {what}", code="hub-no-file")
    if isinstance(e, HfHubHTTPError):
        return _explain_status(e.response.status_code, what, doing)
    if isinstance(e, OfflineModeIsEnabled):
        return _offline(what, doing)
    if isinstance(e, OSError) and e.errno in _DISK_FULL:
        hint = "make room there, or set HF_HOME (or HF_HUB_CACHE) to a folder on another disk"
        message = f"the disk of the Hub cache {constants.HF_HUB_CACHE} is full: cannot {doing} {what}"
        return HubError(message, hint=hint, code="hub-disk-full")
    if isinstance(e, OSError) and e.errno in _NOT_WRITABLE and doing == "get":
        hint = "set HF_HOME (or HF_HUB_CACHE) to a folder you can write"
        message = f"the Hub's client cannot use {e.filename or constants.HF_HUB_CACHE}: {e.strerror}"
        return HubError(message, hint=hint, code="hub-cache")
    if isinstance(e, TimeoutError) or "Timeout" in type(e).__name__:
        return HubError(f"the Hub did not answer in time: cannot {doing} {what}", hint="try again", code="hub-timeout")
    if type(e).__name__ in {"ConnectError", "ProxyError"}:
        return _offline(what, doing)
    if is_misaddressed(e):
        hint = "begin it with https://, or unset it for huggingface.co"
        return HubError("HF_ENDPOINT is not the address of a Hub", hint=hint, code="hub-endpoint")
    if isinstance(e, _SENSELESS) and type(e).__name__ != "HFValidationError":
        return HubError(
            f"the Hub's answer makes no sense: cannot {doing} {what} ({type(e).__name__})",
            hint=OTHER_HUB,
            code="hub-protocol",
        )
    return HubError(
        f"the connection to the Hub failed: cannot {doing} {what} ({type(e).__name__})",
        hint="run the same command again" + (": what was fetched is kept" if doing == "get" else ""),
        code="hub-network",
    )


def _exceeded(e: BaseException | None) -> Exceeded | None:
    """The exceeded limit behind an exception, however the client wrapped it."""
    for _ in range(8):
        if e is None or isinstance(e, Exceeded):
            return e
        e = e.__cause__ or e.__context__
    return None


def _explain_exceeded(e: Exceeded, what: str, doing: str) -> HubError:
    if e.status is not None:
        return _explain_status(e.status, what, doing)
    if e.kind == "time":
        hint = f"try again; {TIMEOUT} names the seconds to wait"
        message = f"the Hub did not answer in time: cannot {doing} {what} ({e.says})"
        return HubError(message, hint=hint, code="hub-timeout")
    if e.kind == "network":
        hint = "run the same command again" + (": what was fetched is kept" if doing == "get" else "")
        message = f"the connection to the Hub failed: cannot {doing} {what} ({e.says})"
        return HubError(message, hint=hint, code="hub-network")
    code = {"size": "hub-size", "name": "hub-name", "redirect": "hub-redirect"}.get(e.kind, "hub-protocol")
    return HubError(
        f"the Hub is not to be trusted: cannot {doing} {what}: {e.says}",
        hint=OTHER_HUB,
        code=code,
    )


def is_misaddressed(e: BaseException) -> bool:
    """Whether HF_ENDPOINT is no web address."""
    return type(e).__name__ == "UnsupportedProtocol" and not endpoint().startswith(("https://", "http://"))


def _identity_service(url: str) -> str | None:
    """Who gives out workflow tokens at this address, or None for any other address."""
    if url == f"{endpoint()}/oauth/token":
        return "the Hub"
    actions = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", "").partition("?")[0]
    return "GitHub" if actions and url.partition("?")[0] == actions else None


def _offline(what: str, doing: str) -> HubError:
    if doing != "get":
        hint = "check the network, then run the same command again"
        message = f"the Hub cannot be reached, or HF_HUB_OFFLINE is set: cannot {doing} {what}"
        return HubError(message, hint=hint, code="hub-offline")
    return HubError(
        f"the Hub cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not have {what}",
        hint="check the network, or name a local folder",
        code="hub-offline",
    )


def _explain_status(status: int, what: str, doing: str) -> HubError:
    if status == 401:
        hint = "run `hf auth login`, or unset HF_TOKEN for what is public"
        return HubError(
            f"the Hub does not accept this access token: cannot {doing} {what}", hint=hint, code="hub-auth"
        )
    if status == 402:
        hint = "add credit or a payment method on the account's billing page, or let another account pay"
        return HubError(f"the account has no credit for this: cannot {doing} {what}", hint=hint, code="hub-credit")
    if status == 403:
        hint = f"check that the access token may {'read' if doing == 'get' else 'write to'} this repository"
        return HubError(f"the Hub forbids access to {what}", hint=hint, code="hub-forbidden")
    if status == 404:
        return HubError(f"there is no {what}", code="hub-no-file")
    if status == 409:
        hint = "somebody else may be writing to it: look at it, then try again"
        return HubError(f"the Hub reports a conflict: cannot {doing} {what}", hint=hint, code="hub-conflict")
    if status == 412:
        hint = "run the same command again: it compares anew"
        return HubError(f"the branch moved meanwhile: cannot {doing} {what}", hint=hint, code="hub-moved")
    if status == 416:
        return HubError(f"there is nothing in {what}", code="hub-empty")
    if status == 429:
        hint = "wait a few minutes; with `hf auth login` the limit is higher"
        return HubError(f"the Hub asks to wait (too many requests): cannot {doing} {what}", hint=hint, code="hub-busy")
    if status >= 500:
        hint = "try again later"
        return HubError(
            f"the Hub has a problem (status {status}): cannot {doing} {what}", hint=hint, code="hub-server"
        )
    return HubError(
        f"the Hub answered with status {status}: cannot {doing} {what}", hint=OTHER_HUB, code="hub-protocol"
    )


# The one place that talks to the Hub, through huggingface_hub; every failure becomes one sentence.
#
# Access tokens, endpoint, cache and offline switch are the client's own (``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``,
# ``HF_HUB_OFFLINE``). No message repeats a URL or a header: redirects carry signatures, requests carry tokens. What
# any exchange may cost and say is bounded by `eagle3hub.network.bounds` and `eagle3hub.checkpoint.hub`.


__all__ = ["Listing", "Stated", "download_file", "endpoint", "hub_errors", "list_files", "patiently", "read_range"]

T = TypeVar("T")
AGENT: dict[str, Any] = {"library_name": "eagle3hub", "library_version": __version__}
"""How every request identifies its sender."""
_ATTEMPTS = 4
_ATTEMPTS_TO_CONNECT = 2
_SECONDS_PER_RANGE = 120.0
_CHECKED_AGAIN = 8 << 20
"""Files of at most this size are checked against their digest every time, larger ones only when fetched."""
_LARGEST_FILE = 1 << 40
_LARGE = (".safetensors", ".bin", ".pt")
_SILENCE = 2.0
"""Seconds without an answer after which the user is told."""
_CHUNK = 1 << 20
"""Most bytes of a download between two reports of it."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit: path -> size in bytes, or None where the Hub does not say.

    ``stated`` has the Hub's statement about each file's bytes.
    """

    commit: str
    sizes: dict[str, int | None]
    stated: dict[str, Stated] = field(default_factory=dict)


def download_file(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    progress: Progress = silent,
    *,
    stated: Stated | None = None,
    cached_only: bool = False,
) -> Path:
    """Download one file of a model repository into the Hub cache, going on where a connection broke.

    Args:
        stated: the file in the listing; the download must match it, or else the ETag it is served with.
        cached_only: do not ask the Hub.

    Returns where the file is. Raises HubError (no such repository or file, no access, no network, other bytes than
    the Hub states: then nothing of them stays in the cache).
    """
    from huggingface_hub import hf_hub_download

    stated = stated or Stated()
    options: dict[str, Any] = {"revision": revision, "local_files_only": cached_only, **AGENT}
    options |= bar_option(hf_hub_download, f"downloading {filename}", progress)
    most = _LARGEST_FILE if filename.endswith(_LARGE) else UNSTATED_SIZE
    with hub_errors(f"{filename} of {repo_id}", repo_id, revision, limits=transfer(stated.size, most)):
        names.path(filename)
        known = None if revision is None else cached_file(repo_id, filename, revision)
        path = patiently(lambda: Path(hf_hub_download(repo_id, filename, **options)))
        hold_to(path, stated, f"{filename} of {repo_id}", fresh=known is None and not cached_only)
    return path


def transfer(size: int | None, most: int = _LARGEST_FILE) -> Operation:
    """The limits for fetching a file of ``size`` bytes; None: of what the Hub states then, up to ``most``."""
    return Operation(transfer=True, body=most if size is None else size)


def list_files(repo_id: str, revision: str | None = None) -> Listing:
    """The commit a revision stands for now, and its files. Raises HubError."""
    from huggingface_hub import HfApi, constants

    def ask() -> Listing:
        info = HfApi(**AGENT).model_info(
            repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        stated = {names.path(s.rfilename): _stated(s) for s in info.siblings or []}
        if not isinstance(info.sha, str) or not names.OID.fullmatch(info.sha):
            raise Exceeded("strange", "it names no commit")
        return Listing(info.sha, {path: s.size for path, s in stated.items()}, stated)

    with hub_errors(repo_id, repo_id, revision):
        return patiently(ask)


def _stated(sibling: Any) -> Stated:
    lfs = sibling.lfs
    size, sha256 = (sibling.size, None) if lfs is None else (lfs.size, names.sha256(lfs.sha256, "SHA-256 of a file"))
    if size is not None and (type(size) is not int or not 0 <= size < _LARGEST_FILE):
        raise Exceeded("strange", f"it gives {sibling.rfilename} a size that no file has")
    blob_id = sibling.blob_id
    return Stated(size, None if blob_id is None else names.oid(blob_id, "id of a file"), sha256)


def hold_to(path: Path, stated: Stated, what: str, *, fresh: bool = True) -> None:
    """Remove a file and raise HubError if its bytes do not match the Hub's statement, or the name of its blob."""
    blob = path.resolve()
    if not stated.digest:
        stated = Stated(
            None,
            blob.name if names.OID.fullmatch(blob.name) else None,
            blob.name if names.SHA256.fullmatch(blob.name) else None,
        )
    if (not fresh and blob.stat().st_size > _CHECKED_AGAIN) or holds(blob, stated):
        return
    path.unlink()
    if blob != path and blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)
    raise HubError(
        f"the download of {what} does not match what the Hub states of it; nothing was kept",
        hint=OTHER_HUB,
        code="hub-digest",
    )


def read_range(repo_id: str, filename: str, commit: str, offset: int, count: int) -> tuple[bytes, int]:
    """Up to ``count`` bytes of a file on the Hub, fewer only at its end, and the file's size. Raises HubError."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo_id, filename, revision=commit)
    headers = client().build_hf_headers(**AGENT)
    headers["Range"] = f"bytes={offset}-{offset + count - 1}"
    headers["Accept-Encoding"] = "identity"
    with hub_errors(f"{filename} of {repo_id}", repo_id, commit, limits=transfer(None)):
        return patiently(lambda: _read_once(url, headers, offset, count))


def cached_file(repo_id: str, filename: str, commit: str) -> Path | None:
    """Where a file is in the Hub cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, filename, revision=commit)
    return Path(found) if isinstance(found, str) else None


def unreachable(error: HubError) -> bool:
    """Whether the Hub could not be asked at all, so that the cache may be used."""
    return error.code in {"hub-offline", "hub-timeout", "hub-server", "hub-network", "hub-busy"}


def no_repository(error: HubError) -> bool:
    """Whether the Hub says that there is no such repository, or none that this account may see."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    return isinstance(error.__cause__, RepositoryNotFoundError) and not isinstance(error.__cause__, GatedRepoError)


@contextmanager
def hub_errors(
    what: str, repo_id: str, revision: str | None = None, doing: str = "get", limits: Operation | None = None
) -> Iterator[None]:
    """Turn whatever the client raises inside the block into HubError; its own output (with URLs) is silenced.

    Args:
        doing: the verb for what could not be done to ``what``.
        limits: what the whole block may cost; default: one question with a small answer.
    """
    install()
    logging = client().logging
    level = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            operation(limits or Operation()),
            tell_after(_SILENCE, f"waiting for the Hub, to {doing} {what}"),
        ):
            warnings.simplefilter("ignore", UserWarning)
            yield
    except Eagle3HubError:
        raise
    except Exception as e:  # the client leaks its HTTP library's exceptions, ValueError, OSError and more
        raise explain(e, what, repo_id, revision, doing) from e
    finally:
        logging.set_verbosity(level)


def client() -> Any:
    """The client's helpers, which it exports without saying so to type checkers."""
    import huggingface_hub.utils

    return huggingface_hub.utils


class _Cut(Exception):
    """The connection ended before the bytes that were promised."""


def _read_once(url: str, headers: dict[str, str], offset: int, count: int) -> tuple[bytes, int]:
    from huggingface_hub import constants

    deadline = time.monotonic() + _SECONDS_PER_RANGE
    with (
        client()
        .get_session()
        .stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response
    ):
        client().hf_raise_for_status(response)
        given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or given is None or int(given[1]) != offset:
            raise HubError(
                "the Hub, or a proxy before it, does not serve parts of files",
                hint="download the repository (hf download) and name the folder",
                code="hub-no-ranges",
            )
        size = int(given[3])
        wanted = min(count, size - offset)
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) >= wanted:
                break
            if time.monotonic() > deadline:
                raise TimeoutError
    if len(data) < wanted:
        raise _Cut
    return bytes(data[:wanted]), size


def patiently(ask: Callable[[], T]) -> T:
    """Retry a few times if the Hub is busy or the connection failed; waits are bounded."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except Exception as e:
            wait = _wait_before_retry(e, attempt)
            if wait is None or wait > LONGEST_WAIT:
                raise
            tell(f"the Hub gave no good answer: asking again in {wait:g} seconds ({attempt + 1} of {_ATTEMPTS})")
            time.sleep(wait)
    return ask()


def _wait_before_retry(e: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next try, or None if there is no point in one."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(e, HfHubHTTPError):
        status = e.response.status_code
        if status != 429 and status < 500:
            return None
        after = e.response.headers.get("Retry-After", "")
        return float(after) if after.isdecimal() else 2.0 ** (attempt - 1)
    failures = (transport_errors(), ConnectionError, TimeoutError, _Cut)
    if isinstance(e, OfflineModeIsEnabled) or not isinstance(e, failures) or is_misaddressed(e):
        return None
    if type(e).__name__ in {"ConnectError", "ConnectTimeout", "ProxyError"} and attempt >= _ATTEMPTS_TO_CONNECT:
        return None
    return 2.0 ** (attempt - 1)


def bar_option(function: Callable[..., Any], message: str, progress: Progress) -> dict[str, Any]:
    """The option that makes a function of the client report to ``progress``; none where its version has none."""
    from huggingface_hub import constants

    known = "tqdm_class" in inspect.signature(function).parameters
    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK)  # it reports once for each
    return {"tqdm_class": _bar(message, progress)} if known else {}


def _bar(message: str, progress: Progress) -> type[Any]:
    """A class with the interface of a tqdm bar that reports to ``progress``."""
    base: Any = client().tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._done, self._whole = options.get("initial") or 0, options.get("total")
            super().__init__(*args, **{**options, "disable": True})
            self._say()

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            self._say()
            return None

        def _say(self) -> None:
            tell_bytes(int(self._done), int(self._whole) if self._whole else None)
            progress(message, min(self._done / self._whole, 1.0) if self._whole else None)

    return Bar
