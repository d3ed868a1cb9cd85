"""Frequencies equal transformers', and the rotation its own; what cannot be computed is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eagle3hub.errors import Refusal
from eagle3hub.head import Rope
from eagle3hub.reference.model import rotary_table, rotate

POSITIONS = torch.arange(0, 6000, 37)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 32.0}
KINDS: list[tuple[float, dict[str, Any], int]] = [
    (10000.0, {"rope_type": "linear", "factor": 4.0}, 64),
    (10000.0, {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.25}, 64),
    (500000.0, {**LLAMA3, "original_max_position_embeddings": 512}, 128),
    (500000.0, {**LLAMA3, "original_max_position_embeddings": 512, "partial_rotary_factor": 0.5}, 64),
    (500000.0, LLAMA3, 64),
    (150000.0, {**YARN, "original_max_position_embeddings": 4096}, 64),
    (150000.0, {**YARN, "original_max_position_embeddings": 4096, "truncate": False}, 64),
    (10000.0, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "original_max_position_embeddings": 256}, 32),
    (10000.0, {**YARN, "attention_factor": 1.5, "original_max_position_embeddings": 256}, 32),
    (10000.0, {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9, "original_max_position_embeddings": 256}, 32),
    (10000.0, {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 256}, 32),
    (10000.0, {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 256}, 32),
]
CONTEXT = 2048


def transformers_table(theta: float, scaling: dict[str, Any], head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=CONTEXT)
    config.rope_parameters = {**scaling, "rope_theta": theta}
    inverse, length = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, device=torch.device("cpu"))
    angles = POSITIONS[:, None].float() * inverse
    return angles.cos() * length, angles.sin() * length


@pytest.mark.parametrize(("theta", "scaling", "head_dim"), KINDS)
def test_scaled_kinds_are_those_of_transformers(theta: float, scaling: dict[str, Any], head_dim: int):
    ours = rotary_table(Rope(theta, scaling), head_dim, POSITIONS, CONTEXT)
    theirs = transformers_table(theta, dict(scaling), head_dim)
    for mine, other in zip(ours, theirs, strict=True):
        # angles reach 6000 radians: one unit in the last place of a frequency is 4e-4 there
        assert torch.allclose(mine[:, 0], other, atol=2e-3)
    plain = rotary_table(Rope(theta), head_dim, POSITIONS, CONTEXT)
    assert ours[0].shape != plain[0].shape or not torch.allclose(ours[0], plain[0], atol=2e-3)


def test_the_rotation_is_llamas():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 700.0})
    x = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(3, 12)[None]
    cos, sin = LlamaRotaryEmbedding(config)(x, positions)
    theirs, _ = apply_rotary_pos_emb(x, x, cos, sin)
    ours = rotate(x.transpose(1, 2), rotary_table(Rope(700.0), 16, positions, None)).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_partial_rotation_leaves_the_rest_alone():
    x = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(0))
    rope = Rope(700.0, {"rope_type": "default", "partial_rotary_factor": 0.25})
    turned = rotate(x, rotary_table(rope, 16, torch.arange(1, 6), None))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.allclose(turned[..., :4], rotate(x[..., :4], rotary_table(Rope(700.0), 4, torch.arange(1, 6), None)))
    assert not torch.allclose(turned[..., :4], x[..., :4])


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "new"])
def test_a_kind_it_cannot_compute_is_refused(kind: str):
    with pytest.raises(Refusal, match=kind) as refused:
        rotary_table(Rope(1e4, {"rope_type": kind, "factor": 2.0}), 16, POSITIONS, CONTEXT)
    assert refused.value.code == "reference-rope"


@pytest.mark.parametrize(
    ("scaling", "missing"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "high_freq_factor"),
        ({"rope_type": "yarn", "factor": 8.0}, "original_max_position_embeddings"),
    ],
)
def test_what_it_is_not_told_is_not_guessed(scaling: dict[str, Any], missing: str):
    with pytest.raises(Refusal, match=missing):
        rotary_table(Rope(1e4, scaling), 16, POSITIONS, None)
