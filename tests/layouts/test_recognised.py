"""Draft models of other methods are called by their names, whatever layout is asked for; EAGLE-3 heads are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads, variants

from eagle3hub.errors import LayoutError
from eagle3hub.layouts import open_head

H, INNER, VOCAB = 8, 12, 40
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": H,
    "intermediate_size": INNER,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
}
MEDUSA = {"model_type": "medusa", "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj.weight": (H, H),
    "self_attn.k_proj.weight": (H // 2, H),
    "self_attn.v_proj.weight": (H // 2, H),
    "self_attn.o_proj.weight": (H, H),
    "mlp.gate_proj.weight": (INNER, H),
    "mlp.up_proj.weight": (INNER, H),
    "mlp.down_proj.weight": (H, INNER),
    "post_attention_layernorm.weight": (H,),
}


def layer(prefix: str, *more: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": shape for name, shape in {**LAYER, **dict.fromkeys(more, (H,))}.items()}


EAGLE1 = {"embed_tokens.weight": (VOCAB, H), "fc.weight": (H, 2 * H), **layer("layers.0.")}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "EAGLE-1": (LLAMA, EAGLE1, "an EAGLE-1 or EAGLE-2 head, not an EAGLE-3 head"),
    "EAGLE-2 with a bias": (LLAMA | {"bias": True}, EAGLE1 | {"fc.bias": (H,)}, "an EAGLE-1 or EAGLE-2 head"),
    "EAGLE-1 with model.": (LLAMA, {f"model.{n}": s for n, s in EAGLE1.items()}, "an EAGLE-1 or EAGLE-2 head"),
    "Medusa": (
        {"medusa_num_heads": 2, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"},
        {f"{i}.{n}": s for i in range(2) for n, s in {"0.linear.weight": (H, H), "1.weight": (VOCAB, H)}.items()},
        "Medusa heads",
    ),
    "Medusa's class": (MEDUSA | {"architectures": ["MedusaModel"]}, {"blocks.0.layers.0.weight": (H, H)}, "Medusa"),
    "Medusa by its names": (MEDUSA, {"medusa_heads.0.0.linear.weight": (H, H)}, "Medusa heads"),
    "Medusa by its outputs": (MEDUSA, {"lm_heads.0.weight": (VOCAB, H)}, "Medusa heads"),
    "DFlash": (
        LLAMA | {"architectures": ["DFlashDraftModel"], "dflash_config": {"mask_token_id": 5}},
        {"fc.weight": (H, 3 * H), "hidden_norm.weight": (H,), **layer("layers.0.", "input_layernorm.weight")},
        "a DFlash draft model",
    ),
    "MTP": (
        LLAMA | {"architectures": ["DeepseekV3ForCausalLMNextN"]},
        {"model.layers.9.eh_proj.weight": (H, 2 * H), **layer("model.layers.9.", "enorm.weight", "hnorm.weight")},
        "multi-token prediction",
    ),
    "MTP with MLA": (
        LLAMA,
        {"model.layers.0.eh_proj.weight": (H, 2 * H), "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (H, H)},
        "multi-token prediction",
    ),
    "experts": (
        LLAMA | {"architectures": ["Eagle3DeepseekV2ForCausalLM"], "kv_lora_rank": 4},
        {
            "fc.weight": (H, 3 * H),
            "layers.0.hidden_norm.weight": (H,),
            "layers.0.self_attn.kv_b_proj.weight": (H, 4),
            "layers.0.mlp.gate.weight": (4, H),
            "layers.0.mlp.experts.0.up_proj.weight": (INNER, H),
        },
        "a mixture of experts in place of its MLP",
    ),
    "MTP of Qwen3-Next": (
        LLAMA,
        {"mtp.fc.weight": (H, 2 * H), **layer("mtp.layers.0.")},
        "multi-token prediction",
    ),
}


@pytest.mark.parametrize("layout", [None, "safeailab"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_method_is_called_by_its_name(tmp_path: Path, other: str, layout: str | None):
    config, shapes, says = OTHERS[other]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    with pytest.raises(LayoutError, match=says) as refused:
        open_head(tmp_path, layout=layout)
    assert "this version reads Llama-style EAGLE-3 and P-EAGLE heads" in refused.value.message


def test_a_head_with_two_aux_layers_is_no_eagle1_head(tmp_path: Path):
    """Its fc has the shape of an EAGLE-1 head's."""
    two = heads.dims(aux=2)
    modelopt = variants.modelopt(tmp_path / "modelopt", two)
    speculators = heads.speculators(tmp_path / "speculators", two, eagle_aux_hidden_state_layer_ids=[2, 14])
    for folder in (modelopt, speculators):
        assert open_head(folder).tensors["fc.weight"].shape == (H, 2 * H)
