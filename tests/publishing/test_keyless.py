"""Signatures by identity, with the real sigstore client. No test reaches its services."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from publishing.folders import REPO
from support.hub_writes import WritableHub

from eagle3hub.publishing import plan

Cli = Callable[..., tuple[int, str, str]]
WHO = ("--identity", "https://github.com/alice/heads/.github/workflows/release.yml@refs/heads/main")
ISSUER = ("--issuer", "https://token.actions.githubusercontent.com")
TOKEN = "e30." + base64.urlsafe_b64encode(b'{"aud": "sigstore"}').decode() + ".e30"


@pytest.fixture(autouse=True)
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the tests off from the network and from any identity, also on a runner of GitHub's."""
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start the service of a runner that gives a job its identity."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client whose time is over
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"value": TOKEN}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "asks")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"http://127.0.0.1:{server.server_port}/?v=1")
        yield
        server.shutdown()


def with_certificate(signature: Path) -> bytes:
    """Make a key's signature look as if it had been made without a key."""
    bundle = json.loads(signature.read_bytes())
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": "MA=="}, "tlogEntries": []}
    return json.dumps(bundle).encode()


@pytest.mark.slow
def test_without_an_identity_nothing_is_published(hub: WritableHub, release: Path, cli: Cli, two_heads: Path):
    status, out, err = cli("publish", release, "--repo", REPO, "--sign", "sigstore", "--json")
    assert status == 4, out + err
    assert json.loads(out)["error"]["code"] == "sign-no-identity"
    status, _, err = cli("release", f"{two_heads}#one", "--sign", "sigstore")
    assert status == 4
    assert "id-token: write" in err
    assert not (two_heads.parent / ".eagle3hub").exists(), "found before anything is measured"
    assert hub.repos == {}


def test_services_that_cannot_be_reached_are_one_sentence(
    hub: WritableHub, release: Path, cli: Cli, identity: None, two_heads: Path
):
    status, out, err = cli("publish", release, "--repo", REPO, "--sign", "sigstore")
    assert (status, out) == (5, "")
    assert err.count("\n") == 2, err
    assert err.startswith("error: the public sigstore services cannot sign this: ")
    assert TOKEN not in err
    assert not (release / "model.sig").exists()
    made = two_heads.parent / "made"
    status, _, err = cli("release", f"{two_heads}#one", "--until", "card", "--output", made, "--sign", "sigstore")
    assert (status, made.exists()) == (5, False), err
    assert hub.repos == {}


@pytest.mark.slow
def test_who_signed_is_checked_with_both_names(hub: WritableHub, release: Path, cli: Cli, keys: Path):
    assert cli("publish", release, "--repo", REPO, "--sign", keys / "mine.pem")[0] == 0
    status, out, _ = cli("verify", f"hf://{REPO}", *WHO, *ISSUER)
    assert status == 1
    assert "it was made with a key, not by an identity" in out
    for argv in (WHO, ISSUER, (*WHO, *ISSUER, "--key", keys / "mine.pub")):
        assert cli("verify", f"hf://{REPO}", *argv)[0] == 2
    (release / "model.sig").write_bytes(with_certificate(release / "model.sig"))
    assert cli("publish", release, "--repo", REPO)[0] == 0
    status, out, _ = cli("verify", f"hf://{REPO}")
    assert status == 0
    assert "by whom, --identity and --issuer tell" in out
    status, out, err = cli("verify", f"hf://{REPO}", *WHO, *ISSUER)
    assert (status, out) == (5, "")
    assert "sigstore services cannot be asked whom to trust" in err


def test_a_signature_by_an_identity_over_the_same_files_stays(release: Path, keys: Path, identity: None):
    plan.sign_if_asked(release, plan.PublishOptions(sign=keys / "mine.pem"))
    made = with_certificate(release / "model.sig")
    (release / "model.sig").write_bytes(made)
    plan.sign_if_asked(release, plan.PublishOptions(sign=Path("sigstore")))
    assert (release / "model.sig").read_bytes() == made


def test_services_that_do_not_answer(
    hub: WritableHub, release: Path, cli: Cli, identity: None, monkeypatch: pytest.MonkeyPatch
):
    """A proxy accepts connections and says nothing; without a limit the clients would wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("EAGLE3HUB_HUB_TIMEOUT", "0.2")
        status, out, err = cli("publish", release, "--repo", REPO, "--sign", "sigstore", "--quiet")
    assert (status, out) == (5, "")
    assert err.startswith("error: the public sigstore services cannot sign this: no answer within 1 seconds\n")
    assert not (release / "model.sig").exists()
