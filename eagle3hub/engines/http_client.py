"""Talk to one HTTP server: JSON and text, bounded in time and size, with a key that goes nowhere else."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import urlsplit

from eagle3hub._version import __version__

_CHUNK = 1 << 16
_LARGEST = 64 << 20
_LONGEST_TOLD = 300


class HttpFault(Exception):
    """A request without a usable answer: ``status`` is the HTTP status, or None where no answer came."""

    def __init__(self, says: str, status: int | None = None) -> None:
        super().__init__(says)
        self.says = says
        self.status = status


class HttpClient:
    """A server at ``url`` (no slash at its end); ``key`` is sent as a bearer token. Redirects are not followed."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.is_here = is_loopback(urlsplit(url).hostname or "")
        self._headers = {"User-Agent": f"eagle3hub/{__version__}", "Accept": "*/*"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        proxies = [urllib.request.ProxyHandler({})] if self.is_here else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def text(self, path: str, *, deadline: float) -> str:
        """What GET ``path`` answers. ``deadline`` is monotonic seconds; raises HttpFault."""
        return self._ask(urllib.request.Request(self.url + path, headers=self._headers), deadline).decode(
            "utf-8", "replace"
        )

    def json(self, path: str, body: Mapping[str, Any] | None = None, *, deadline: float) -> dict[str, Any]:
        """The JSON object that GET ``path``, or POST with a ``body``, answers. Raises HttpFault."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        raw = self._ask(urllib.request.Request(self.url + path, data, headers), deadline)
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise HttpFault(f"{path} answered something else than a JSON object")
        return found

    def _ask(self, request: urllib.request.Request, deadline: float) -> bytes:
        received = bytearray()
        try:
            with self._opener.open(request, timeout=_left(deadline)) as answer:
                while chunk := answer.read1(_CHUNK):
                    received += chunk
                    if len(received) > _LARGEST:
                        raise HttpFault(f"an answer was longer than {_LARGEST >> 20} MiB")
                    _left(deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise HttpFault(_told(error), error.code) from error
        except TimeoutError as error:
            raise _late() from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _late() from error
            raise HttpFault(str(getattr(reason, "strerror", None) or reason or type(error).__name__)) from error
        return bytes(received)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An address that answers elsewhere is not the one that was named, and must not get the key."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _late() -> HttpFault:
    return HttpFault("it did not answer in time")


def _told(error: urllib.error.HTTPError) -> str:
    """The status and, where the server says more, its first line."""
    status = f"HTTP status {error.code}"
    try:
        raw = error.read(_CHUNK)
        found = json.loads(raw)
    except (ValueError, RecursionError, OSError, http.client.HTTPException):
        return status
    inner = found.get("error") if isinstance(found, dict) else None
    message = (inner if isinstance(inner, dict) else found if isinstance(found, dict) else {}).get("message")
    if not isinstance(message, str) or not message.strip():
        return status
    line = message.strip().splitlines()[0]
    return f"{status}: {line if len(line) <= _LONGEST_TOLD else line[: _LONGEST_TOLD - 1] + '…'}"
