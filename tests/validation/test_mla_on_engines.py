"""A head with MLA attention and a small target of DeepSeek-V3's kind, on vLLM's CPU backend of MLA and on SGLang.

The head is trained here to know what the target says, so that engines accept much of what it drafts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import heads, targets, variants
from validation.trained import trained, with_equal_rounds, write_prompts

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.head import Rope, Semantics

pytestmark = pytest.mark.engine
LAYERS, NEW = 8, 40
# vLLM's CPU backend of MLA keeps 512 + 64 numbers a token
SIZES = {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 48}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0}
YARN |= {"mscale_all_dim": 0.7, "beta_fast": 32.0, "beta_slow": 1.0}
SEMANTICS = Semantics(rope=Rope(700.0, YARN), rms_norm_eps=1e-6, attention="mla")
D = {**heads.DIMS, **SIZES, "hidden": 128, "inter": 96, "heads": 4, "vocab": targets.VOCAB, "draft": 60}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek") / "target"
    return targets.save(
        folder,
        "deepseek_v3",
        tokenizer=True,
        hidden_size=D["hidden"],
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        head_dim=SIZES["qk_rope_head_dim"],
        first_k_dense_replace=LAYERS,  # no layer has experts
        moe_layer_freq=1,  # SGLang asks for it all the same
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_parameters={**YARN, "rope_theta": 500.0},
        **SIZES,
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "questions.jsonl")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    """As ModelOpt writes it, over 60 of the 97 tokens."""
    draft, taps = trained(target, prompts, SEMANTICS, D, NEW, epochs=25, rate=0.005)
    assert draft.target_ids is not None
    plain = variants.modelopt(
        tmp_path_factory.mktemp("head"),
        D,
        variants.Has(mla=True),
        rope_theta=700.0,
        rope_scaling=YARN,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        torch_dtype="float32",
        mlp_bias=False,
        bos_token_id=1,
        eagle_config={"eagle_aux_hidden_state_layer_ids": taps.after_layer, "use_aux_hidden_state": True},
        eagle_aux_hidden_state_layer_ids=taps.boundary,
    )
    return variants.replace(plain, **draft.weights, d2t=draft.target_ids - torch.arange(D["draft"]))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "layout"), [("vllm", "modelopt"), ("vllm", "universal"), ("sglang", "universal")])
def test_an_engine_counts_what_the_reference_counts(
    head: Path, target: Path, prompts: Path, engine: str, layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / layout
    engines = ("vllm", "sglang") if layout == "universal" else ()
    convert(head, folder, layout, ConvertOptions(target=str(target), engines=engines))
    _, theirs = with_equal_rounds(folder, target, prompts, engine, request.getfixturevalue(f"{engine}_python"))
    assert theirs["acceptance"]["mean_acceptance_length"] > 1.5
