"""A Hub on loopback that is hostile or broken in one exchange at a time, with the real huggingface_hub.

Every case ends within its limit with one sentence and exit code 5, writes nothing outside the cache, keeps nothing in
it under the name that was asked for, and sends the access token to nobody else. EAGLE3HUB_THOROUGH=1 tries every
fault on every exchange; EAGLE3HUB_TABLE=FILE appends what came of each case.
"""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import hostile
from support.hostile_hub import TOKEN, Hub
from support.hub_server import Takeover
from support.sampling import THOROUGH

from eagle3hub.checkpoint import hub as client
from eagle3hub.checkpoint.remote import download_weights
from eagle3hub.errors import HubError
from eagle3hub.jobs import api
from eagle3hub.publishing import remote

LIMIT = 0.5
BOUND = 30.0
"""Seconds after which a case counts as hung: five times the limit, as for a commit, plus slack for slow machines."""
MEMORY = 500 << 20
CODES = {
    "silent": "hub-timeout",
    "headers dripped": "hub-timeout",
    "trailers dripped": "hub-timeout",
    "headers flooded": "hub-protocol|hub-size|hub-network|hub-timeout",
    "endless chunks": "hub-size|hub-timeout",
    "60 MB of {}": "hub-size|hub-timeout",
    "a length of exabytes": "hub-size|hub-timeout|hub-network",
    "bad gzip": "hub-protocol",
    "deep JSON": "hub-protocol",
    "half an answer": "hub-network|hub-protocol|hub-timeout",
    "429, wait for a day": "hub-busy",
    "commit that is a path": "hub-name",
    "redirect to a file": "hub-redirect",
    "redirect (307) to another host": "hub-redirect",
    "next page on another host": "hub-redirect",
    "other bytes": "hub-digest",
}
"""The names of some faults, for exchanges whose answer the client uses."""
CONFIG = b'{"model_type": "llama", "n": %d}'


@dataclass
class Case:
    """A repository in which one exchange goes wrong."""

    number: int
    repo: str
    commit: str
    large: bytes

    @property
    def config(self) -> bytes:
        return CONFIG % self.number

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.large).hexdigest()


@dataclass(frozen=True)
class Exchange:
    """``method`` and ``path`` find it, ``{repo}``, ``{n}`` and ``{sha}`` filled in; ``do`` makes it happen.

    ``body``: what a request of this case alone has in its body. ``heeds``: whether the client looks at the answer.
    """

    method: str
    path: str
    do: Callable[[Case], Any]
    kind: str = "json"
    body: str = ""
    heeds: bool = True


def stated(case: Case, data: bytes) -> client.Stated:
    large = len(data) > 10_000
    sha1 = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return client.Stated(len(data), None if large else sha1, hashlib.sha256(data).hexdigest() if large else None)


def config(case: Case) -> None:
    path = client.download_file(case.repo, "config.json", case.commit, stated=stated(case, case.config))
    assert path.read_bytes() == case.config


def weights(case: Case) -> None:
    path = download_weights(case.repo, "w.safetensors", case.commit, stated=stated(case, case.large))
    assert path.read_bytes() == case.large


def piece(case: Case) -> None:
    assert client.read_range(case.repo, "w.safetensors", case.commit, 0, 100) == (case.large[:100], len(case.large))


def commit(case: Case) -> None:
    data = hashlib.sha256(case.repo.encode()).digest() * 1000
    add = {"new.safetensors": (data, hashlib.sha256(data).hexdigest())}
    how = {"add": add, "remove": [], "message": "m", "description": "", "create_pr": False}
    remote.commit(case.repo, "main", case.commit, **how)


def follow(case: Case) -> None:
    lines: list[str] = []
    api.Log(f"alice/j{case.number}").follow(lines.append)
    assert set(lines) <= {"one", "two"}


def start(case: Case) -> None:
    how = {"image": "i", "flavor": "cpu-basic", "seconds": 60, "labels": {"case": f"h{case.number}x"}}
    api.start(command=["true"], namespace="alice", pass_token=True, **how)


EXCHANGES: dict[str, Exchange] = {
    "listing": Exchange("GET", r"/api/models/{repo}\?", lambda c: client.list_files(c.repo)),
    "HEAD of a small file": Exchange("HEAD", "/{repo}/resolve/.*json", config, "head"),
    "small file": Exchange("GET", "/{repo}/resolve/.*json", config, "file"),
    "HEAD of weights": Exchange("HEAD", "/{repo}/resolve/.*safetensors", weights, "head"),
    "weights": Exchange("GET", "/cdn/{sha}", weights, "file"),
    "range of weights": Exchange("GET", "/cdn/{sha}", piece, "range"),
    "look": Exchange("GET", "/api/models/{repo}$", lambda c: remote.read_state(c.repo)),
    "refs": Exchange("GET", "/api/models/{repo}/refs", lambda c: remote.read_state(c.repo)),
    "tree": Exchange("GET", "/api/models/{repo}/tree/", lambda c: remote.list_files_at(c.repo, c.commit), "pages"),
    "create": Exchange(
        "POST",
        "/api/repos/create",
        lambda c: remote.create_repository(f"alice/made-h{c.number}x", private=True),
        body="made-h{n}x",
    ),
    "preupload": Exchange("POST", "/api/models/{repo}/preupload/", commit),
    "batch": Exchange("POST", "/{repo}.git/info/lfs/", commit),
    "put": Exchange("PUT", "/put/{new}", commit, heeds=False),
    "commit": Exchange("POST", "/api/models/{repo}/commit/", commit),
    "branch": Exchange(
        "POST", "/api/models/{repo}/branch/", lambda c: remote.create_branch(c.repo, "b", c.commit), heeds=False
    ),
    "tag": Exchange(
        "POST", "/api/models/{repo}/tag/", lambda c: remote.create_tag(c.repo, "v", c.commit), heeds=False
    ),
    "settings": Exchange("PUT", "/api/models/{repo}/settings", lambda c: remote.make_public(c.repo), heeds=False),
    "collection": Exchange(
        "GET", "/api/collections/alice/h{n}$", lambda c: remote.in_collection(c.repo, f"alice/h{c.number}")
    ),
    "items": Exchange(
        "POST", "/api/collections/alice/h{n}/items", lambda c: remote.add_to_collection(c.repo, f"alice/h{c.number}")
    ),
    "job": Exchange("GET", "/api/jobs/alice/j{n}$", lambda c: api.inspect(f"alice/j{c.number}")),
    "log": Exchange("GET", "/api/jobs/alice/j{n}/logs", follow, "log"),
    "start": Exchange("POST", "/api/jobs/alice$", start, body="h{n}x"),
    "cancel": Exchange("POST", "/api/jobs/alice/j{n}/cancel", lambda c: api.cancel(f"alice/j{c.number}"), heeds=False),
}


def faults_of(name: str, exchange: Exchange, outside: Path, foreign: str) -> dict[str, hostile.Act]:
    """Return the faults to try on an exchange: all of its kind, or every third."""
    moved = {
        f"redirect ({status}) to another host": hostile.says(b"", f"Location: {foreign}/x", status=f"{status} Moved")
        for status in (302, 307, 308)
    }
    found = {**hostile.WAITS, **hostile.HEADERS, **moved}
    if exchange.kind == "head":
        found |= hostile.etags(str(outside))
        del found["500 with endless text"]
    else:
        found |= hostile.BODIES
    if exchange.kind in {"json", "pages"}:
        found |= hostile.JSON
    if exchange.kind == "file":
        found |= hostile.FILES
    if exchange.kind == "pages":
        found["endless pages"] = hostile.next_page
        found["next page on another host"] = hostile.with_header(f'Link: <{foreign}/next>; rel="next"')
    chosen = name in {"listing", "HEAD of a small file", "small file", "weights", "commit", "put"} or THOROUGH
    return found if chosen else {k: act for i, (k, act) in enumerate(found.items()) if (i + len(name)) % 3 == 0}


def tree_of(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.relative_to(folder).parts[0] != "home"}


def new_case(hub: Hub, number: int) -> Case:
    large = hashlib.sha256(b"%d" % number).digest() * 40_000
    repo = f"alice/h{number}"
    oid = hub.commit(repo, {"config.json": CONFIG % number, "w.safetensors": large})
    hub.collections[repo] = []
    return Case(number, repo, oid, large)


def try_one(hub: Hub, number: int, exchange: Exchange, act: hostile.Act) -> tuple[float, str, str | None]:
    """Return the seconds it took, the outcome, and what is wrong with the outcome."""
    case = new_case(hub, number)
    new = hashlib.sha256(hashlib.sha256(case.repo.encode()).digest() * 1000).hexdigest()
    names = {"{repo}": case.repo, "{n}": str(number), "{sha}": case.digest, "{new}": new}
    path, body = exchange.path, exchange.body
    for name, value in names.items():
        path, body = path.replace(name, value), body.replace(name, value)
    hub.takeovers.append(Takeover(exchange.method, path, act, body.encode()))
    begun = time.monotonic()
    try:
        exchange.do(case)
    except HubError as error:
        outcome, wrong = error.code, wrong_error(error)
    except BaseException as error:
        outcome, wrong = type(error).__name__, f"{type(error).__name__}: {error}"
    else:
        outcome, wrong = "ok", None
    seconds = time.monotonic() - begun
    if seconds > BOUND:
        wrong = wrong or f"took {seconds:.0f} s"
    if outcome != "ok" and exchange.kind in {"head", "file"}:
        asked = "config.json" if exchange.do is config else "w.safetensors"
        if client.cached_file(case.repo, asked, case.commit) is not None:
            wrong = wrong or "left in the cache"
    return seconds, outcome, wrong


def wrong_error(error: HubError) -> str | None:
    if error.exit_code != 5 or not error.code.startswith("hub-"):
        return f"code {error.code}"
    if "\n" in error.message or not error.message.isprintable() or TOKEN in error.message or not error.hint:
        return f"message {error.message!r}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("name", EXCHANGES)
def test_no_exchange_with_a_hostile_hub_hangs_or_writes_elsewhere(
    hub: Hub, tmp_path: Path, elsewhere: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    exchange = EXCHANGES[name]
    foreign, heard = elsewhere
    exchange.do(new_case(hub, 0))  # the exchange itself works, and all that is loaded for it is loaded
    monkeypatch.setenv("EAGLE3HUB_HUB_TIMEOUT", str(LIMIT))
    faults = faults_of(name, exchange, tmp_path / "outside", foreign)
    before, memory = tree_of(tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(len(faults)) as pool:
        futures = {
            fault: pool.submit(try_one, hub, number, exchange, act)
            for number, (fault, act) in enumerate(faults.items(), 1)
        }
        done = {fault: future.result() for fault, future in futures.items()}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    write_down(name, done, grown)
    wrong = {fault: f"{why} ({outcome})" for fault, (_, outcome, why) in done.items() if why}
    assert not wrong
    passed = {fault for fault, (_, outcome, _) in done.items() if outcome == "ok"}
    assert passed <= harmless(exchange)
    if exchange.heeds and exchange.kind in {"json", "pages"}:
        called = {fault: outcome for fault, (_, outcome, _) in done.items() if fault in CODES}
        # a connection that the server closed is tried again, and by then the one second may have passed
        assert {f: code for f, code in called.items() if code not in {*CODES[f].split("|"), "hub-timeout"}} == {}
    assert tree_of(tmp_path) == before
    assert grown < MEMORY
    assert not [request for request in heard if TOKEN in request or "authorization" in request.lower()]


def harmless(exchange: Exchange) -> set[str]:
    """Return the faults after which an exchange may succeed, because they do not touch what was asked for."""
    found: set[str] = set()
    if exchange.kind == "log":  # of a job that is over: what the client got is all there is
        found |= {*hostile.WAITS, *hostile.HEADERS, *hostile.BODIES}
    if exchange.kind == "head":
        found |= {"size of letters"}
    if not exchange.heeds:
        found |= {*hostile.JSON, "commit that is a path", "101 Switching"}
    return found


def write_down(name: str, done: dict[str, tuple[float, str, str | None]], grown: int) -> None:
    if table := os.environ.get("EAGLE3HUB_TABLE"):
        with open(table, "a") as f:
            for fault, (seconds, outcome, wrong) in done.items():
                f.write(f"{name}\t{fault}\t{outcome}\t{seconds:.2f}\t{grown >> 20}\t{wrong or ''}\n")
