"""Heads on the Hub when something fails: what is said, what is waited for, and what a repository may not do."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import heads
from support.hub_server import HubServer

from eagle3hub.checkpoint.folder import open_checkpoint, read_tensor
from eagle3hub.errors import CheckpointError, ConfigError, Eagle3HubError, HubError

Cli = Callable[..., tuple[int, str, str]]
REPO = "alice/head"
SOURCE = f"hf://{REPO}"


def document(done: tuple[int, str, str]) -> dict[str, Any]:
    status, out, err = done
    assert (status, err) == (0, ""), err or out
    return json.loads(out)


def failed(done: tuple[int, str, str], message: str, status: int = 5) -> None:
    code, out, err = done
    assert (code, out) == (status, ""), err
    first, *rest = err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert len(rest) <= 1
    for secret in ("hf_", "http", "signature"):
        assert secret not in err.replace("hf://", "")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "401": ({"status": 401}, "does not accept this access token|or it is private"),
    "403": ({"status": 403}, "forbids access to"),
    "404": ({"status": 404}, "there is no"),
    "429": ({"status": 429, "headers": {"Retry-After": "3"}, "times": 99}, "asks to wait (too many requests)"),
    "500": ({"status": 500, "times": 99}, "has a problem (status 500)"),
    "503": ({"status": 503, "times": 99}, "has a problem (status 503)"),
    "418": ({"status": 418}, "answered with status 418"),
    "cut": ({"cut_after": 10, "times": 99}, "the connection to the Hub failed"),
}
PLACES = {"the listing": "/api/models/", "the config": "/config.json", "the header": "/cdn/"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FAULTS)
def test_failures_are_one_sentence(
    hub: HubServer, example_head: Path, cli: Cli, waits: list[float], monkeypatch, fault: str, place: str
):
    hub.commit(REPO, example_head)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    how, message = FAULTS[fault]
    hub.fail(PLACES[place], **how)
    code, out, err = cli("inspect", SOURCE)
    alternatives = message.split("|")
    failed((code, out, err), next((m for m in alternatives if m in err), alternatives[0]))
    assert all(w <= 21 for w in waits)


@pytest.mark.parametrize(
    "how", [{"status": 503}, {"status": 429, "headers": {"Retry-After": "7"}}, {"cut_after": 100}], ids=str
)
@pytest.mark.parametrize("place", PLACES)
def test_a_passing_failure_is_waited_out(
    hub: HubServer, example_head: Path, cli: Cli, waits: list[float], place: str, how: dict[str, Any]
):
    hub.commit(REPO, example_head)
    hub.fail(PLACES[place], method="GET", times=2, **how)
    assert document(cli("inspect", SOURCE, "--json"))["layout"] == "specjax"
    assert hub.faults[0].times == 0
    assert len([w for w in waits if w >= 1]) >= 2
    if how.get("status") == 429:
        assert sum(w >= 7 for w in waits) >= 2, "Retry-After is honoured"


def test_a_long_wait_is_not_waited(hub: HubServer, example_head: Path, cli: Cli, waits: list[float]):
    hub.commit(REPO, example_head)
    hub.fail("/api/models/", status=429, headers={"Retry-After": "3600"}, times=99)
    failed(cli("inspect", SOURCE), "asks to wait")
    assert waits == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_is_replaced_by_the_cache(
    hub: HubServer, tmp_path: Path, cli: Cli, waits: list[float], status: int
):
    hub.commit(REPO, heads.specforge(tmp_path / "head"))
    document(cli("convert", SOURCE, tmp_path / "a", "--to", "modelopt", "--json"))
    hub.fail("/", status=status, times=99)
    document(cli("convert", SOURCE, tmp_path / "b", "--to", "modelopt", "--json"))


def test_a_connection_that_breaks_again_and_again(hub: HubServer, example_head: Path, tmp_path: Path, cli: Cli, waits):
    hub.commit(REPO, example_head)
    hub.fail("/cdn/", method="GET", cut_after=50_000, times=99)
    status, _, err = cli("convert", SOURCE, tmp_path / "out", "--to", "specforge", "-q")
    assert status == 5
    assert err.splitlines()[1] == "hint: run the same command again: what was fetched is kept"


@pytest.mark.parametrize("place", ["{tmp}/file/hub", "/sys/hub"])  # where nobody can make a folder, not even root
def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path, cli: Cli, waits, monkeypatch, place: str):
    from huggingface_hub import constants

    hub.commit(REPO, heads.specforge(tmp_path / "head"))
    (tmp_path / "file").touch()
    cache = place.format(tmp=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    status, _, err = cli("inspect", SOURCE)
    assert status == 5
    assert err.startswith(f"error: the Hub's client cannot use {cache}: ")
    assert err.splitlines()[1:] == ["hint: set HF_HOME (or HF_HUB_CACHE) to a folder you can write"]
    assert waits == []


def test_the_clients_own_warnings_are_not_shown(hub: HubServer, example_head: Path, monkeypatch):
    import shutil

    hub.commit(REPO, example_head)
    usage = shutil.disk_usage(example_head)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns that the disk may be too small
        assert open_checkpoint(SOURCE).tensors


def test_a_disk_that_fills(hub: HubServer, cache: Path, example_head: Path, tmp_path: Path, cli: Cli, monkeypatch):
    hub.commit(REPO, example_head)
    real = Path.open

    def full(self: Path, *how: Any, **options: Any) -> Any:
        return open("/dev/full", "wb", 0) if self.suffix == ".incomplete" else real(self, *how, **options)

    monkeypatch.setattr(Path, "open", full)
    status, _, err = cli("convert", SOURCE, tmp_path / "out", "--to", "specjax", "-q")
    assert status == 5
    assert f"error: the disk of the Hub cache {cache} is full: cannot get config.json of alice/head" in err
    assert "hint: make room there, or set HF_HOME" in err


def test_an_endpoint_that_is_no_address(hub: HubServer, cli: Cli, waits, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "hub.example")
    status, _, err = cli("inspect", SOURCE)
    assert (status, err.splitlines()[0]) == (5, "error: HF_ENDPOINT is not the address of a Hub")
    assert waits == []


def test_a_hub_that_does_not_answer(hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch):
    from huggingface_hub import constants

    hub.commit(REPO, heads.specforge(tmp_path / "head"))
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    monkeypatch.setattr("eagle3hub.checkpoint.hub._ATTEMPTS", 1)
    hub.fail("/api/models/", pause=0.4, times=99)
    failed(cli("inspect", SOURCE), "did not answer in time")


def test_a_proxy_that_ignores_ranges(hub: HubServer, example_head: Path, cli: Cli):
    hub.commit(REPO, example_head)
    hub.fail("/cdn/", whole=True, times=99)
    failed(cli("inspect", SOURCE), "does not serve parts of files")


@pytest.mark.parametrize(
    ("made", "token", "message"),
    [
        ({}, None, None),
        ({"private": True}, None, "there is no model alice/head on the Hub, or it is private"),
        ({"private": True}, "hf_good", None),
        ({}, "hf_wrong", "does not accept this access token"),
        ({"gated": True}, "hf_other", "alice/head is gated and this account has no access to it"),
        ({"gated": True}, None, "alice/head is gated and this account has no access to it"),
    ],
)
def test_access(hub: HubServer, tmp_path: Path, cli: Cli, monkeypatch, made: dict[str, bool], token, message):
    hub.commit(REPO, heads.specforge(tmp_path / "head"), **made)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    done = cli("inspect", SOURCE, "--json") if message is None else cli("inspect", SOURCE)
    if message is None:
        assert document(done)["layout"] == "specforge"
    else:
        failed(done, message)


def test_what_is_not_there(hub: HubServer, tmp_path: Path, cli: Cli):
    hub.commit(REPO, heads.specforge(tmp_path / "head"))
    failed(cli("inspect", "hf://alice/nothing"), "there is no model alice/nothing on the Hub")
    failed(cli("inspect", f"{SOURCE}@v9"), "alice/head has no revision v9")
    hub.repos[REPO].refs["feature/x"] = hub.repos[REPO].refs["main"]
    status, _, err = cli("inspect", f"{SOURCE}@feature/x")
    assert (status, "a slash of theirs is written %2F" in err) == (5, True)
    failed(cli("inspect", f"{SOURCE}/sub"), f"there is no config.json in {SOURCE}/sub", status=3)
    hub.commit("alice/empty", {"config.json": b"{}"})
    failed(cli("inspect", "hf://alice/empty"), "there is no safetensors file in hf://alice/empty@", status=3)
    status, out, _ = cli("inspect", "hf://alice/nothing", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (5, "hub-not-found")


# What a repository may not do


def test_bad_bytes_on_the_hub_are_bad_bytes(hub: HubServer):
    good = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

    def of(header: bytes, data: bytes) -> HubServer:
        raw = len(header).to_bytes(8, "little") + header + data
        hub.commit(REPO, {"config.json": b"{}", "model.safetensors": raw})
        return hub

    of(good, bytes(8))
    assert read_tensor(open_checkpoint(SOURCE, headers_only=True).tensors["a"]) == bytes(8)
    for header, data, message in (
        (good, bytes(7), "is truncated: its tensors need"),
        (b"{{", b"", "not valid JSON"),
        (b"", b"", "not valid JSON"),
    ):
        of(header, data)
        with pytest.raises(CheckpointError, match=rf"^{SOURCE}@[0-9a-f]{{40}}/model.safetensors .*{message}"):
            open_checkpoint(SOURCE, headers_only=True)
    hub.commit(REPO, {"model.safetensors": (2**40).to_bytes(8, "little") + bytes(100)})
    with pytest.raises(CheckpointError, match="a head needs less than"):
        open_checkpoint(SOURCE, headers_only=True)
    hub.commit(REPO, {"model.safetensors": b""})
    with pytest.raises(Eagle3HubError, match=r"there is nothing in model\.safetensors"):
        open_checkpoint(SOURCE, headers_only=True)


def test_a_look_reads_no_large_tensor(hub: HubServer):
    size = 33 << 20
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    raw = len(header).to_bytes(8, "little") + header + bytes(size)
    hub.commit(REPO, {"config.json": b"{}", "model.safetensors": raw})
    tensor = open_checkpoint(SOURCE, headers_only=True).tensors["a"]
    with pytest.raises(HubError, match="more than 256 requests or 32 MiB"):
        read_tensor(tensor)
    assert hub.served < 100_000


def test_a_config_of_a_gigabyte_is_not_downloaded(hub: HubServer, monkeypatch):
    monkeypatch.setattr("eagle3hub.checkpoint.remote.MAX_JSON_BYTES", 50_000)
    hub.commit(REPO, {"config.json": b" " * 60_000, "model.safetensors": b"x"})
    with pytest.raises(ConfigError, match="is larger than 50000 bytes"):
        open_checkpoint(SOURCE, headers_only=True)
    assert hub.served < 10_000
