"""Heads written by the real exporters: detected, read as what they compute, converted and brought back unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError, Refusal
from eagle3hub.head import Head, Rope
from eagle3hub.layouts import LAYOUTS, open_head
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.reference.model import load_draft
from exporters import forward
from exporters.expectations import CANNOT, EXPECTED, FOLDER, TARGET, USABLE, WITH_GOLDEN

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def head_of(name: str) -> Path:
    return FOLDER / name / "head"


@cache
def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / name / "golden.safetensors")


def computes(head: Head, name: str, double_norm: bool = False, **changes: Any) -> bool:
    """Whether the head as read, with some of its semantics changed, gives the exporter's logits and feedback."""
    batch = golden(name)
    logits, feedback = forward.run(head, batch, double_norm=double_norm, **changes)
    return torch.allclose(logits, batch["logits"], **CLOSE) and torch.allclose(feedback, batch["feedback"], **CLOSE)


def test_every_fixture_has_an_expectation_and_an_origin():
    folders = {p.name for p in FOLDER.iterdir() if p.is_dir() and p != TARGET}
    assert folders == set(EXPECTED)
    for name in folders:
        origin = json.loads((FOLDER / name / "origin.json").read_text())
        assert {"exporter", "version", "how", "licence"} <= origin.keys()
        assert (FOLDER / name / "golden.safetensors").exists() or EXPECTED[name].golden == "none"
    sizes = {p: p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()}
    assert max(sizes.values()) < 300_000
    assert sum(sizes.values()) < 3_400_000


@pytest.mark.parametrize("name", USABLE)
def test_it_is_detected_and_read(name: str):
    expected = EXPECTED[name]
    head = open_head(head_of(name))
    assert head.layout == expected.layout
    assert [p for p in head.problems if p.severity == "error"] == []
    named = None if head.aux is None or not head.semantics.uses_aux else tuple(head.aux.after_layer)
    assert named == expected.taps
    s = head.semantics
    flags = ("norm_before_residual", "norm_before_fc", "fc_norm", "attention_bias", "qk_norm")
    plain: dict[str, Any] = dict.fromkeys((*flags, "parallel_drafting"), False)
    plain |= {"uses_aux": True, "feedback": "pre_norm", "num_layers": 1, "sliding_window": None}
    assert {k: getattr(s, k) for k in plain} == {**plain, **expected.reads}
    assert (s.rope.scaling is not None) == ("rope-scaling" in expected.has)
    assert (s.quantization is not None) == ("quantization" in expected.has)
    assert ("embed_tokens.weight" in head.tensors) == ("embed-tokens" in expected.has)
    assert head.vocab_status == ("full" if "full-vocabulary" in expected.has else "ok")
    assert (head.vocab_map is not None and not head.vocab_map.is_sorted) == ("unsorted-vocabulary" in expected.has)


@pytest.mark.parametrize("name", [n for n in EXPECTED if EXPECTED[n].error is not None])
def test_what_is_wrong_with_it_is_said(name: str):
    with pytest.raises(InputError) as refused:
        head = open_head(head_of(name))
        assert head.layout == EXPECTED[name].layout
        head.raise_for_errors()
    assert refused.value.code == EXPECTED[name].error


@pytest.mark.parametrize("name", [n for n in WITH_GOLDEN if EXPECTED[n].error != "config-norm-output"])
def test_read_right_it_gives_the_exporters_logits(name: str):
    head = open_head(head_of(name))
    kind = EXPECTED[name].golden
    assert computes(head, name) == (kind == "equal")
    if kind == "plain rope":  # the exporter writes a scaling it did not train with
        assert computes(head, name, rope=Rope(head.semantics.rope.theta))
    if kind == "base 10000":  # the trainer gives its scaled RoPE no base, whatever the config says
        assert computes(head, name, rope=Rope(10000.0, head.semantics.rope.scaling))
        assert [a.field for a in head.assumptions] == ["rope_theta"]
        told = open_head(head_of(name), options=ReadOptions(rope_theta=10000.0))
        assert computes(told, name)
        assert not told.assumptions
    if kind == "double norm":  # the trainer normalises the hidden state twice, which no file says and no engine does
        assert computes(head, name, double_norm=True)


def test_masked_slots_give_the_exporters_logits():
    """speculators' own P-EAGLE forward at every position and depth, against drafts at all positions at once."""
    name = "speculators-peagle"
    batch = golden(name)
    model = load_draft(open_head(head_of(name)), batch["embed_tokens"])
    wanted = batch["masked_logits"]  # [B, depths, T, draft vocabulary]
    right = forward.masked(model, batch, wanted.shape[1])
    assert torch.allclose(right, wanted, **CLOSE)
    for other in (replace(model, mask_token_id=0), replace(model, semantics=replace(model.semantics, rope=Rope(9.0)))):
        assert not torch.allclose(forward.masked(other, batch, wanted.shape[1]), wanted, **CLOSE)


def test_what_only_the_user_knows_settles_the_reading():
    # norm_output: true changes nothing but the logits' norm in the SpecForge that wrote it: feedback is pre-norm
    name = "specforge-sglang-norm-output"
    head = open_head(head_of(name), options=ReadOptions(norm_output="pre"))
    head.raise_for_errors()
    assert computes(head, name)
    later = open_head(head_of(name), options=ReadOptions(norm_output="post"))
    assert not computes(later, name)
    # the map that the library's conversion lost
    lost = "speculators-converted-from-modelopt-plain-rope"
    d2t = load_file(head_of("modelopt-plain-rope") / "model.safetensors")["d2t"].tolist()
    mended = open_head(head_of(lost), options=ReadOptions(d2t=d2t))
    mended.raise_for_errors()
    original = open_head(head_of("modelopt-plain-rope"))
    assert mended.vocab_map is not None
    assert original.vocab_map is not None
    assert mended.vocab_map.target_id == original.vocab_map.target_id


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("specjax-saved", {"rope": Rope(10000.0)}),
        ("specjax-saved", {"rms_norm_eps": 1e-2}),
        ("specjax-saved", {"hidden_act": "gelu"}),
        ("specjax-saved", {"norm_before_residual": True}),
        ("modelopt-bias", {"attention_bias": False}),
        ("speculators-bias", {"attention_bias": False}),
        ("speculators-fc-norm", {"fc_norm": False}),
        ("speculators-mixed-layers", {"sliding_layers": ()}),
        ("modelopt-no-aux", {"feedback": "post_norm"}),
        ("specforge-hf-peagle", {"num_layers": 1}),
        ("specforge-sglang-fc-norm", {"fc_norm": False}),
        ("specforge-sglang-llama3-rope", {"rope": Rope(50000.0)}),
        ("speculators-default", {"norm_before_residual": False}),
        ("speculators-default", {"norm_before_fc": False}),
        ("speculators-default", {"feedback": "pre_norm"}),
        ("speculators-norm-output", {"feedback": "pre_norm"}),
        ("speculators-plain", {"feedback": "post_norm"}),
        ("speculators-window", {"sliding_window": None}),
        ("speculators-window", {"sliding_window": 5}),
        ("speculators-qwen3", {"qk_norm": False}),
        ("speculators-two-layers", {"num_layers": 1}),
        ("speculators-mixed-layers", {"sliding_window": 5}),
        ("modelopt-two-layers", {"num_layers": 1}),
        ("torchspec-full-vocabulary", {"rope": Rope(10000.0)}),
        ("nemo-plain", {"feedback": "post_norm"}),
        ("nemo-eagle31", {"fc_norm": False}),
        ("nemo-eagle31", {"feedback": "pre_norm"}),
        ("torchspec-mla", {"rope": Rope(10000.0)}),
        ("torchspec-mla-no-latent", {"rms_norm_eps": 1e-2}),
    ],
)
def test_the_logits_tell_a_wrong_reading(name: str, change: dict[str, Any]):
    head = open_head(head_of(name))
    assert computes(head, name)
    assert not computes(head, name, **change)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", USABLE)
def test_it_converts_and_comes_back_or_is_refused(tmp_path: Path, name: str, layout: str):
    source, expected = head_of(name), EXPECTED[name]
    options: dict[str, Any] = {"target": str(TARGET), "target_name": "owner/target", "speculative_tokens": 3}
    kept = {"embed-tokens"} if expected.layout == "torchspec" else set()  # they are the target's, and left out
    if layout == "universal" and "full-vocabulary" in expected.has:
        kept.add("mla")  # at which sglang-jax alone stops, for which a folder without d2t is not made
    stops = (expected.has & CANNOT[layout]) - kept if layout != expected.layout else set()
    codes = {f"refused-{feature}" for feature in stops} | (
        {expected.lacks[layout]} if layout in expected.lacks else set()
    )
    if codes:
        with pytest.raises(Refusal) as refused:
            convert(source, tmp_path / "there", layout, ConvertOptions(**options))
        assert refused.value.code in codes
        assert not (tmp_path / "there").exists()
        return
    convert(source, tmp_path / "there", layout, ConvertOptions(**options))
    there = open_head(tmp_path / "there")
    assert there.layout == layout
    if expected.golden == "equal":
        assert computes(there, name)
    if expected.layout not in LAYOUTS:  # read, and not written
        return
    back = tmp_path / "there"
    if layout != expected.layout:
        back = tmp_path / "back"
        convert(tmp_path / "there", back, expected.layout)
        config = json.loads((source / "config.json").read_text())
        if name == "specforge-hf-float32-weights":  # its config says bfloat16; what is written agrees with the weights
            config["dtype"] = "float32"
        assert json.loads((back / "config.json").read_text()) == config
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
