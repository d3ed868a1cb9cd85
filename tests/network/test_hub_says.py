"""Names in the answers of the Hub, on every way to the user; and where the access token is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import hostile
from support.hostile_hub import Hub
from support.hub_server import Takeover, blob_id

from eagle3hub.checkpoint import hub as client
from eagle3hub.checkpoint.hub import HubRules
from eagle3hub.errors import HubError
from eagle3hub.jobs import api
from eagle3hub.network.bounds import Exceeded
from eagle3hub.publishing import remote

REPO = "alice/head"
OID = "0" * 40
Change = Callable[[Any], Any]


def siblings(**first: Any) -> Change:
    return lambda d: {**d, "siblings": [{**d["siblings"][0], **first}, *d["siblings"][1:]]}


def entries(**first: Any) -> Change:
    return lambda d: [{**d[0], **first}, *d[1:]]


def refs(kind: str, **first: Any) -> Change:
    return lambda d: {**d, kind: [{"name": "x", "ref": "refs/heads/x", "targetCommit": OID, **first}]}


def merged(**fields: Any) -> Change:
    return lambda d: {**d, **fields}


LIST, TREE, REFS = "/api/models/alice/head", "/tree/", "/refs"
CASES: list[tuple[str, Change, Callable[[], Any]]] = [
    *(
        (LIST, siblings(rfilename=bad), lambda: client.list_files(REPO))
        for bad in ("../../x", "/etc/passwd", "a\nb", "a\x1b[2J", "a\\..\\b", "a\u202egpj.exe", "", None, 7, "a//b")
    ),
    *((LIST, siblings(blobId=bad), lambda: client.list_files(REPO)) for bad in ("../x", "abc", 5, "A" * 40)),
    *((LIST, siblings(size=bad), lambda: client.list_files(REPO)) for bad in (-1, "10", "big", 2**70, 1.5, True, [])),
    *(
        (LIST, siblings(lfs={"sha256": bad, "size": 1, "pointerSize": 1}), lambda: client.list_files(REPO))
        for bad in ("../../x", "0" * 63, "", None, 5)
    ),
    *((LIST, merged(sha=bad), lambda: client.list_files(REPO)) for bad in ("../x", "main", "", None, 5, OID + "\n")),
    *((LIST, merged(private=bad), lambda: remote.read_state(REPO)) for bad in ("false", 0, None, [])),
    *(
        (LIST, merged(gated=bad), lambda: remote.read_state(REPO))
        for bad in (True, "maybe", 1, {"x": 1}, "manual\x1b[2J")
    ),
    *(
        (TREE, entries(path=bad), lambda: remote.list_files_at(REPO, OID))
        for bad in ("../../x", "/x", "a\nb", "a/../b", 5)
    ),
    *((TREE, entries(oid=bad), lambda: remote.list_files_at(REPO, OID)) for bad in ("../x", "", None, 5)),
    *((TREE, entries(size=bad), lambda: remote.list_files_at(REPO, OID)) for bad in (-1, "1", "big", None, 1.5)),
    *(
        (TREE, entries(lfs={"oid": bad, "size": 1, "pointerSize": 1}), lambda: remote.list_files_at(REPO, OID))
        for bad in ("../x", "", None, 5)
    ),
    *(
        (REFS, refs(kind, name=bad), lambda: remote.read_state(REPO))
        for kind in ("branches", "tags")
        for bad in ("a\x1b[2J", "../x", "", "a b", None, 5)
    ),
    *((REFS, refs(kind, targetCommit="../x"), lambda: remote.read_state(REPO)) for kind in ("branches", "tags")),
    *(
        (REFS, refs("pullRequests", ref=bad), lambda: remote.read_state(REPO))
        for bad in ("refs/pr/x", "1", "refs/pr/1\n", 5)
    ),
    *(
        ("/api/jobs/alice/j1$", merged(**{key: bad}), lambda: api.inspect("alice/j1"))
        for key, bad in [
            ("id", "../x"),
            ("id", "a\x1b[2J"),
            ("id", None),
            ("owner", {"id": "1", "name": "a\nb", "type": "user"}),
            ("owner", {"id": "1", "name": "../..", "type": "user"}),
            ("status", {"stage": "RUNNING\x1b[2J", "message": None}),
            ("status", {"stage": ["RUNNING"], "message": None}),
            ("status", {"stage": "RUNNING", "message": 5}),
            ("command", [1, 2]),
            ("command", {"a": 1}),
            ("endpoint", "http://evil.example"),
        ]
    ),
    *(("/whoami", merged(name=bad), api.account) for bad in ("../..", "a\x1b[2J", "", None, 5, "a/b")),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_names_and_numbers_that_are_none(hub: Hub, number: int) -> None:
    path, change, do = CASES[number]
    oid = hub.commit(REPO, {"config.json": b"{}", "w.safetensors": b"x" * 20_000})
    hub.repos[REPO].commits[OID] = hub.repos[REPO].commits[oid]
    hub.takeovers.append(Takeover("GET", path, hostile.edited(change)))
    with pytest.raises(HubError) as error:
        do()
    assert error.value.code in {"hub-name", "hub-protocol"}
    assert error.value.message.isprintable()
    assert error.value.hint


@pytest.mark.parametrize("pull", ["http://evil.example/x", "javascript:x", "{url}/x\x1b[2J", 5, ["x"]], ids=ascii)
def test_the_address_of_a_pull_request_is_the_hubs(hub: Hub, pull: Any) -> None:
    oid = hub.commit(REPO, {"config.json": b"{}"})
    url = pull.replace("{url}", hub.url) if isinstance(pull, str) else pull
    hub.takeovers.append(Takeover("POST", "/commit/", hostile.edited(merged(pullRequestUrl=url))))
    data = b"{}\n"
    how: dict[str, Any] = {"remove": [], "message": "m", "description": "", "create_pr": True}
    with pytest.raises(HubError):
        remote.commit(REPO, "main", oid, add={"a.json": (data, hashlib.sha256(data).hexdigest())}, **how)


def upload(hub: Hub, oid: str) -> None:
    data = b"large" * 10_000
    how: dict[str, Any] = {"remove": [], "message": "m", "description": "", "create_pr": False}
    remote.commit(REPO, "main", oid, add={"w.safetensors": (data, hashlib.sha256(data).hexdigest())}, **how)


@pytest.mark.parametrize("what", ["verify", "upload", "parts"])
def test_no_token_follows_an_address_of_an_upload(hub: Hub, elsewhere: tuple[str, list[str]], what: str) -> None:
    """The instructions for an upload may name any host: the file is sent there, the token is not."""
    foreign, heard = elsewhere
    oid = hub.commit(REPO, {"config.json": b"{}"})

    def elsewhere_too(batch: Any) -> Any:
        for one in batch["objects"]:
            if what == "verify":
                one["actions"]["verify"] = {"href": f"{foreign}/verify"}
            elif what == "upload":
                one["actions"]["upload"]["href"] = f"{foreign}/put"
            else:
                parts = {str(i): f"{foreign}/{i}" for i in range(1, 6)}
                one["actions"]["upload"] = {"href": f"{foreign}/done", "header": {"chunk_size": "10000", **parts}}
        return batch

    hub.takeovers.append(Takeover("POST", "objects/batch", hostile.edited(elsewhere_too)))
    if what == "verify":
        upload(hub, oid)
    else:
        with pytest.raises(HubError):
            upload(hub, oid)
    assert heard
    assert not [request for request in heard if "hf_good" in request or "authorization" in request.lower()]
    assert [r.token for r in hub.requests if "/commit/" in r.path] == ["hf_good"] * (what != "parts")


def test_a_job_with_the_token_is_not_started_elsewhere(hub: Hub, elsewhere: tuple[str, list[str]]) -> None:
    """A redirect with status 307 repeats the body, and the body of a job contains the token."""
    foreign, heard = elsewhere
    moved = hostile.says(b"", f"Location: {foreign}/api/jobs/alice", status="307 Temporary Redirect")
    hub.takeovers.append(Takeover("POST", "/api/jobs/alice", moved))
    how: dict[str, Any] = {"image": "i", "command": ["true"], "flavor": "cpu-basic", "seconds": 60}
    with pytest.raises(HubError) as error:
        api.start(namespace="alice", labels={}, pass_token=True, **how)
    assert error.value.code == "hub-redirect"
    assert heard == []


@pytest.mark.parametrize(
    ("endpoint", "url", "stays"),
    [
        ("https://hub.example", "https://hub.example/api/x", True),
        ("https://hub.example", "https://hub.example:8443/api/x", False),
        ("https://hub.example", "https://cdn.example/x", False),
        ("https://hub.example", "https://hub.example.evil/x", False),
        ("https://hub.example", "https://runner.example/identity", False),
        ("https://hub.example", "http://hub.example/api/x", None),
        ("https://hub.example", "http://cdn.example/x", None),
        ("http://127.0.0.1:5", "http://127.0.0.1:6/x", False),
        ("http://127.0.0.1:5", "http://127.0.0.1:5/x", True),
    ],
)
def test_whom_the_token_is_sent_to(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, url: str, stays: bool | None
) -> None:
    """Nothing is sent, not even the request."""
    import httpx2
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://runner.example/identity?x=1")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "the-runners-own")
    request = httpx2.Request("GET", url, headers={"Authorization": "Bearer hf_good"})
    if stays is None:
        with pytest.raises(Exceeded):
            HubRules().request(request)
        return
    HubRules().request(request)
    assert ("authorization" in request.headers) is stays
    to_runner = httpx2.Request(
        "GET", "https://runner.example/identity", headers={"Authorization": "bearer the-runners-own"}
    )
    HubRules().request(to_runner)
    assert "authorization" in to_runner.headers


@pytest.mark.parametrize("name", ["config.json", "w.safetensors"])
def test_a_file_in_the_cache_with_other_bytes_is_not_kept(hub: Hub, name: str) -> None:
    """This also holds for one that an earlier run or another program left there."""
    oid = hub.commit(REPO, {"config.json": b'{"a": 1}', "w.safetensors": b"x" * 20_000})
    path = client.download_file(REPO, name, oid)
    good = path.read_bytes()
    path.resolve().write_bytes(good[:-1] + b"!")
    with pytest.raises(HubError) as error:
        client.download_file(REPO, name, oid)
    assert error.value.code == "hub-digest"
    assert client.cached_file(REPO, name, oid) is None
    assert not path.resolve().exists()
    assert client.download_file(REPO, name, oid).read_bytes() == good


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
def test_nothing_is_written_where_a_header_points(hub: Hub, tmp_path: Path, header: str) -> None:
    oid = hub.commit(REPO, {"config.json": b'{"a": 1}'})
    outside = tmp_path / "outside" / "written"
    hub.takeovers.append(Takeover("HEAD", "config.json", hostile.with_header(f'{header}: "{outside}"')))
    with pytest.raises(HubError) as error:
        client.download_file(REPO, "config.json", oid)
    assert error.value.code == "hub-name"
    assert list(outside.parent.iterdir()) == []


def test_a_pointer_of_a_file_in_lfs_stands_for_it(tmp_path: Path) -> None:
    from eagle3hub.checkpoint.hub import Stated, holds

    data = b"x" * 100
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "f").write_bytes(data)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 100\n".encode()
    assert holds(tmp_path / "f", Stated(100, blob_id(pointer)))
    assert holds(tmp_path / "f", Stated(100, blob_id(data)))
    assert holds(tmp_path / "f", Stated(None, "0" * 40, sha256))
    assert holds(tmp_path / "f", Stated())
    assert not holds(tmp_path / "f", Stated(101))
    assert not holds(tmp_path / "f", Stated(100, "0" * 40))
    assert not holds(tmp_path / "f", Stated(100, blob_id(data), "0" * 64))


def test_the_line_of_a_log_ends(hub: Hub) -> None:
    def endless(h: Any, deserved: Callable[[], bytes]) -> None:
        h.connection.sendall(hostile.CHUNKED + hostile.chunk(b"data: "))
        hostile.flood(h, hostile.chunk(b"x" * hostile.FLOOD))

    hub.takeovers.append(Takeover("GET", "/logs", endless))
    with pytest.raises(HubError, match="a line of the log has more than 1 MiB"):
        api.Log("alice/j1").follow(lambda line: None)


def test_a_file_that_is_begun_anew_for_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time half of the file arrives, whatever part was asked for; the client alone would go on for ever."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    data = b'"' + b"x" * 200_000 + b'"'
    oid = hub.commit(REPO, {"w.safetensors": data})

    def half(h: Any, deserved: Callable[[], bytes]) -> None:
        h.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[:100_000])

    hub.takeovers.append(Takeover("GET", "/cdn/", half))
    with pytest.raises(HubError) as error:
        client.download_file(REPO, "w.safetensors", oid)
    assert error.value.code == "hub-size"
    assert len([r for r in hub.requests if r.method == "GET" and "/cdn/" in r.path]) < 50


def test_a_slow_transfer_that_moves_is_let_be(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer may take three times the limit if it moves its quota of bytes each time."""
    monkeypatch.setenv("EAGLE3HUB_HUB_TIMEOUT", "1")
    monkeypatch.setattr("eagle3hub.network.bounds.QUOTA", 100)
    data = json.dumps({"x": "y" * 3000}).encode()
    oid = hub.commit(REPO, {"config.json": data})

    def slowly(h: Any, deserved: Callable[[], bytes]) -> None:
        head, _, body = deserved().partition(b"\r\n\r\n")
        h.connection.sendall(head + b"\r\n\r\n")
        hostile.drip(h, (body[i : i + 100] for i in range(0, len(body), 100)), step=0.1)

    hub.takeovers.append(Takeover("GET", "config.json", slowly))
    assert client.download_file(REPO, "config.json", oid).read_bytes() == data
