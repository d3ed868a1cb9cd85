"""What the Hub may ask huggingface_hub for, and call things, checked for every request the client makes.

huggingface_hub joins an ETag and a commit into paths of its cache as they come, sends the access token to wherever an
upload's instructions point, follows ``Link: rel=next`` with the token, and waits as long as ``Retry-After`` says
(2.4.0: ``file_download.py``, ``lfs.py``, ``utils/_pagination.py``, ``utils/_http.py``).
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urljoin

from eagle3hub.network import names
from eagle3hub.network.bounds import Exceeded, current
from eagle3hub.network.transport import bound

LONGEST_WAIT = 20
"""Seconds that a server may ask to wait before another try."""
UNSTATED_SIZE = 64 << 20
"""The most bytes of a file whose size nobody states."""
_RATE_LIMIT = re.compile(r"\br\s*=\s*(\d{1,18})\s*;\s*t\s*=\s*(\d{1,18})", re.ASCII)
_FILE = re.compile(r"/resolve(-cache)?/", re.ASCII)
_REDIRECTS = {301, 302, 303, 307, 308}


class HubRules:
    """`eagle3hub.network.transport.Rules` for huggingface_hub."""

    def request(self, request: Any) -> None:
        """Keep the access token from everybody but the Hub, and everything from a connection without encryption."""
        home, there = names.origin_of(endpoint()), names.origin_of(str(request.url))
        if home is not None and home[0] == "https" and (there is None or there[0] != "https"):
            raise Exceeded("redirect", "it sends us on to an address without encryption")
        if "authorization" in request.headers and there != home and not _is_the_runners(request):
            del request.headers["authorization"]

    def response(self, request: Any, response: Any) -> None:
        """Hold what becomes a path, an address or a wait to what it may be."""
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
            del headers["x-xet-hash"]  # Xet's own client keeps to no limits of ours: the file comes over HTTP
        here = str(request.url)
        if response.status_code in _REDIRECTS and "location" in headers:
            _check_redirect(request, here, headers["location"])
        following = _next_page(response)
        if following is not None and names.origin_of(urljoin(here, following)) != names.origin_of(here):
            raise Exceeded("redirect", "it names a next page on another host")
        _check_wait(response)


def install() -> None:
    """Make huggingface_hub build clients that keep to these rules, from the factory it has now."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    factory = _http._GLOBAL_CLIENT_FACTORY
    if not getattr(factory, "keeps_to_limits", False):

        def bounded() -> Any:
            return bound(factory(), HubRules())

        bounded.keeps_to_limits = True  # type: ignore[attr-defined]
        set_client_factory(bounded)


def endpoint() -> str:
    """The Hub that is asked."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_the_runners(request: Any) -> bool:
    """Whether this asks GitHub's runner for an identity, with the token that the runner gave for just that."""
    url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    token = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    scheme, _, value = request.headers["authorization"].partition(" ")
    same = url is not None and names.origin_of(url) == names.origin_of(str(request.url))
    return same and bool(token) and scheme.lower() == "bearer" and value == token


def _check_redirect(request: Any, here: str, location: str) -> None:
    """Only files may come from another host: answers of the Hub, and what is meant for it, are the Hub's own."""
    there = names.origin_of(urljoin(here, location))
    if there is None or not location.isprintable() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//[^/])", location):
        raise Exceeded("redirect", f"it sends us on to {names.shown(location)}")
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
    """A long wait is the user's to decide on, and the client would sleep through it."""
    status, headers = response.status_code, response.headers
    if status not in {408, 429} and status < 500:
        return
    asked = [headers.get("retry-after", "").strip()]
    asked += [wait for left, wait in _RATE_LIMIT.findall(headers.get("ratelimit", "")) if int(left) == 0]
    if any(a.isdecimal() and (len(a) > 6 or int(a) > LONGEST_WAIT) for a in asked):
        raise Exceeded("busy", "it asks to wait longer than is waited", status)


def _bound_file(headers: Any) -> None:
    """A file that is fetched may have the bytes that the answer to HEAD says it has."""
    limits = current()
    if limits is not None and limits.body is not None:
        stated = headers.get("x-linked-size") or headers.get("content-length") or ""
        size = int(stated) if stated.isdecimal() and len(stated) < 19 else UNSTATED_SIZE
        limits.body = min(limits.body, size)
