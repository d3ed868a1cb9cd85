"""A source that is written to while it is converted gives no head, and the message says why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import heads

from eagle3hub.checkpoint import folder
from eagle3hub.checkpoint.safetensors import ByteReader, Header
from eagle3hub.conversion import run
from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import SourceError

GATE, UP = "midlayer.mlp.gate_proj.weight", "midlayer.mlp.up_proj.weight"


def other_order(file: Path) -> bytes:
    """The same tensors and the same length of header, but two tensors lie in each other's place."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    body = bytearray(raw[start:])
    (a, b), (c, d) = header[GATE]["data_offsets"], header[UP]["data_offsets"]
    assert b - a == d - c
    body[a:b], body[c:d] = body[c:d], body[a:b]
    header[GATE]["data_offsets"], header[UP]["data_offsets"] = [c, d], [a, b]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(start - 8)
    assert len(text) == start - 8
    return raw[:8] + text + bytes(body)


def other_weights(file: Path) -> bytes:
    """The same header over other weights, as the next epoch's."""
    raw = bytearray(file.read_bytes())
    raw[-4] ^= 1
    return bytes(raw)


def replaced(file: Path, data: bytes) -> None:
    new = file.with_name(".new")
    new.write_bytes(data)
    before = file.stat()
    new.replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def overwritten(file: Path, data: bytes) -> None:
    with file.open("r+b") as f:
        f.write(data)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))  # the next epoch comes later than a tick of the clock


MOMENTS = {"planned": "require_space", "written": "head_files", "finished": "_record"}
"""What `convert` calls when it has come so far."""


def at(moment: str, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    real = getattr(run, MOMENTS[moment])
    acts = [act]

    def then(*args: object, **options: object) -> object:
        if acts:
            acts.pop()()
        return real(*args, **options)

    monkeypatch.setattr(run, MOMENTS[moment], then)


def refused(tmp_path: Path, what: str, source: Path, **options: object) -> None:
    with pytest.raises(SourceError, match=rf"{what} while it was converted; nothing was kept") as e:
        convert(source, tmp_path / "out", "specforge", ConvertOptions(**options))
    assert e.value.code == "source-changed"
    assert "at fault" not in str(e.value.hint)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("other", [other_order, other_weights])
@pytest.mark.parametrize("write", [replaced, overwritten])
def test_weights_that_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    verify: bool,
    other: Callable[[Path], bytes],
    write: Callable[[Path, bytes], None],
):
    weights = heads.specforge(tmp_path / "head") / "model.safetensors"
    data = other(weights)
    at(moment, monkeypatch, lambda: write(weights, data))
    refused(tmp_path, "model.safetensors changed", weights.parent, verify=verify)


@pytest.mark.parametrize("moment", MOMENTS)
def test_weights_that_become_shorter_or_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    weights = heads.specforge(tmp_path / "head") / "model.safetensors"
    data = weights.read_bytes()
    at(moment, monkeypatch, lambda: os.truncate(weights, len(data) // 2))
    refused(tmp_path, "model.safetensors changed", weights.parent)
    weights.write_bytes(data)
    at(moment, monkeypatch, weights.unlink)
    refused(tmp_path, "model.safetensors was removed", weights.parent)


def test_a_config_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = heads.specforge(tmp_path / "head") / "config.json"
    at("finished", monkeypatch, lambda: replaced(config, config.read_bytes().replace(b"1e-05", b"1e-06")))
    refused(tmp_path, "config.json changed", config.parent)


def test_another_file_of_the_same_kind_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = heads.specforge(tmp_path / "head")
    at("written", monkeypatch, lambda: (source / "optimizer.pt").write_bytes(b"..."))
    assert convert(source, tmp_path / "out", "specforge").verified


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_replaced_while_its_header_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str):
    """The file is looked at before it is read, so that no moment is missed."""
    weights = heads.specforge(tmp_path / "head") / "model.safetensors"
    real = folder.parse_header

    def late(reader: ByteReader) -> Header:
        monkeypatch.setattr(folder, "parse_header", real)
        if when == "before":
            replaced(weights, other_order(weights))
            return real(reader)
        header = real(reader)
        replaced(weights, other_order(weights))
        return header

    monkeypatch.setattr(folder, "parse_header", late)
    refused(tmp_path, "model.safetensors changed", weights.parent)


def test_embeddings_that_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, given = heads.specforge(tmp_path / "head"), tmp_path / "target.safetensors"
    save_file({"embed_tokens.weight": torch.ones(40, 8, dtype=torch.bfloat16)}, given)
    at("finished", monkeypatch, lambda: replaced(given, other_weights(given)))
    refused(tmp_path, "target.safetensors changed", source, transforms=Transforms(include_embeddings=str(given)))
