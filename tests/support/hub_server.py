"""A Hub on loopback, good enough for the real huggingface_hub client (without Xet), with faults on demand.

Repositories are chains of commits of whole files. Large files are answered as the Hub does: a redirect to another
host, where ranges work and no token may arrive. Every request is kept with the bytes it was answered with.
Routes are a table, so that more of the protocol is a function and a line.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 10_000


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    gated: bool | str = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision) or self.tags.get(revision) or revision)


@dataclass
class Fault:
    """Answer the next ``times`` requests that match otherwise than they deserve.

    ``status`` replaces the answer; ``cut_after`` sends so many bytes of a longer body and hangs up; ``whole`` ignores
    a Range; ``pause`` waits so many seconds first; ``hang_up`` reads so many bytes of what the client sends and hangs
    up; ``before`` is called when the request arrives, ``after`` when it has been carried out and not answered.
    """

    method: str
    path: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    whole: bool = False
    pause: float = 0.0
    hang_up: int | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    times: int = 1

    def takes(self, method: str, path: str) -> bool:
        if self.times <= 0 or method not in self.method.split("|") or not re.search(self.path, path):
            return False
        self.times -= 1
        return True


@dataclass
class Takeover:
    """Answer requests that match with whatever bytes ``act`` writes to the connection, which is closed then.

    ``act`` is handed the handler, and a function that gives the answer the request deserves, as bytes. With
    ``unread`` nothing is read of the request's body first.
    """

    method: str
    path: str
    act: Callable[[Any, Callable[[], bytes]], None]
    body: bytes = b""
    unread: bool = False
    times: int = 1 << 30

    def takes(self, method: str, path: str, body: bytes | None) -> bool:
        fits = method in self.method.split("|") and re.search(self.path, path) is not None
        if self.times <= 0 or not fits or (body is None) != self.unread or self.body not in (body or b""):
            return False
        self.times -= 1
        return True


@dataclass
class Request:
    method: str
    path: str
    host: str
    range: str | None
    token: str | None
    status: int = 0
    served: int = 0


class HubServer:
    """The server; ``url`` is its endpoint. Use it in a ``with`` statement."""

    routes: list[tuple[str, str, Callable[..., None]]]

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_good": "alice", "hf_other": "bob"}
        self.collections: dict[str, list[str]] = {}
        self.faults: list[Fault] = []
        self.takeovers: list[Takeover] = []
        self.requests: list[Request] = []
        self.blobs: dict[str, bytes] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        sha256.cache_clear()  # each holds the bytes it was asked about
        blob_id.cache_clear()

    @property
    def served(self) -> int:
        """Bytes sent so far, headers included."""
        return sum(r.served for r in self.requests)

    def repo(self, repo_id: str, *, private: bool = False, gated: bool = False) -> Repo:
        return self.repos.setdefault(repo_id, Repo(private, gated))

    def commit(self, repo_id: str, files: dict[str, bytes] | Path, revision: str = "main", **of_repo: bool) -> str:
        """Put files (or those of a folder) into a new commit of a branch; returns its id."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self.repo(repo_id, **of_repo)
        parent = repo.refs.get(revision)
        every = {**(repo.commits[parent].files if parent else {}), **files}
        text = json.dumps([parent, len(repo.commits), {n: sha256(b) for n, b in every.items()}])
        oid = hashlib.sha1(text.encode()).hexdigest()
        repo.commits[oid] = Commit(oid, parent, every)
        repo.refs[revision] = oid
        self.blobs.update({sha256(b): b for b in every.values() if is_lfs(b)})
        return oid

    def fail(self, path: str, method: str = "GET|HEAD", **how: Any) -> None:
        self.faults.append(Fault(method, path, **how))

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables that point a client in another process at this server.

        It speaks plain HTTP: a folder without certificates spares each client reading the machine's bundle of them.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "SSL_CERT_FILE": "",
            "SSL_CERT_DIR": str(home),
            **({"HF_TOKEN": token} if token else {}),
        }


@contextmanager
def client_of(server: HubServer, home: Path, monkeypatch: Any) -> Iterator[HubServer]:
    """Point huggingface_hub, as loaded in this process, at the server, with a cache of its own and no token."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(home))  # as in `HubServer.env`
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    close_session()
    try:
        yield server
    finally:
        close_session()


@lru_cache(maxsize=256)
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=256)
def blob_id(data: bytes) -> str:
    digest = hashlib.sha1(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


def is_lfs(data: bytes) -> bool:
    return len(data) >= LFS_FROM


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of this server's errors."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits until the client has acknowledged the headers
    server: _Server
    fault: Fault | None = None
    request_seen: Request

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in ``HubServer.requests`` instead."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def answer(self) -> None:
        split = urlsplit(self.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.request_seen = Request(
            self.command, self.path, self.headers.get("Host", ""), self.headers.get("Range"), token
        )
        self.hub.requests.append(self.request_seen)
        self.query = parse_qs(split.query)
        self.fault = next((f for f in self.hub.faults if f.takes(self.command, split.path)), None)
        if self.fault is not None and self.fault.hang_up is not None:
            self.rfile.read(min(self.fault.hang_up, int(self.headers.get("Content-Length") or 1)))
            if self.fault.before is not None:
                self.fault.before()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if self.taken_over(None):
            return
        self.body = self.read_body()
        if self.taken_over(self.body):
            return
        if self.fault is not None:
            threading.Event().wait(self.fault.pause)
            if self.fault.before is not None:
                self.fault.before()
            if self.fault.status is not None:
                self.send_json({"error": "on demand"}, self.fault.status, **self.fault.headers)
                return
        self.route()

    def route(self) -> None:
        path = urlsplit(self.path).path
        for method, pattern, handle in self.hub.routes:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("|"):
                handle(self, **{k: unquote(v) for k, v in match.groupdict().items() if v is not None})
                return
        self.send_json({"error": "no such route"}, 404)

    def taken_over(self, body: bytes | None) -> bool:
        takeover = next((t for t in self.hub.takeovers if t.takes(self.command, self.path, body)), None)
        if takeover is None:
            return False
        self.close_connection = True
        with suppress(OSError):
            takeover.act(self, self.deserved)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def deserved(self) -> bytes:
        """The answer as it would be sent."""
        real, self.wfile = self.wfile, BytesIO()
        try:
            self.route()
            return self.wfile.getvalue()
        finally:
            self.wfile = real

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if length else b""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def find(self, repo: str, revision: str = "main") -> Commit | None:
        """The commit asked for, or None after an error has been sent."""
        token = self.request_seen.token
        if token is not None and token not in self.hub.tokens:
            self.send_json({}, 401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        found = self.hub.repos.get(repo)
        if found is None or (found.private and token is None):
            self.send_json(
                {"error": "Repository not found"}, 404 if token else 401, **{"X-Error-Code": "RepoNotFound"}
            )
            return None
        if found.gated and "/resolve/" in self.path and self.hub.tokens.get(token or "") != repo.split("/")[0]:
            self.send_json({}, 403 if token else 401, **{"X-Error-Code": "GatedRepo"})
            return None
        commit = found.resolve(revision)
        if commit is None:
            self.send_json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        return commit

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send_bytes(json.dumps(value).encode(), status, **{"Content-Type": "application/json", **headers})

    def send_bytes(self, data: bytes, status: int = 200, **headers: str) -> None:
        if self.fault is not None and self.fault.after is not None:
            self.fault.after()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        size = sum(len(line) for line in self._headers_buffer) + 2
        self.request_seen.status = status
        if self.command == "HEAD":
            data = b""
        cut = None if self.fault is None else self.fault.cut_after
        if self.fault is not None and cut is not None and cut >= len(data):
            self.fault.times += 1  # nothing to cut off here: keep it for an answer that is long enough
            cut = None
        self.request_seen.served = size + len(data if cut is None else data[:cut])
        self.end_headers()
        if cut is None:
            self.wfile.write(data)
            return
        self.wfile.write(data[:cut])
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send_file(self, data: bytes, **headers: str) -> None:
        """A file, or the part of it that a Range asks for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers["Accept-Ranges"] = "bytes"
        if asked is None or (self.fault is not None and self.fault.whole):
            self.send_bytes(data, 200, **headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start > end:
            self.send_bytes(b"", 416, **{"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self.send_bytes(data[start : end + 1], 206, **headers)


def _info(h: _Handler, repo: str, revision: str = "main") -> None:
    commit = h.find(repo, revision)
    if commit is None:
        return
    siblings: list[dict[str, Any]] = []
    for name, data in commit.files.items():
        entry: dict[str, Any] = {"rfilename": name}
        if "blobs" in h.query:
            entry |= {"size": len(data), "blobId": blob_id(data)}
            if is_lfs(data):
                entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
        siblings.append(entry)
    of = h.hub.repos[repo]
    flags = {"private": of.private, "gated": "manual" if of.gated is True else of.gated, "disabled": False}
    h.send_json({"id": repo, "modelId": repo, "sha": commit.oid, "tags": [], "siblings": siblings, **flags})


def _tree(h: _Handler, repo: str, revision: str, path: str = "") -> None:
    commit = h.find(repo, revision)
    if commit is None:
        return
    entries: list[dict[str, Any]] = []
    for name, data in commit.files.items():
        inside = name.removeprefix(f"{path}/" if path else "")
        if (path and not name.startswith(f"{path}/")) or ("recursive" not in h.query and "/" in inside):
            continue
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
        if is_lfs(data):
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        entries.append(entry)
    h.send_json(entries)


def _refs(h: _Handler, repo: str) -> None:
    if h.find(repo) is not None:
        of = h.hub.repos[repo]
        branches = {n: c for n, c in of.refs.items() if not n.startswith("refs/")}
        pulls = {n: c for n, c in of.refs.items() if n.startswith("refs/pr/")}
        answer = {
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in branches.items()],
            "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in of.tags.items()],
            "converts": [],
        }
        if "include_prs" in h.query:
            answer["pullRequests"] = [{"name": n, "ref": n, "targetCommit": c} for n, c in pulls.items()]
        h.send_json(answer)


def _resolve(h: _Handler, repo: str, revision: str, path: str) -> None:
    commit = h.find(repo, revision)
    if commit is None:
        return
    headers = {"X-Repo-Commit": commit.oid}
    data = commit.files.get(path)
    if data is None:
        h.send_json({"error": "Entry not found"}, 404, **headers, **{"X-Error-Code": "EntryNotFound"})
    elif is_lfs(data):
        oid = sha256(data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"'}
        h.send_bytes(b"", 302, Location=f"{h.hub.cdn}/cdn/{oid}?signature=secret", **headers)
    else:
        h.send_file(data, ETag=f'"{blob_id(data)}"', **headers)


def _cdn(h: _Handler, oid: str) -> None:
    data = h.hub.blobs.get(oid)
    if data is None or h.request_seen.token is not None:
        h.send_bytes(b"", 400)
        return
    h.send_file(data, ETag=f'"{oid}"')


def _whoami(h: _Handler) -> None:
    name = h.hub.tokens.get(h.request_seen.token or "")
    h.send_json({"name": name, "type": "user"} if name else {"error": "Invalid"}, 200 if name else 401)


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>refs/\w+/\w+|[^/]+)"
Handle = Callable[..., None]
ROUTES: list[tuple[str, str, Handle]] = [
    ("GET", "/api/whoami-v2", _whoami),
    ("GET", rf"/api/models/{_REPO}", _info),
    ("GET", rf"/api/models/{_REPO}/revision/{_REVISION}", _info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REVISION}(?:/(?P<path>.*))?", _tree),
    ("GET", rf"/api/models/{_REPO}/refs", _refs),
    ("GET|HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})", _cdn),
    ("GET|HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _resolve),
    ("GET|HEAD", rf"/(?P<repo>datasets/[\w.-]+/[\w.-]+)/resolve/{_REVISION}/(?P<path>.+)", _resolve),
]
HubServer.routes = ROUTES
