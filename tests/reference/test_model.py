"""Every switch of `Semantics` changes what a head computes, and the shape of what goes in is free."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from exporters.forward import first_step

from eagle3hub.errors import Refusal
from eagle3hub.head import Rope, Semantics
from eagle3hub.reference.model import ACTIVATIONS, DraftModel, Everywhere, Memory, rotary_table
from reference.support import PLAIN, random_draft, wrong

T = 12
FULL = replace(
    PLAIN,
    norm_before_residual=True,
    norm_before_fc=True,
    fc_norm=True,
    feedback="post_norm",
    attention_bias=True,
    fc_bias=True,
    qk_norm=True,
    sliding_window=4,
    sliding_layers=(1,),
    num_layers=2,
    rope=Rope(500.0, {"rope_type": "linear", "factor": 3.0, "partial_rotary_factor": 0.5}),
)
WRONG: dict[str, Any] = {
    "rope": Rope(500.0),
    "rms_norm_eps": 1e-2,
    "hidden_act": "gelu",
    "norm_before_residual": False,
    "norm_before_fc": False,
    "fc_norm": False,
    "feedback": "pre_norm",
    "attention_bias": False,
    "fc_bias": False,
    "qk_norm": False,
    "sliding_window": 3,
    "sliding_layers": (0,),
    "num_layers": 1,
}
ELSEWHERE = {
    "uses_aux": "test_a_head_without_aux_states_has_no_fc",
    "joins_embedding": "test_a_head_that_joins_no_embedding_sees_no_tokens",
    "parallel_drafting": "test_a_parallel_head_drafts_from_masks",
    "quantization": "test_load.test_a_quantized_head_is_refused",
    "quantized_as": "test_load.test_a_quantized_head_is_refused",
    "attention": "test_mla_is_deepseeks_attention",
}
LATENT = replace(PLAIN, attention="mla", rms_norm_eps=1e-6)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def inputs(model: DraftModel, rows: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    taps = 3 if model.semantics.uses_aux else 1
    return {
        "token_ids": torch.randint(model.dims.vocab_size, (rows, T), generator=generator),
        "aux_hidden_states": torch.randn(rows, T, taps * model.dims.target_hidden_size, generator=generator),
    }


def outputs(model: DraftModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat(first_step(model, batch), dim=-1)


def test_every_switch_is_here():
    assert {f.name for f in fields(Semantics)} == WRONG.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_switch_shows(name: str):
    model = random_draft(FULL)
    batch = inputs(model)
    right = outputs(model, batch)
    assert (outputs(wrong(model, **{name: WRONG[name]}), batch) - right).abs().max() > 1e-2


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        None,
    ],
)
def test_each_kind_of_rope_shows(scaling: dict[str, Any] | None):
    other = Rope(500.0, scaling) if scaling else Rope(10000.0)
    model = random_draft()
    batch = inputs(model)
    assert (outputs(wrong(model, rope=other), batch) - outputs(model, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [0, 6])
@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        {**YARN, "mscale": 0.707, "mscale_all_dim": 0.9},
        {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        YARN,
    ],
)
def test_mla_is_deepseeks_attention(scaling: dict[str, Any] | None, rank: int, bias: bool):
    """transformers' own, over the 2H inputs of a draft; the norms of its latents have an epsilon of 1e-6."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as theirs

    semantics = replace(LATENT, rope=Rope(500.0, scaling), attention_bias=bias)
    model = random_draft(semantics, q_lora_rank=rank, qk_rope_head_dim=8)
    d, h = model.dims, model.dims.hidden_size
    assert d.mla is not None
    sizes = {f.name: getattr(d.mla, f.name) for f in fields(d.mla)}
    config = DeepseekV3Config(
        hidden_size=2 * h,
        num_attention_heads=d.num_attention_heads,
        num_key_value_heads=d.num_attention_heads,
        attention_bias=bias,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": 500.0},
        **sizes,
    )
    config._attn_implementation = "eager"
    attention = theirs.DeepseekV3Attention(config, 0).eval()
    at = "layers.0.self_attn."
    own = {name.removeprefix(at): w for name, w in model.weights.items() if name.startswith(at)}
    own |= {n: torch.cat([w, torch.zeros_like(w)]) for n, w in own.items() if n.startswith("o_proj.")}  # to 2H rows
    attention.load_state_dict(own)
    x = torch.randn(2, T, 2 * h, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(T).expand(2, -1)
    mask = torch.full((T, T), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        wanted = attention(x, theirs.DeepseekV3RotaryEmbedding(config)(x, positions), mask)[0][..., :h]
    table = rotary_table(semantics.rope, d.mla.qk_rope_head_dim, positions, 64, mla=True)
    got = model._latent_attention(0, x, table, Everywhere(model.windows).shared)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    other = rotary_table(Rope(400.0, scaling), d.mla.qk_rope_head_dim, positions, 64, mla=True)
    assert not torch.allclose(
        model._latent_attention(0, x, other, Everywhere(model.windows).shared), wanted, rtol=1e-4, atol=1e-5
    )


def test_an_mla_head_is_not_computed_as_a_llama_head():
    model = random_draft(LATENT)
    assert outputs(model, inputs(model)).isfinite().all()
    with pytest.raises(KeyError, match="q_proj"):
        outputs(replace(model, dims=replace(model.dims, mla=None)), inputs(model))


def test_activations_are_those_of_transformers():
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 101)
    outs = {name: act(x) for name, act in ACTIVATIONS.items()}
    assert all(torch.allclose(y, ACT2FN[name](x), atol=1e-6) for name, y in outs.items())
    model = random_draft()
    batch = inputs(model)
    logits = [outputs(wrong(model, hidden_act=name), batch) for name in ACTIVATIONS]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(logits) for b in logits[:i])


@pytest.mark.parametrize("joins", [True, False])
def test_a_head_without_aux_states_has_no_fc(joins: bool):
    model = random_draft(replace(PLAIN, uses_aux=False, joins_embedding=joins))
    batch = inputs(model)
    assert torch.equal(model.features(batch["aux_hidden_states"]), batch["aux_hidden_states"])
    with pytest.raises(KeyError, match=r"fc\.weight"):
        outputs(wrong(model, uses_aux=True), batch)


def test_a_head_that_joins_no_embedding_sees_no_tokens():
    blind = random_draft(replace(PLAIN, uses_aux=False, joins_embedding=False))
    for seeing in (random_draft(), random_draft(replace(PLAIN, uses_aux=False))):
        for model, same in ((blind, True), (seeing, False)):
            batch = inputs(model)
            other = {**batch, "token_ids": batch["token_ids"].flip(1)}
            assert torch.equal(outputs(model, batch), outputs(model, other)) == same


def drafted(model: DraftModel, steps: int) -> list[torch.Tensor]:
    """Logits of each step of one draft at the end of a text, fed with fixed tokens."""
    batch = inputs(model, rows=1)
    memory = Memory(model.windows)
    features = model.features(batch["aux_hidden_states"][0])
    hidden = model.hidden(features, batch["token_ids"][0], torch.arange(T), memory.attend)[-1:]
    out = [model.logits(hidden)]
    for step in range(1, steps):
        token, features = torch.tensor([step]), model.feedback(hidden)
        if model.semantics.parallel_drafting:
            masked, mask = model.masked()
            token, features = torch.tensor([mask]), masked[None]
        hidden = model.hidden(features, token, torch.tensor([T - 1 + step]), memory.attend)
        out.append(model.logits(hidden))
    return out


def test_a_parallel_head_drafts_from_masks():
    model = random_draft(replace(PLAIN, parallel_drafting=True, fc_norm=True))
    right = drafted(model, 3)
    serial = drafted(wrong(model, parallel_drafting=False), 3)
    other_token = drafted(replace(model, mask_token_id=0), 3)
    other_state = drafted(replace(model, weights={**model.weights, "mask_hidden": torch.ones(1, 1, 96)}), 3)
    for changed in (serial, other_token, other_state):
        assert torch.equal(right[0], changed[0])
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(right[1:], changed[1:], strict=True))
    # the mask's features are projected as any others are, its norms included
    assert torch.equal(model.masked()[0], model.features(model.weights["mask_hidden"])[0, 0])
    with pytest.raises(Refusal) as refused:
        replace(model, mask_token_id=None).masked()
    assert refused.value.code == "reference-mask-token"


def test_feedback_shows_from_the_second_step_on():
    model = random_draft()
    pre, post = drafted(model, 2), drafted(wrong(model, feedback="post_norm"), 2)
    assert torch.equal(pre[0], post[0])
    assert (pre[1] - post[1]).abs().max() > 1e-2


def test_a_reduced_vocabulary_names_the_target_tokens():
    model = random_draft(draft=7)
    assert model.target_ids is not None
    assert outputs(model, inputs(model)).shape[-1] == 7 + 32
    assert model.to_target(torch.tensor([[0, 6]])).tolist() == [[model.target_ids[0], model.target_ids[6]]]
    assert random_draft().to_target(torch.tensor([5])).tolist() == [5]


@pytest.mark.parametrize("semantics", [PLAIN, FULL])
def test_only_differences_of_positions_matter(semantics: Semantics):
    model = random_draft(semantics)
    batch = inputs(model, rows=1)
    features, tokens = model.features(batch["aux_hidden_states"][0]), batch["token_ids"][0]

    def at(begin: int) -> torch.Tensor:
        return model.hidden(features, tokens, torch.arange(begin, begin + T), Memory(model.windows).attend)

    # far beyond max_position_embeddings (64) too
    assert torch.allclose(at(0), at(1000), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_close(dtype: torch.dtype):
    model = random_draft(FULL)
    batch = inputs(model)
    low = replace(
        model,
        weights={k: v.to(dtype) for k, v in model.weights.items()},
        embeddings=model.embeddings.to(dtype),
    )
    right, near = outputs(model, batch), outputs(low, batch)
    assert near.dtype == dtype
    assert 0 < (near.float() - right).abs().max() < 0.05 * right.abs().max()


def test_leading_dimensions_are_free():
    model = random_draft(FULL)
    batch = inputs(model)
    together = outputs(model, batch)
    for row in range(2):
        positions = torch.arange(T)
        features = model.features(batch["aux_hidden_states"][row])
        hidden = model.hidden(features, batch["token_ids"][row], positions, Memory(model.windows).attend)
        alone = torch.cat([model.logits(hidden), model.feedback(hidden)], dim=-1)
        assert torch.allclose(alone, together[row], atol=1e-5)
