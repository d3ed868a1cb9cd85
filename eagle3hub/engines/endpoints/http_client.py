"""Send requests to one HTTP server, with limits on time and size; the key goes to no other server."""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from eagle3hub._version import __version__
from eagle3hub.network.bounds import Exceeded, Operation, operation
from eagle3hub.network.transport import bound, http_library, reason
from eagle3hub.system.text import visible

_LARGEST = 16 << 20
_LONGEST_TOLD = 300


class HttpFault(Exception):
    """A request did not get a usable answer.

    ``status`` is the HTTP status, or None without an answer; ``answered`` says whether any answer came.
    """

    def __init__(self, says: str, status: int | None = None, *, answered: bool | None = None) -> None:
        super().__init__(says)
        self.says = says
        self.status = status
        self.answered = status is not None if answered is None else answered


class HttpClient:
    """A client for the server at ``url`` (without a final slash); it sends ``key`` as a bearer token.

    It follows no redirects. It uses the proxies of the environment, except for this machine, and the system's
    certificates.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.is_here = is_loopback(urlsplit(url).hostname or "")
        self._headers = {"User-Agent": f"eagle3hub/{__version__}", "Accept": "*/*"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._library = http_library()
        self._client = bound(
            self._library.Client(
                follow_redirects=False,
                trust_env=not self.is_here,
                timeout=None,
                limits=self._library.Limits(max_keepalive_connections=0),
                verify=ssl.create_default_context() if url.startswith("https:") else False,
            )
        )

    def text(self, path: str, *, deadline: float) -> str:
        """GET ``path`` and return the text. ``deadline`` is in monotonic seconds. Raises HttpFault."""
        return self._ask(path, None, deadline).decode("utf-8", "replace")

    def json(self, path: str, body: Mapping[str, object] | None = None, *, deadline: float) -> dict[str, object]:
        """GET ``path``, or POST ``body`` to it, and return the JSON object. Raises HttpFault."""
        raw = self._ask(path, body, deadline)
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise HttpFault(f"{path} answered something else than a JSON object", answered=True)
        return found

    def _ask(self, path: str, body: Mapping[str, object] | None, deadline: float) -> bytes:
        how: dict[str, object] = {"headers": self._headers}
        if body is not None:
            how["json"] = body
        limits = Operation(seconds=max(deadline - time.monotonic(), 0.0), small=_LARGEST)
        try:
            with (
                operation(limits),
                self._client.stream("GET" if body is None else "POST", self.url + path, **how) as answer,
            ):
                raw = b"".join(answer.iter_bytes())
                status: int = answer.status_code
        except Exceeded as error:
            raise _beyond(error) from error
        except (self._library.HTTPError, self._library.InvalidURL, OSError) as error:
            raise HttpFault(reason(error)) from error
        if not 200 <= status < 300:
            raise HttpFault(_told(status, raw), status)
        return raw


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _beyond(error: Exceeded) -> HttpFault:
    if error.kind == "time":
        return HttpFault("it did not answer in time")
    return HttpFault(error.says, error.status, answered=error.kind != "network")


def _told(code: int, raw: bytes) -> str:
    """Return the status and the first line of the server's message, if it sent one."""
    status = f"HTTP status {code}"
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return status
    inner = found.get("error") if isinstance(found, dict) else None
    message = (inner if isinstance(inner, dict) else found if isinstance(found, dict) else {}).get("message")
    if not isinstance(message, str) or not message.strip():
        return status
    line = visible(message.strip().splitlines()[0])
    return f"{status}: {line if len(line) <= _LONGEST_TOLD else line[: _LONGEST_TOLD - 1] + '…'}"
