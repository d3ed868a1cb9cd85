"""What huggingface_hub raises, as one sentence with what to do. No message repeats a URL or a header."""

from __future__ import annotations

import errno
import os

from eagle3hub.checkpoint.hub_rules import endpoint
from eagle3hub.errors import HubError
from eagle3hub.network.bounds import TIMEOUT, Exceeded

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
    """The limit that stands behind an exception, however the client wrapped it."""
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
    return HubError(
        f"the Hub answered with status {status}: cannot {doing} {what}", hint=OTHER_HUB, code="hub-protocol"
    )
