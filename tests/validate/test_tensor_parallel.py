"""A small pair whose sizes divide by two, split over two processes of an engine: the rounds are those of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import heads, targets, variants
from validate.trained import trained, with_equal_rounds, write_prompts

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import EngineSettings
from eagle3hub.head import Rope, Semantics

pytestmark = pytest.mark.engine
LAYERS, NEW = 8, 40
SEMANTICS = Semantics(rope=Rope(700.0), rms_norm_eps=1e-6)
# vLLM's attention on CPU takes heads of 32 and more
D = {**heads.DIMS, "hidden": 128, "inter": 192, "heads": 4, "kv": 2, "head_dim": 32}
D |= {"vocab": targets.VOCAB, "draft": 60}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.save(
        tmp_path_factory.mktemp("llama") / "target",
        "llama",
        tokenizer=True,
        hidden_size=D["hidden"],
        intermediate_size=D["inter"],
        num_hidden_layers=LAYERS,
        num_attention_heads=D["heads"],
        num_key_value_heads=D["kv"],
        head_dim=D["head_dim"],
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "questions.jsonl")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    draft, taps = trained(target, prompts, SEMANTICS, D, NEW, epochs=25, rate=0.005)
    assert draft.target_ids is not None
    folder = tmp_path_factory.mktemp("head")
    plain = variants.modelopt(
        folder / "trained",
        D,
        variants.Has(),
        rope_theta=700.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        torch_dtype="float32",
        mlp_bias=False,
        bos_token_id=1,
        eagle_config={"eagle_aux_hidden_state_layer_ids": taps.after_layer, "use_aux_hidden_state": True},
        eagle_aux_hidden_state_layer_ids=taps.boundary,
    )
    own = variants.replace(plain, **draft.weights, d2t=draft.target_ids - torch.arange(D["draft"]))
    convert(own, folder / "universal", "universal", ConvertOptions(target=str(target), engines=("vllm", "sglang")))
    return folder / "universal"


@pytest.mark.parametrize("devices", [1, 2])
def test_vllm_counts_what_the_reference_counts(
    head: Path, target: Path, prompts: Path, vllm_python: Path, devices: int
) -> None:
    split = EngineSettings(tensor_parallel=devices)
    ours, theirs = with_equal_rounds(head, target, prompts, "vllm", vllm_python, engine_settings=split)
    assert theirs["acceptance"]["mean_acceptance_length"] > 1.5
    assert theirs["load"]["checked"]
    assert theirs["load"]["aux_boundaries"] == ours["load"]["aux_boundaries"]
