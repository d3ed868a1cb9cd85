"""Targets of other families: how an engine's own class of each numbers aux layers, measured.

Such a target has a config.json alone. An engine fills its classes with made-up weights, and the probe's worker has each
decoder layer write its own number into the states that pass it, whatever the layer computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.probing.heads import HIDDEN, LAYERS, TAPS, Probed, target_config

_YARN = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
_YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DENSE_FIRST = {**_EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": LAYERS}
_DENSE_FIRST |= {"n_group": 1, "topk_group": 1, "moe_layer_freq": 1}
_LATENT = {**_DENSE_FIRST, "q_lora_rank": 48, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16}
_LATENT |= {"v_head_dim": 32, "num_key_value_heads": 4, "head_dim": None, "rope_scaling": _YARN}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "mistral": {"architectures": ["MistralForCausalLM"]},
    "phi3": {"architectures": ["Phi3ForCausalLM"]},
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        **_EXPERTS,
        "num_experts": 8,
        "mlp_only_layers": list(range(LAYERS)),
    },
    "glm4_moe": {"architectures": ["Glm4MoeForCausalLM"], **_DENSE_FIRST, "use_qk_norm": False},
    "glm4_moe_lite": {"architectures": ["Glm4MoeLiteForCausalLM"], **_LATENT},
    "deepseek_v2": {"architectures": ["DeepseekV2ForCausalLM"], **_LATENT},
    "deepseek_v3": {"architectures": ["DeepseekV3ForCausalLM"], **_LATENT},
    "kimi_k2": {"architectures": ["DeepseekV3ForCausalLM"], **_LATENT},
    "gpt_oss": {
        "architectures": ["GptOssForCausalLM"],
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": 32,
        "sliding_window": 128,
        "layer_types": ["full_attention"] * LAYERS,
    },
}
"""By type of target, what its config has beside the fields of Llama's; None removes one of these."""


def write_family(folder: Path, kind: str) -> Path:
    """Write the config of a target of the type ``kind``, without weights."""
    folder.mkdir(parents=True)
    config = target_config(HIDDEN, **{"model_type": kind, "pad_token_id": 0, **FAMILIES[kind]})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


@dataclass(frozen=True)
class _Listing:
    """A list of aux layers in ``eagle_config``, or none."""

    slug: str
    ids: tuple[int, ...] | None


_LISTINGS = (
    _Listing("no-ids", None),
    _Listing("ids-that-begin-with-1", (1, 5, 8)),
    _Listing("ids-that-begin-with-2", (2, 5, 9)),
    _Listing("ids-up-to-the-last-layer-but-one", (2, 6, LAYERS - 1)),
    _Listing("ids-up-to-the-last-layer", (2, 6, LAYERS)),
)
