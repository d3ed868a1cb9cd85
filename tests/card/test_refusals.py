"""What the commands around a card refuse: the code, the sentence, and that nothing was written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import card_samples as samples
from support.hub_server import HubServer, client_of

Cli = Callable[..., tuple[int, str, str]]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_templates_that_are_not_there_leave_the_folder_as_it_was(cli: Cli, tmp_path: Path):
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "release.yaml").write_text("of an earlier release\n")
    before = contents(folder)
    argv = ("card", samples.EXAMPLE, "--folder", folder, "--templates", tmp_path / "nowhere", "--json")
    status, out, _ = cli(*argv)
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "source-templates")
    assert error["message"] == f"no folder of templates at {tmp_path / 'nowhere'}"
    assert contents(folder) == before


def test_a_port_that_is_taken_and_one_that_cannot_be(cli: Cli, tmp_path: Path):
    card = tmp_path / "README.md"
    card.write_text("# Head\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = cli("card", "preview", card, "--port", port)
    assert (status, out) == (3, "")
    assert f"cannot listen on port {port}: " in err
    assert "--port" in err
    status, _, err = cli("card", "preview", card, "--port", 65536)
    assert (status, "cannot listen on port 65536: " in err) == (3, True)


def test_a_starter_does_not_replace_a_manifest(cli: Cli, tmp_path: Path):
    manifest = tmp_path / "release.yaml"
    manifest.write_text("mine\n")
    status, out, err = cli("card", "init", samples.EXAMPLE.parent / "head", "--target", "a/b", "--output", manifest)
    assert (status, out) == (2, "")
    assert f"{manifest} exists" in err
    assert manifest.read_text() == "mine\n"


def test_a_card_on_the_hub_that_cannot_be_checked(cli: Cli, tmp_path: Path, monkeypatch):
    with HubServer() as hub, client_of(hub, tmp_path / "home", monkeypatch):
        status, out, _ = cli("card", "--check", "alice/nobody", "--json")
        error = json.loads(out)["error"]
        assert (status, error["code"]) == (3, "source-card")
        assert error["message"].startswith("alice/nobody is neither a file nor a folder here, nor a model on the Hub")
        hub.commit("alice/large", {"README.md": b"#" * (10 << 20)})
        status, out, _ = cli("card", "--check", "hf://alice/large", "--json")
        error = json.loads(out)["error"]
        assert (status, error["code"]) == (3, "source-card")
        assert error["message"].startswith("README.md of hf://alice/large is larger than ")
        assert hub.served < 1 << 20, "a card that is too large is not fetched"


def test_a_pattern_that_no_file_can_match(cli: Cli, tmp_path: Path):
    manifest = tmp_path / "release.yaml"
    manifest.write_text(samples.MINIMAL + 'reports: ["reports/\\0.json"]\n')
    status, out, _ = cli("card", manifest, "--output", tmp_path / "README.md", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "manifest-pattern")
    assert error["message"] == r"the pattern 'reports/\x00.json' has a NUL in it"
    assert list(tmp_path.iterdir()) == [manifest]
