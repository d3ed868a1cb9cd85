"""Heads over the full vocabulary without an lm_head of their own: they take the target's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import Refusal, TensorError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.reference.model import load_draft

FULL = heads.dims(draft=40)
KINDS = [Has(), Has(mla=True)]


def make(folder: Path, has: Has = KINDS[0]) -> Path:
    own = {"bos_token_id": 1, "mlp_bias": False, "max_position_embeddings": 8192}
    source = variants.modelopt(folder, FULL, has, **own)
    return variants.replace(source, **{"lm_head.weight": None})


@pytest.mark.parametrize("has", KINDS)
@pytest.mark.parametrize("stated", [40, "DELETE"])
def test_it_is_read_and_a_stated_size_warned_of(tmp_path: Path, has: Has, stated: Any):
    source = variants.edit(make(tmp_path / "a", has), draft_vocab_size=stated)
    head = open_head(source)
    assert "lm_head.weight" not in head.tensors
    assert (head.dims.draft_vocab_size, head.vocab_status) == (40, "full")
    found = [p.severity for p in head.problems if p.code == "tensor-no-lm-head"]
    assert found == (["warning"] if stated == 40 else [])


def test_a_reduced_vocabulary_needs_one(tmp_path: Path):
    source = variants.replace(variants.modelopt(tmp_path / "a"), **{"lm_head.weight": None})
    with pytest.raises(
        TensorError, match=r"lacks lm_head\.weight, and the target's does not fit: .* 10 of 40"
    ) as refused:
        open_head(source)
    assert refused.value.code == "tensor-missing"


def test_trainers_that_always_write_one_miss_it(tmp_path: Path):
    source = variants.replace(heads.specforge(tmp_path / "a", FULL), {"format": "pt"}, **{"lm_head.weight": None})
    with pytest.raises(TensorError, match=r"lacks lm_head\.weight"):
        open_head(source)


def test_it_is_no_tensor_to_drop(tmp_path: Path):
    source = variants.modelopt(tmp_path / "a", FULL)
    with pytest.raises(Refusal, match="another head without it") as refused:
        open_head(source, options=ReadOptions(drop=("lm_head.weight",)))
    assert refused.value.code == "refused-drop"


@pytest.mark.parametrize("has", KINDS)
@pytest.mark.parametrize("to", ["modelopt", "universal"])
def test_what_is_written_gets_the_targets_on_every_engine(tmp_path: Path, has: Has, to: str):
    kind = {"model_type": "deepseek_v3"} if has.mla else {"model_type": "gpt_oss"}
    target = heads.target(tmp_path / "target", **kind)
    source = make(tmp_path / "a", has)
    convert(source, tmp_path / "out", to, ConvertOptions(target=str(target)))
    config = config_of(tmp_path / "out")
    assert "draft_vocab_size" in config
    assert config["draft_vocab_size"] is None
    facts = read_target(target)
    before, after = (
        {v.engine: v.kind for v in preflight_all(examine(checkpoint, open_head(checkpoint, target=facts)), facts)}
        for checkpoint in map(open_checkpoint, (source, tmp_path / "out"))
    )
    assert (before["sglang"], after["sglang"]) == ("silently_wrong", "right")
    convert(tmp_path / "out", tmp_path / "back", "modelopt")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_layouts_without_such_heads_refuse_it(tmp_path: Path, target: Path):
    source = make(tmp_path / "a")
    for to, says in (("speculators", "always have an lm_head"), ("specforge", r"no lm_head\.weight")):
        with pytest.raises(Refusal, match=says) as refused:
            convert(source, tmp_path / "out", to, ConvertOptions(target=str(target), speculative_tokens=3))
        assert refused.value.code == "refused-no-lm-head"


@pytest.mark.parametrize("has", KINDS)
def test_the_reference_computes_with_the_targets(tmp_path: Path, has: Has):
    generator = torch.Generator().manual_seed(5)
    embeddings, lm_head = (torch.randn(44, FULL["hidden"], generator=generator) for _ in range(2))
    source = make(tmp_path / "a", has)
    borrowed = load_draft(open_head(source), embeddings, lm_head)
    own = variants.replace(source, **{"lm_head.weight": lm_head[:40].contiguous()})
    hidden = torch.randn(3, FULL["hidden"], generator=generator)
    assert torch.equal(borrowed.logits(hidden), load_draft(open_head(own), embeddings).logits(hidden))
    with pytest.raises(Refusal, match=r"no lm_head\.weight of its own") as refused:
        load_draft(open_head(make(tmp_path / "b", has)), embeddings)
    assert refused.value.code == "reference-embeddings"
    with pytest.raises(Refusal, match="an lm_head of 44 tokens, 4 numbers each"):
        load_draft(open_head(tmp_path / "b/head"), embeddings, lm_head[:, :4])
