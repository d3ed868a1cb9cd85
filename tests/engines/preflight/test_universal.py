"""What the universal layout refuses to hold for an engine is what the engine's contract says it gets wrong.

The layouts stand below the engines and cannot ask them, so their list of what an engine lacks is held to the contracts
here: an engine that a folder may be made for is right about the feature, and any other is not.
"""

from __future__ import annotations

import pytest
from support import outlines as f

from eagle3hub.engines.preflight import ExaminedHead, judge, pinned_contracts
from eagle3hub.layouts.universal import HELD_FOR, cannot

ENGINES = ("vllm", "sglang", "trtllm", "sglang_jax")
"""The engines that a universal folder may be made for."""
GOOD = {"right", "depends", "unknown"}
NORMS = {f"fc_norm.{j}.weight": (f.H,) for j in range(3)}
BIASES = {
    f"midlayer.self_attn.{name}_proj.bias": (shape[0],)
    for name in "qkvo"
    for shape in (f.shapes("midlayer.")[f"midlayer.self_attn.{name}_proj.weight"],)
}
HEADS: dict[str, ExaminedHead] = {
    "quantization": f.in_fp8(
        f.universal(quantization_config={"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["fc", "lm_head"]})
    ),
    "mla": f.mla(),
    "attention_bias": f.universal(weights=BIASES, attention_bias=True),
    "norm_before_residual": f.universal(norm_before_residual=True),
    "norm_before_fc": f.universal(
        weights={"input_norm.weight": (3 * f.H,)},
        norm_before_fc=True,
        eagle_config=f.eagle_config(f.AFTER, use_aux_hidden_state=True, norm_before_fc=True),
    ),
    "fc_norm": f.universal(weights=NORMS, fc_norm=True),
    "post_norm_feedback": f.universal(
        norm_output=True,
        eagle_config=f.eagle_config(f.AFTER, use_aux_hidden_state=True, return_hidden_post_norm=True),
    ),
}
"""By feature of `HELD_FOR`, a universal folder that has it; the others need a target's weights or its width."""


@pytest.mark.parametrize("feature", HEADS)
def test_a_feature_is_held_for_the_engines_that_get_it_right(feature: str) -> None:
    target = f.target("deepseek_v3") if feature == "mla" else f.target()
    right = {
        engine
        for engine in ENGINES
        if any(judge(HEADS[feature], terms, target).kind in GOOD for terms in pinned_contracts(engine))
    }
    assert right == HELD_FOR[feature]


def test_only_what_some_engine_lacks_is_held_for_some() -> None:
    assert set(HELD_FOR) <= set(cannot(ENGINES))
    for feature, able in HELD_FOR.items():
        for engine in set(ENGINES) - able:
            assert feature in cannot([engine]), f"a refusal for {engine} alone says what it does with {feature}"
    assert set(HELD_FOR) - set(HEADS) == {"no_aux", "no_lm_head", "embed_tokens", "target_width"}
