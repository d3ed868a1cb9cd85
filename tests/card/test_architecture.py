"""The architecture table comes from the tensors, not from text."""

from __future__ import annotations

import card_samples as samples
import pytest

from eagle3hub.card import context
from eagle3hub.head import FINAL_NORM, AuxTaps, Rope, Semantics
from eagle3hub.system.text import readable_count, readable_size


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_parts_sum_to_the_whole() -> None:
    head = samples.make_head()
    found = context.describe(head)
    assert sum(number(p.parameters) for p in found.parts) == number(found.parameters) == head.num_parameters == 8923392
    assert [p.name for p in found.parts] == [
        "Fusion of the target's hidden states", "Layer 0, attention", "Layer 0, MLP", "Norms", "Output head",
    ]  # fmt: skip
    assert sum(len(p.tensors) for p in found.parts) == len(head.tensors)
    assert "q_proj 576 × 1152" in found.parts[1].tensors
    assert found.size_bytes == 2 * 8923392


def test_every_kind_of_tensor_is_counted_once() -> None:
    shapes = {
        "embed_tokens.weight": (10, 4),
        "fc.weight": (4, 12),
        "fc_norm.0.weight": (4,),
        "input_norm.weight": (12,),
        "layers.0.self_attn.q_norm.weight": (2,),
        "layers.0.self_attn.q_proj.bias": (4,),
        "layers.1.mlp.up_proj.weight": (8, 4),
        "layers.1.input_layernorm.weight": (4,),
        "mask_hidden": (1, 1, 12),
        "something.new": (3,),
        "scalar": (),
    }
    found = context.describe(samples.make_head(shapes))
    printed = [t for p in found.parts for t in p.tensors]
    assert len(printed) == len(shapes)
    assert sum(number(p.parameters) for p in found.parts) == number(found.parameters)
    assert "layers.1.input_layernorm 4" in printed
    assert "scalar scalar" in printed


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"aux": AuxTaps.from_boundary([2, 15, 27], "config")}, "after target layers 1, 14, 26"),
        ({"aux": AuxTaps.default_for(30)}, "the default choice"),
        ({"aux": AuxTaps((1, FINAL_NORM), "config")}, "1, the final norm"),
        ({"aux": None}, "not recorded"),
        ({"semantics": Semantics(rope=Rope(1e4, {"rope_type": "llama3"}), rms_norm_eps=1e-6)}, "rope_type llama3"),
        ({"semantics": Semantics(rope=Rope(1e4), rms_norm_eps=1e-6, feedback="post_norm")}, "the normed hidden state"),
        ({"semantics": Semantics(rope=Rope(1e4), rms_norm_eps=1e-6, uses_aux=False)}, "last hidden state only"),
    ],
)
def test_facts_follow_the_head(changes: dict[str, object], fact: str) -> None:
    found = context.describe(samples.make_head(**changes))
    assert any(fact in text for _, text in found.facts), found.facts


def test_units() -> None:
    assert [readable_count(n) for n in (999, 8923392, 2_000_000_000)] == ["999", "8.92 M", "2 B"]
    assert [readable_size(n) for n in (12, 17846784, 2_800_000_000)] == ["12 bytes", "17.8 MB", "2.8 GB"]
