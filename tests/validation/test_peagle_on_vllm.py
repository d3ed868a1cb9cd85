"""A P-EAGLE head and a small target, run by vLLM on CPU: it drafts in parallel, and its rounds are the reference's.

The head is trained here to know what the target says, so that drafts at every position are accepted.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support import heads, targets
from validation.trained import trained, with_equal_rounds, write_prompts

from eagle3hub import ConvertOptions, convert
from eagle3hub.head import Rope, Semantics
from eagle3hub.layouts import open_head

pytestmark = pytest.mark.engine
LAYERS, NEW, K = 8, 40, 3
MASK = targets.VOCAB - 1
SEMANTICS = Semantics(rope=Rope(700.0), rms_norm_eps=1e-6, parallel_drafting=True, num_layers=2)
D = {"hidden": 128, "inter": 96, "heads": 4, "kv": 2, "head_dim": 32, "vocab": targets.VOCAB, "draft": 60, "aux": 3}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.save(
        tmp_path_factory.mktemp("llama") / "target",
        tokenizer=True,
        hidden_size=D["hidden"],
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        head_dim=D["head_dim"],
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "questions.jsonl")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    """As the method's authors publish one: layer 0 is midlayer.*, the token of masked slots is ptd_token_id."""
    draft, taps = trained(target, prompts, SEMANTICS, D, NEW, epochs=30, rate=0.005)
    assert (draft.mask_token_id, draft.target_ids is None) == (MASK, False)
    config = heads.flat_config(
        D,
        architectures=["LlamaForCausalLMEagle3"],
        num_hidden_layers=2,
        rope_theta=700.0,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        max_position_embeddings=512,
        torch_dtype="float32",
        ptd_token_id=MASK,
        eagle_aux_hidden_state_layer_ids=taps.boundary,
    )
    tensors = {name.replace("layers.0.", "midlayer."): w.contiguous() for name, w in draft.weights.items()}
    tensors |= heads.buffers(draft.target_ids, D["vocab"])
    return heads.write(tmp_path_factory.mktemp("head") / "head", tensors, config, {"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "speculators"])
def test_vllm_counts_what_the_reference_counts(
    head: Path, target: Path, prompts: Path, vllm_python: Path, layout: str, tmp_path: Path
) -> None:
    folder = head
    if layout == "speculators":
        folder = tmp_path / layout
        options = ConvertOptions(target=str(target), target_name="owner/target", speculative_tokens=K)
        convert(head, folder, layout, options)
    assert (open_head(folder).layout, open_head(folder).semantics.parallel_drafting) == (layout, True)
    ours, _ = with_equal_rounds(folder, target, prompts, "vllm", vllm_python, K)
    accepted = [sum(n) for n in zip(*(row["accepted_per_position"] for row in ours["per_prompt"]), strict=True)]
    assert min(accepted) >= 8, f"rounds show little if few drafts are accepted: {accepted}"
