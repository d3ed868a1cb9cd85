"""Changes of heads that lie on the Hub, and embeddings from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import heads
from support.folders import load, replace
from support.hub_server import HubServer, client_of

from eagle3hub.checkpoint import remote

TABLE = torch.randn(40, 8, generator=torch.Generator().manual_seed(5)).bfloat16()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(remote, "_LISTINGS", {})
    with HubServer() as server, client_of(server, tmp_path_factory.mktemp("hf-home"), monkeypatch):
        yield server


def published(hub: HubServer, folder: Path) -> str:
    hub.commit("alice/it", folder)
    return "hf://alice/it"


def test_a_head_on_the_hub_is_repaired_sorted_and_cast(tmp_path: Path, hub: HubServer, ok):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    offsets = load(source)["d2t"]
    torch.save(offsets, tmp_path / "d2t.pt")
    address = published(hub, replace(source, d2t=None))
    options = ["--from", "modelopt", "--d2t", tmp_path / "d2t.pt", "--resort-vocab", "--dtype", "fp32"]
    document, tensors, _ = ok(address, "specforge", *options)
    assert [c["name"] for c in document["repairs"]] == ["d2t", "resort-vocab", "dtype:fp32"]
    assert torch.equal(tensors["lm_head.weight"], load(source)["lm_head.weight"].float().flip(0))
    assert (tensors["d2t"] + torch.arange(10)).tolist() == heads.sorted_ids(heads.dims()).tolist()


@pytest.mark.parametrize("sharded", [False, True])
def test_embeddings_of_a_target_on_the_hub(tmp_path: Path, hub: HubServer, ok, sharded: bool):
    repo = tmp_path / "target-repo"
    heads.target(repo)
    if sharded:
        save_file({"model.embed_tokens.weight": TABLE}, repo / "model-00001-of-00002.safetensors")
        save_file({"x": torch.zeros(500_000)}, repo / "model-00002-of-00002.safetensors")
        (repo / "model.safetensors.index.json").write_text(
            '{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors",'
            ' "x": "model-00002-of-00002.safetensors"}}'
        )
    else:
        save_file({"model.embed_tokens.weight": TABLE}, repo / "model.safetensors")
    hub.commit("alice/target", repo)
    _, tensors, _ = ok(heads.specforge(tmp_path / "head"), "specforge", "--include-embeddings", "alice/target")
    assert torch.equal(tensors["embed_tokens.weight"], TABLE)
    assert hub.served < 200_000, "only the shard with the embeddings is fetched"
    hub.repos["alice/target"].refs["kept"] = hub.commit("alice/target", {"in/it/x": b""})
    hub.commit("alice/target", {"model.safetensors": b"", "model.safetensors.index.json": b"{}"})
    for i, source in enumerate(("alice/target@kept", "hf://alice/target@kept")):
        _, tensors, _ = ok(tmp_path / "head", "specforge", "--include-embeddings", source, name=f"of-it-{i}")
        assert torch.equal(tensors["embed_tokens.weight"], TABLE)


def test_a_target_that_is_not_there(tmp_path: Path, hub: HubServer, refused):
    source = heads.specforge(tmp_path / "head")
    for name, says in (
        ("weights/embeds", "weights/embeds is neither a file nor a folder here, nor a model on the Hub"),
        ("hf://alice/nothing", "there is no model alice/nothing on the Hub, or it is private"),
    ):
        said = refused(source, "specforge", "--include-embeddings", name, status=5)
        assert "hub-not-found" in said
        assert says in said
    hub.commit("alice/it", {"x": b""})
    said = refused(source, "specforge", "--include-embeddings", "alice/it@v9", status=5)
    assert "alice/it has no revision v9" in said


def test_embeddings_on_the_hub_are_compared_before_they_are_dropped(tmp_path: Path, hub: HubServer, ok, refused):
    head = replace(heads.speculators(tmp_path / "head", embeddings=True), **{"embed_tokens.weight": TABLE})
    address = published(hub, head)
    for name, table in (("same", TABLE), ("other", TABLE + 1)):
        save_file({"model.embed_tokens.weight": table}, heads.target(tmp_path / name) / "model.safetensors")
    document, _, _ = ok(address, "modelopt", "--drop-embeddings", "--target", tmp_path / "same")
    assert "byte for byte" in document["repairs"][0]["evidence"]
    assert "differ" in refused(address, "modelopt", "--drop-embeddings", "--target", tmp_path / "other")
