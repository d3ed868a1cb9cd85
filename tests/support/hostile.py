"""What a hostile or broken server may do to one exchange, byte by byte, and the exchanges it may do it to.

Every act ends when the client hangs up, and after `PATIENCE` seconds in any case.
"""

from __future__ import annotations

import gzip
import json
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Act = Callable[[Any, Callable[[], bytes]], None]
PATIENCE = 40.0
STEP = 0.05
FLOOD = 1 << 16
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def hung_up(h: Any, seconds: float) -> bool:
    """Wait that long, or until the client is gone."""
    poll = select.poll()
    poll.register(h.connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(seconds * 1000))


def drip(h: Any, pieces: Iterator[bytes] | bytes, step: float = STEP) -> None:
    end = time.monotonic() + PATIENCE
    for piece in pieces if not isinstance(pieces, bytes) else (bytes([b]) for b in pieces):
        h.connection.sendall(piece)
        if hung_up(h, step) or time.monotonic() > end:
            return


def forever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def flood(h: Any, piece: bytes) -> None:
    drip(h, forever(piece), step=0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def says(body: bytes, *headers: str, status: str = "200 OK", kind: str = "application/json") -> Act:
    """An answer as it would come from an honest server, but for what is in it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers]
    if not any(line.lower().startswith("content-length") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    raw = "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def act(h: Any, deserved: Callable[[], bytes]) -> None:
        h.connection.sendall(raw)

    return act


def silent(h: Any, deserved: Callable[[], bytes]) -> None:
    hung_up(h, PATIENCE)


def dripped_status(h: Any, deserved: Callable[[], bytes]) -> None:
    drip(h, b"HTTP/1.1 200 " + b"O" * 1000)


def dripped_headers(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(HEAD)
    drip(h, (b"X-%d: y\r\n" % i for i in range(10**9)))


def flood_of_headers(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(HEAD)
    drip(h, (b"X-%d: %b\r\n" % (i, b"y" * 8000) for i in range(10**9)), step=0)


def dripped_continues(h: Any, deserved: Callable[[], bytes]) -> None:
    drip(h, forever(b"HTTP/1.1 100 Continue\r\n\r\n"))


def flood_of_continues(h: Any, deserved: Callable[[], bytes]) -> None:
    flood(h, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def dripped_body(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(HEAD + b"Content-Length: 5000000\r\n\r\n")
    drip(h, forever(b" "))


def dripped_chunks(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(CHUNKED)
    drip(h, forever(chunk(b" ")))


def dripped_chunk_header(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(CHUNKED)
    drip(h, b"1;x=" + b"y" * 100_000)


def dripped_trailers(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(CHUNKED + chunk(b"{}") + b"0\r\n")
    drip(h, (b"X-%d: y\r\n" % i for i in range(10**9)))


def endless_body(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(CHUNKED)
    flood(h, chunk(b" " * FLOOD))


def endless_body_to_the_end(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(HEAD + b"Connection: close\r\n\r\n")
    flood(h, b"0" * FLOOD)


def huge_json(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.sendall(HEAD + b"Content-Length: 60000000\r\n\r\n[")
    drip(h, iter([b"{}," * 20_000] * 999), step=0)


def gzip_bomb(h: Any, deserved: Callable[[], bytes]) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(b"[" + b" " * (64 << 20)) + packer.flush()
    says(packed, "Content-Encoding: gzip")(h, deserved)


def truncated(h: Any, deserved: Callable[[], bytes]) -> None:
    head, _, body = deserved().partition(b"\r\n\r\n")
    h.connection.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])


def one_byte_less(h: Any, deserved: Callable[[], bytes]) -> None:
    _, _, body = deserved().partition(b"\r\n\r\n")
    h.connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % max(len(body) - 1, 0) + body)


def one_byte_more(h: Any, deserved: Callable[[], bytes]) -> None:
    _, _, body = deserved().partition(b"\r\n\r\n")
    h.connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body)


def other_bytes(h: Any, deserved: Callable[[], bytes]) -> None:
    head, _, body = deserved().partition(b"\r\n\r\n")
    h.connection.sendall(head + b"\r\n\r\n" + body[:-1] + bytes([body[-1] ^ 1]))


def reset(h: Any, deserved: Callable[[], bytes]) -> None:
    h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    h.connection.close()


def closed(h: Any, deserved: Callable[[], bytes]) -> None:
    """Not a byte."""


def to_itself(h: Any, deserved: Callable[[], bytes]) -> None:
    says(b"", f"Location: {h.path}", status="307 Temporary Redirect")(h, deserved)


def with_header(*lines: str) -> Act:
    """The answer it deserves, with headers in place of those of the same names."""

    def act(h: Any, deserved: Callable[[], bytes]) -> None:
        head, _, body = deserved().partition(b"\r\n\r\n")
        names = {line.partition(":")[0].lower().encode() for line in lines}
        kept = [line for line in head.split(b"\r\n") if line.partition(b":")[0].lower() not in names]
        h.connection.sendall(b"\r\n".join([*kept, *(line.encode("latin-1") for line in lines), b"", b""]) + body)

    return act


def edited(change: Callable[[Any], Any], *lines: str) -> Act:
    """The JSON it deserves, changed."""

    def act(h: Any, deserved: Callable[[], bytes]) -> None:
        says(json.dumps(change(json.loads(deserved().partition(b"\r\n\r\n")[2]))).encode(), *lines)(h, deserved)

    return act


def next_page(h: Any, deserved: Callable[[], bytes]) -> None:
    """A page like this one, again and again."""
    body = deserved().partition(b"\r\n\r\n")[2]
    says(body, f'Link: <{h.hub.url}{h.path}>; rel="next"')(h, deserved)


WAITS: dict[str, Act] = {
    "silent": silent,
    "status dripped": dripped_status,
    "headers dripped": dripped_headers,
    "100 Continue dripped": dripped_continues,
}
HEADERS: dict[str, Act] = {
    "headers flooded": flood_of_headers,
    "100 Continue flooded": flood_of_continues,
    "two lengths": says(b"{}", "Content-Length: 2", "Content-Length: 3"),
    "negative length": says(b"{}", "Content-Length: -2"),
    "not HTTP": lambda h, _: h.connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "NUL in a header": says(b"{}", "X-A: \0"),
    "reset": reset,
    "closed": closed,
    "500": says(b'{"error": "on demand"}', status="500 Internal Server Error"),
    "500 with endless text": lambda h, _: (
        h.connection.sendall(CHUNKED.replace(b"200 OK", b"500 No")),
        flood(h, chunk(b"x" * FLOOD)),
    )[0],
    "503, wait for a day": says(b"", "Retry-After: 86400", status="503 Slow Down"),
    "429, wait for a day": says(b"", 'RateLimit: "api";r=0;t=86400', status="429 Too Many Requests"),
    "redirect to itself": to_itself,
    "redirect to a file": says(b"", "Location: file:///etc/passwd", status="302 Found"),
    "redirect to no host": says(b"", "Location: http://", status="302 Found"),
    "101 Switching": says(b"", "Upgrade: tea", "Connection: upgrade", status="101 Switching Protocols"),
    "commit that is a path": with_header("X-Repo-Commit: ../../../../outside/commit"),
}
BODIES: dict[str, Act] = {
    "body dripped": dripped_body,
    "chunks dripped": dripped_chunks,
    "header of a chunk dripped": dripped_chunk_header,
    "trailers dripped": dripped_trailers,
    "endless chunks": endless_body,
    "endless body": endless_body_to_the_end,
    "half an answer": truncated,
    "gzip bomb": gzip_bomb,
    "bad gzip": says(b"not packed at all", "Content-Encoding: gzip"),
    "gzip of nothing asked": says(gzip.compress(b"{}"), "Content-Encoding: gzip"),
    "a length of exabytes": says(b"{}", "Content-Length: 9000000000000000000"),
}
JSON: dict[str, Act] = {
    "60 MB of {}": huge_json,
    "deep JSON": says(b"[" * 100_000),
    "deep JSON, closed": says(b"[" * 90_000 + b"]" * 90_000),
    "a list": says(b"[1, 2]"),
    "a text": says(b'"text"'),
    "null": says(b"null"),
    "a number of 5,000 digits": says(b'{"id": "a/b", "private": ' + b"9" * 5000 + b"}"),
    "HTML": says(b"<html>log in first</html>", kind="text/html"),
    "empty": says(b""),
    "204": says(b"", status="204 No Content"),
    "one byte less": one_byte_less,
    "no field": says(b"{}"),
    "every field null": edited(lambda d: dict.fromkeys(d) if isinstance(d, dict) else [None] * len(d)),
    "every field a list": edited(lambda d: {k: [[]] for k in d} if isinstance(d, dict) else [[[]]] * len(d)),
    "invalid UTF-8": says(b'{"id": "\xff\xfe"}'),
}
FILES: dict[str, Act] = {
    "other bytes": other_bytes,
    "one byte less": one_byte_less,
    "one byte more": one_byte_more,
}


def etags(outside: str) -> dict[str, Act]:
    """ETags and commits that are paths, for answers to HEAD."""
    found: dict[str, Act] = {}
    for what, value in {
        "an absolute path": f"{outside}/etag",
        "a path upwards": "../../../../outside/etag",
        "dots": "..",
        "a name with a slash": "a/b",
        "a backslash": "..\\..\\outside",
        "empty": "",
        "a control character": "a\x01b",
        "very long": "a" * 5000,
        "a percent": "..%2f..%2foutside",
        "hidden": ".hidden",
    }.items():
        for header in ("ETag", "X-Linked-Etag"):
            found[f"{header} is {what}"] = with_header(f'{header}: "{value}"')
        found[f"commit is {what}"] = with_header(f"X-Repo-Commit: {value}")
    found["weak ETag that is a path"] = with_header(f'ETag: W/"{outside}/weak"')
    found["size of letters"] = with_header("X-Linked-Size: many")
    return found
