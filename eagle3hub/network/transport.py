"""Make an HTTP client (httpx or httpx2) keep to the limits of `eagle3hub.network.bounds`.

Time is checked below HTTP, where bytes are read and written, so that status lines, headers, chunks and trailers that
arrive slowly all run out of time. Sizes are counted where bodies come out. The client's own transports are wrapped, so
proxies, certificates and hooks stay as they were set up.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from eagle3hub.network.bounds import CONTAINERS, HEADERS, LINE, Exceeded, Operation, check_size, current
from eagle3hub.system.text import visible

_LONGEST_REASON = 300
_CONNECT_SECONDS = 10.0
_PIECE = 8 << 10
_MAX_LENGTH_DIGITS = 19
_ENCODED = "content-encoding"


class ExchangeRules(Protocol):
    """Rules for requests and answers beyond sizes and times. Every method raises Exceeded."""

    def request(self, request: Any) -> None:
        """Check and possibly change a request before it is sent."""

    def response(self, request: Any, response: Any) -> None:
        """Check and possibly change the status and headers of an answer before anybody sees them."""


def bound(client: Any, rules: ExchangeRules | None = None) -> Any:
    """Make all requests of a client keep to the limits of their operation, and return the client."""
    wrapper = _transport_class(_library(client))
    client._transport = wrapper(client._transport, rules)
    client._mounts = {k: None if t is None else wrapper(t, rules) for k, t in client._mounts.items()}
    return client


def http_library() -> Any:
    """Return httpx, or its successor httpx2."""
    name = "httpx2" if find_spec("httpx2") else "httpx"
    return import_module(name)


def reason(error: BaseException) -> str:
    """Return, on one line, what the operating system or else the library said of a failed request."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return visible(str(error))[:_LONGEST_REASON] or type(error).__name__


def _library(client: Any) -> Any:
    """Return the module that the client comes from."""
    return sys.modules[type(client).__mro__[-2].__module__.partition(".")[0]]


class _Exchange:
    """A request in progress in one thread: its operation, and how many bytes of its answer have arrived."""

    def __init__(self, operation: Operation, method: str, path: str) -> None:
        self.operation = operation
        self.method = method
        self.patience = 5.0 if operation.slow and operation.slow in path else 1.0
        self.raw = 0
        self.answered = False

    def left(self) -> float:
        return self.operation.left(self.patience)

    def received(self, count: int) -> None:
        self.raw += count
        if not self.answered and self.raw > HEADERS:
            raise Exceeded("size", f"its headers have more than {HEADERS >> 20} MiB")


_thread = threading.local()


class _During:
    """Assign what this thread reads and writes to an exchange, while the block runs."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        self._outer = getattr(_thread, "exchange", None)
        _thread.exchange = self._exchange

    def __exit__(self, *_: object) -> None:
        _thread.exchange = self._outer


def _exchange() -> _Exchange | None:
    found: _Exchange | None = getattr(_thread, "exchange", None)
    return found


class _Stream:
    """A connection whose reads and writes end when the time of the operation runs out."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _exchange()
        if exchange is None:
            return bytes(self._inner.read(max_bytes, timeout))
        data: bytes = _in_time(exchange, lambda left: self._inner.read(max_bytes, _sooner(timeout, left)))
        exchange.received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _exchange()
        if exchange is None:
            self._inner.write(buffer, timeout)
            return
        for at in range(0, len(buffer), _PIECE):
            piece = buffer[at : at + _PIECE]
            _in_time(exchange, partial(self._write, piece, timeout))
            exchange.operation.moved(len(piece))

    def _write(self, piece: bytes, timeout: float | None, left: float) -> None:
        self._inner.write(piece, _sooner(timeout, left))

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        exchange = _exchange()
        if exchange is None:
            return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))
        return _Stream(
            _in_time(
                exchange, lambda left: self._inner.start_tls(ssl_context, server_hostname, _sooner(timeout, left))
            )
        )

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend:
    """Opens connections with a time limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:
        timeout = _sooner(timeout, _CONNECT_SECONDS)
        exchange = _exchange()
        left = timeout if exchange is None else _sooner(timeout, exchange.left())
        return _Stream(self._inner.connect_tcp(host, port, left, **options))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> _Stream:
        return _Stream(self._inner.connect_unix_socket(path, timeout, **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


def _sooner(timeout: float | None, left: float) -> float:
    return left if timeout is None else min(timeout, left)


def _in_time(exchange: _Exchange, act: Callable[[float], Any]) -> Any:
    try:
        return act(exchange.left())
    except Exception:
        exchange.left()  # raises Exceeded if the time ran out, whatever the library raised
        raise


@cache
def _transport_class(library: Any) -> Any:
    """Return the wrapper as a class of ``library``, which is httpx or httpx2."""

    class Body(library.SyncByteStream):  # type: ignore[misc]
        """A body whose bytes are counted as they arrive."""

        def __init__(self, inner: Any, exchange: _Exchange, most: int | None, *, json: bool, good: bool) -> None:
            self._inner, self._exchange, self._most = inner, exchange, most
            self._json, self._good = json, good

        def __iter__(self) -> Iterator[bytes]:
            operation, got, containers, line = self._exchange.operation, 0, 0, 0
            chunks = iter(self._inner)
            while True:
                try:
                    with _During(self._exchange):
                        chunk = next(chunks, None)
                except library.TransportError as error:
                    count = operation.broke if got else operation.failed
                    count(type(error).__name__)
                    raise
                if chunk is None:
                    if self._good:
                        operation.succeeded()
                    return
                got += len(chunk)
                if self._most is None:
                    operation.took(len(chunk))
                else:
                    operation.moved(len(chunk))
                    check_size(got, self._most)
                if self._json:
                    containers += chunk.count(b"{") + chunk.count(b"[")
                    if containers > CONTAINERS:
                        raise Exceeded("size", f"its answer holds more than {CONTAINERS:,} objects and lists")
                if operation.follow:
                    if b"data:" in chunk:
                        operation.lives()
                    line = line + len(chunk) if b"\n" not in chunk else len(chunk) - chunk.rfind(b"\n")
                    if line > LINE:
                        raise Exceeded("size", f"a line of the log has more than {LINE >> 20} MiB")
                self._exchange.left()
                yield chunk

        def close(self) -> None:
            with _During(self._exchange):
                self._inner.close()

    class Bounded(library.BaseTransport):  # type: ignore[misc]
        def __init__(self, inner: Any, rules: ExchangeRules | None) -> None:
            self._inner, self._rules = inner, rules
            pool = getattr(inner, "_pool", None)
            if pool is not None:
                pool._network_backend = _Backend(pool._network_backend)

        def handle_request(self, request: Any) -> Any:
            operation = current() or Operation(transfer=True, body=None)
            exchange = _Exchange(operation, request.method, request.url.path)
            exchange.left()
            request.headers["Accept-Encoding"] = "identity"
            if self._rules is not None:
                self._rules.request(request)
            try:
                with _During(exchange):
                    response = self._inner.handle_request(request)
            except library.TransportError as error:
                operation.failed(type(error).__name__)
                raise
            exchange.answered = True
            operation.answered |= response.status_code < 400
            try:
                if self._rules is not None:
                    self._rules.response(request, response)
                most, json = _limits(operation, request, response)
                good = response.status_code < 500 and response.status_code != 429
                response.stream = Body(response.stream, exchange, most, json=json, good=good)
                if not good:
                    operation.failed(f"status {response.status_code}", response.status_code)
            except BaseException:
                response.close()
                raise
            return response

        def close(self) -> None:
            self._inner.close()

    return Bounded


def _limits(operation: Operation, request: Any, response: Any) -> tuple[int | None, bool]:
    """Return the most bytes of the body and whether it must be JSON.

    The limit is None if the body counts with all other answers.
    """
    if response.headers.get(_ENCODED, "identity").lower() not in {"identity", ""}:
        raise Exceeded("strange", "it compresses an answer that must come uncompressed")
    api = "/api/" in request.url.path and "/resolve" not in request.url.path
    payload = operation.transfer and request.method == "GET" and response.status_code in (200, 206)
    if not payload or (api and operation.body is None):
        return None, not operation.follow
    stated = response.headers.get("content-length", "")
    most = sys.maxsize if operation.body is None else operation.body
    if stated.isdecimal() and len(stated) <= _MAX_LENGTH_DIGITS:
        check_size(int(stated), most)
    return most, False
