"""What is refused while files are found and read, here and on the Hub: the code, the sentence, nothing written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads
from support.hub_server import HubServer, Takeover

from eagle3hub.address import HubAddress, LocalAddress
from eagle3hub.checkpoint.destination import require_space
from eagle3hub.checkpoint.digest import file_digest, file_size
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.remote import RemoteReader, local_copy
from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.checkpoint.source import FolderSource, read_small
from eagle3hub.checkpoint.writer import OpenFiles, OutTensor, split, write_safetensors
from eagle3hub.errors import CheckpointError, Eagle3HubError, HubError, OutputError, SourceError

Cli = Callable[..., tuple[int, str, str]]


def refused(kind: type[Eagle3HubError], code: str, sentence: str, act: Callable[[], object]) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        act()
    assert (type(caught.value), caught.value.code) == (kind, code)


CONFIGS = {
    "bytes that are no text": (b'{"a": "\xff"}', r"config\.json is not UTF-8 text \(byte 7\)"),
    "a number without end": (b'{"a": ' + b"1" * 5000 + b"}", r"config\.json is not usable JSON: "),
    "brackets without end": (b"[" * 200_000, r"config\.json is not usable JSON: "),
    "megabytes": (b" " * 2_000_001, r"config\.json is larger than 2000000 bytes"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_none(tmp_path: Path, cli: Cli, name: str):
    content, sentence = CONFIGS[name]
    source = heads.specforge(tmp_path / "head")
    (source / "config.json").write_bytes(content)
    status, out, _ = cli("convert", source, tmp_path / "out", "--to", "modelopt", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "config-json")
    assert re.search(sentence, error["message"]), error["message"]
    assert not (tmp_path / "out").exists()


HEADERS = {
    "a list": (b"[]", "has a header that is not a JSON object"),
    "metadata of numbers": (b'{"__metadata__": {"format": 1}}', "has __metadata__ that does not map strings to"),
    "metadata in a list": (b'{"__metadata__": ["pt"]}', "has __metadata__ that does not map strings to strings"),
    "a tensor without a shape": (
        b'{"a": {"dtype": "F32", "data_offsets": [0, 0]}}',
        "describes tensor 'a' without exactly dtype, shape and data_offsets",
    ),
    "a tensor with more": (
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "scale": 1}}',
        "describes tensor 'a' without exactly dtype, shape and data_offsets",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_none(tmp_path: Path, name: str):
    header, sentence = HEADERS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(CheckpointError, "checkpoint-header", sentence, lambda: read_header(path))


def test_weights_with_more_in_the_file(tmp_path: Path):
    weights = heads.specforge(tmp_path / "head") / "model.safetensors"
    with weights.open("ab") as f:
        f.write(b"more")
    says = "has 4 bytes after its last tensor"
    refused(CheckpointError, "checkpoint-offsets", says, lambda: open_checkpoint(tmp_path / "head"))


def test_a_file_in_the_place_of_a_folder(tmp_path: Path, cli: Cli):
    (tmp_path / "head").write_text("{}")
    status, out, _ = cli("inspect", tmp_path / "head", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "source-missing")
    assert error["message"] == f"{tmp_path / 'head'} is a file, not a folder"


def test_what_is_gone_or_no_file_when_it_is_read(tmp_path: Path):
    gone, folder = tmp_path / "gone", tmp_path / "folder"
    folder.mkdir()
    for act in (file_digest, file_size):
        refused(SourceError, "source-unreadable", "cannot read .*gone: No such file", lambda act=act: act(gone))
    refused(SourceError, "source-unreadable", "cannot read .*folder: Is a directory", lambda: read_small(folder))
    refused(CheckpointError, "checkpoint-unreadable", "cannot read .*gone: No such", lambda: read_header(gone))
    source = FolderSource(LocalAddress(str(folder), folder))
    folder.rmdir()
    refused(SourceError, "source-unreadable", "cannot read .*folder: No such file", source.names)


def test_weights_that_shrink_while_they_are_copied(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    tensors = [OutTensor(ref.name, ref.dtype, ref.shape, ref) for ref in open_checkpoint(source).tensors.values()]
    weights = source / "model.safetensors"
    with weights.open("r+b") as f:
        f.truncate(weights.stat().st_size - 64)
    (shard,) = split(tensors, None, None)
    with OpenFiles() as files:
        refused(
            CheckpointError,
            "checkpoint-truncated",
            r"model\.safetensors became shorter while it was copied",
            lambda: write_safetensors(tmp_path / "out", shard, files, None),
        )


def test_a_disk_with_too_little_room(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    source = heads.specforge(tmp_path / "head")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, out, _ = cli("convert", source, tmp_path / "out", "--to", "modelopt", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "output-disk-full")
    assert "but only 1,000 are free there" in error["message"]
    assert not (tmp_path / "out").exists()
    refused(OutputError, "output-disk-full", "needs 1,001 bytes", lambda: require_space(tmp_path / "out", 1001))
    require_space(tmp_path / "out", 1000)


# The Hub


def test_a_model_without_a_config(hub: HubServer, cache: Path):
    hub.commit("alice/model", {"model.safetensors": b"", "sub/config.json": b"{}"})
    at = HubAddress("alice/model")
    refused(SourceError, "source-no-config", r"no config\.json in hf://alice/model", lambda: local_copy(at))
    assert not list(cache.rglob("*.safetensors")), "nothing is fetched"


def test_a_file_on_the_hub_that_changes_its_size(hub: HubServer):
    data = bytes(range(256)) * 400
    commit = hub.commit("alice/model", {"config.json": b"{}", "model.safetensors": data})
    reader = RemoteReader(HubAddress("alice/model", commit), "model.safetensors", Path("model.safetensors"))
    assert reader.read(100, 100) == data[100:200]
    grown = f"/{len(data) + 1}".encode()

    def act(h: object, deserved: Callable[[], bytes]) -> None:
        h.wfile.write(deserved().replace(f"/{len(data)}".encode(), grown, 1))

    hub.takeovers.append(Takeover("GET", "/cdn/", act))
    refused(
        HubError,
        "hub-protocol",
        r"model\.safetensors changed its size while it was read",
        lambda: reader.read(len(data) - 100, 100),
    )
