"""The one place that talks to the Hub, through huggingface_hub; every failure becomes one sentence.

Access tokens, endpoint, cache and offline switch are the client's own (``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``,
``HF_HUB_OFFLINE``). No message repeats a URL or a header: redirects carry signatures, requests carry tokens.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub._version import __version__
from eagle3hub.errors import Eagle3HubError, HubError
from eagle3hub.progress import Progress, silent

T = TypeVar("T")
AGENT: dict[str, Any] = {"library_name": "eagle3hub", "library_version": __version__}
"""What every request says of its sender."""
_ATTEMPTS = 4
_LONGEST_WAIT = 20.0
_SECONDS_PER_RANGE = 120.0
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit: path -> size in bytes, or None where the Hub does not say."""

    commit: str
    sizes: dict[str, int | None]


def download_file(
    repo_id: str, filename: str, revision: str | None = None, progress: Progress = silent, *, cached_only: bool = False
) -> Path:
    """Download one file of a model repository into the Hub cache, going on where a connection broke.

    Args:
        cached_only: do not ask the Hub.

    Returns where the file is. Raises HubError (no such repository or file, no access, no network).
    """
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {"revision": revision, "local_files_only": cached_only, **AGENT}
    options |= bar_option(hf_hub_download, f"downloading {filename}", progress)
    with hub_errors(f"{filename} of {repo_id}", repo_id, revision):
        return patiently(lambda: Path(hf_hub_download(repo_id, filename, **options)))


def list_files(repo_id: str, revision: str | None = None) -> Listing:
    """The commit a revision stands for now, and its files. Raises HubError."""
    from huggingface_hub import HfApi, constants

    def ask() -> Listing:
        info = HfApi(**AGENT).model_info(
            repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        return Listing(info.sha or "", {s.rfilename: s.size for s in info.siblings or []})

    with hub_errors(repo_id, repo_id, revision):
        listing = patiently(ask)
    if not re.fullmatch(r"[0-9a-f]{40}", listing.commit):
        raise HubError(f"the Hub names no commit for {repo_id}", code="hub-protocol")
    return listing


def read_range(repo_id: str, filename: str, commit: str, offset: int, count: int) -> tuple[bytes, int]:
    """Up to ``count`` bytes of a file on the Hub, fewer only at its end, and the file's size. Raises HubError."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo_id, filename, revision=commit)
    headers = client().build_hf_headers(**AGENT)
    headers["Range"] = f"bytes={offset}-{offset + count - 1}"
    headers["Accept-Encoding"] = "identity"
    with hub_errors(f"{filename} of {repo_id}", repo_id, commit):
        return patiently(lambda: _read_once(url, headers, offset, count))


def cached_file(repo_id: str, filename: str, commit: str) -> Path | None:
    """Where a file is in the Hub cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, filename, revision=commit)
    return Path(found) if isinstance(found, str) else None


def endpoint() -> str:
    """The Hub that is asked."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def unreachable(error: HubError) -> bool:
    """Whether the Hub could not be asked at all, so that what is in the cache may stand in for its answer."""
    return error.code in {"hub-offline", "hub-timeout", "hub-server", "hub-network", "hub-busy"}


@contextmanager
def hub_errors(what: str, repo_id: str, revision: str | None = None, doing: str = "get") -> Iterator[None]:
    """Turn whatever the client raises inside the block into HubError; what it says itself (with URLs) is silenced.

    ``doing`` is the verb for what could not be done to ``what``.
    """
    logging = client().logging
    level = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except Eagle3HubError:
        raise
    except Exception as e:  # the client leaks its HTTP library's exceptions, ValueError, OSError and more
        raise _explain(e, what, repo_id, revision, doing) from e
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
    """Ask again a few times where the Hub is busy or the connection failed, for as long as it says, within reason."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except Exception as e:
            wait = _wait_before_retry(e, attempt)
            if wait is None or wait > _LONGEST_WAIT:
                raise
            time.sleep(wait)
    return ask()


def _wait_before_retry(e: Exception, attempt: int) -> float | None:
    """Seconds, or None where asking again is of no use."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(e, HfHubHTTPError):
        status = e.response.status_code
        if status != 429 and status < 500:
            return None
        after = e.response.headers.get("Retry-After", "")
        return float(after) if after.isdecimal() else 2.0 ** (attempt - 1)
    failures = (_transport_errors(), ConnectionError, TimeoutError, _Cut)
    if isinstance(e, OfflineModeIsEnabled) or not isinstance(e, failures) or _is_misaddressed(e):
        return None
    return 2.0 ** (attempt - 1)


def _transport_errors() -> type[Exception]:
    """The root of the HTTP library's errors (httpx, or httpx2 since huggingface_hub 2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")


def _is_misaddressed(e: BaseException) -> bool:
    return type(e).__name__ == "UnsupportedProtocol" and not endpoint().startswith(("https://", "http://"))


def _explain(e: BaseException, what: str, repo_id: str, revision: str | None, doing: str) -> HubError:
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

    if isinstance(e, RuntimeError) and e.__cause__ is not None:  # how the client reports a failed transfer
        return _explain(e.__cause__, what, repo_id, revision, doing)
    if type(e).__name__ == "OIDCError":
        hint = "in GitHub Actions the job needs `permissions: id-token: write`; elsewhere unset HF_OIDC_RESOURCE"
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
            return _explain(e.__cause__, what, repo_id, revision, doing)
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
    if _is_misaddressed(e):
        hint = "begin it with https://, or unset it for huggingface.co"
        return HubError("HF_ENDPOINT is not the address of a Hub", hint=hint, code="hub-endpoint")
    return HubError(
        f"the connection to the Hub failed: cannot {doing} {what} ({type(e).__name__})",
        hint="run the same command again" + (": what was fetched is kept" if doing == "get" else ""),
        code="hub-network",
    )


def _identity_service(url: str) -> str | None:
    """Who was asked for a token of a workflow's own, or None for any other address."""
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
    return HubError(f"the Hub answered with status {status}: cannot {doing} {what}", code="hub-protocol")


def bar_option(function: Callable[..., Any], message: str, progress: Progress) -> dict[str, Any]:
    """The option that makes a function of the client report to ``progress``; none where its version has none."""
    known = "tqdm_class" in inspect.signature(function).parameters
    return {"tqdm_class": _bar(message, progress)} if known else {}


def _bar(message: str, progress: Progress) -> type[Any]:
    """A class with the interface of a tqdm bar that reports to ``progress``."""
    base: Any = client().tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._done, self._whole = options.get("initial") or 0, options.get("total")
            super().__init__(*args, **{**options, "disable": True})
            progress(message, self._done / self._whole if self._whole else None)

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            progress(message, min(self._done / self._whole, 1.0) if self._whole else None)
            return None

    return Bar
