"""Publishing without a Hub, or with one that does not answer: gates are still shown, and waits are announced."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing.folders import REPO
from support import hostile
from support.hub_server import Takeover
from support.hub_writes import WritableHub

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gone(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> WritableHub:
    """Set the address of the Hub to one where nobody listens."""
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    return hub


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nobody listens", "offline", "busy", "silent"])
def test_a_dry_run_shows_the_gates(
    hub: WritableHub,
    release: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    waits: list[float],
    how: str,
):
    from huggingface_hub import constants

    monkeypatch.setenv("EAGLE3HUB_HUB_TIMEOUT", "0.5")
    if how == "nobody listens":
        request.getfixturevalue("gone")
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "busy":
        hub.fail("/api/", status=503, times=999)
    else:
        hub.takeovers.append(Takeover("GET", "/api/", hostile.silent))
    argv = ("publish", release, "--repo", REPO, "--dry-run", "--tag", "v1", "--collection", "alice/shelf")
    status, out, err = cli(*argv, "--json")
    assert status == 0, out + err
    plan = json.loads(out)
    assert (plan["compared"], plan["exists"], plan["collected"], plan["problems"]) == (False, None, False, [])
    assert {f["state"] for c in plan["commits"] for f in c["files"]} == {"unknown"}
    assert all(commit["needed"] for commit in plan["commits"])
    (release / "optimizer.pt").write_bytes(b"\x80\x04")
    for more in ((), ("--dry-run",)):
        status, out, err = cli("publish", release, "--repo", REPO, *more)
        assert status == 1, out + err
        assert "refused publish-training-state" in out
        assert "compared with nothing" in out
        assert "nothing was sent" in out
    assert hub.uploads == []


def test_what_is_to_be_sent_needs_the_hub(gone: WritableHub, release: Path, cli: Cli):
    status, out, err = cli("publish", release, "--repo", REPO)
    assert (status, out) == (5, "")
    assert "the Hub cannot be reached" in err


def test_a_hub_that_says_no_is_no_hub_that_is_away(hub: WritableHub, release: Path, cli: Cli):
    hub.fail("/api/", status=401, times=999)
    status, out, err = cli("publish", release, "--repo", REPO, "--dry-run")
    assert (status, out) == (5, "")
    assert "does not accept this access token" in err


def test_nobody_to_connect_to_is_asked_twice(gone: WritableHub, release: Path, cli: Cli, waits: list[float]):
    assert cli("publish", release, "--repo", REPO)[0] == 5
    assert waits == [1.0]


def test_waiting_is_told_of(hub: WritableHub, release: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EAGLE3HUB_HUB_TIMEOUT", "2.5")
    monkeypatch.setattr("eagle3hub.checkpoint.hub._SILENCE", 1.2)
    hub.takeovers.append(Takeover("GET", "/api/", hostile.silent))
    status, _, err = cli("publish", release, "--repo", REPO)
    assert status == 5
    assert f"waiting for the Hub, to look at {REPO}\n" in err
    assert "did not answer in time" in err
    assert "EAGLE3HUB_HUB_TIMEOUT" in err
    assert "waiting" not in cli("publish", release, "--repo", REPO, "--quiet")[2]


@pytest.mark.slow
def test_trying_again_is_told_of(hub: WritableHub, release: Path, cli: Cli, waits: list[float]):
    def late(h: object, deserved: Callable[[], bytes]) -> None:
        end = time.monotonic() + 1.1
        while time.monotonic() < end:
            pass

    hub.takeovers.append(Takeover("GET", "/api/", late, times=1))
    status, _, err = cli("publish", release, "--repo", REPO, "--dry-run")
    assert status == 0
    assert "the Hub gave no good answer: asking again in 1 seconds (2 of 4)" in err
