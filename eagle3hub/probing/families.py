"""Targets of other families: how an engine's own class of each numbers aux layers, measured.

Such a target has a config.json alone. An engine fills its classes with made-up weights, and the probe's worker has
each decoder layer write its own number into the states that pass it, whatever the layer computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.probing.heads import HIDDEN, LAYERS, TAPS, target_config

_YARN = {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
_YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DENSE_FIRST = {**_EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": LAYERS}
_DENSE_FIRST |= {"n_group": 1, "topk_group": 1, "moe_layer_freq": 1}
_LATENT: dict[str, object] = {
    **_DENSE_FIRST,
    "q_lora_rank": 48,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
}
_LATENT |= {"v_head_dim": 32, "num_key_value_heads": 4, "head_dim": None, "rope_scaling": _YARN}
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
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


LISTINGS: Mapping[str, tuple[int, ...] | None] = {
    "no-ids": None,
    "ids-that-begin-with-1": (1, 5, 8),
    "ids-that-begin-with-2": (2, 5, 9),
    "ids-up-to-the-last-layer-but-one": (2, 6, LAYERS - 1),
    "ids-up-to-the-last-layer": (2, 6, LAYERS),
}
"""Lists of aux layers in ``eagle_config``, with which each family is asked."""


def family_reading(captured: Mapping[str, Sequence[int | str]]) -> dict[str, object] | None:
    """Return how a class of targets reads aux layers, as an entry of ``aux_of`` in ``contract.toml``.

    ``captured``: by the names of `LISTINGS`, the boundary ids that were captured, ``?`` for what is no state; none
    where the engine stopped. None is returned if they follow no numbering that we know.
    """
    default, *_ = (captured[name] for name, ids in LISTINGS.items() if ids is None)
    if len(default) == len(TAPS) and set(default) == {"?"}:
        return {"branch": True, "last_layer": bool(captured["ids-up-to-the-last-layer-but-one"])}
    steps = {name: _step(ids, captured[name]) for name, ids in LISTINGS.items() if ids is not None}
    one, two, last = (
        steps[f"ids-{name}"] for name in ("that-begin-with-1", "that-begin-with-2", "up-to-the-last-layer")
    )
    numbering = {
        (1, 1): "boundary-if-last-layer" if last == 0 else "after",
        (0, 0): "boundary",
        (1, 0): "after-if-first-is-1",
    }.get((-1 if one is None else one, -1 if two is None else two))
    numbers = [tap for tap in default if isinstance(tap, int)]
    if numbering is None or len(numbers) != len(TAPS):
        return None
    first, middle, deepest = numbers
    return {
        "places": [[f"eagle_config.{AUX_IDS}", numbering]],
        "default": [first, middle - LAYERS // 2, deepest - LAYERS],
        "last_layer": any(LAYERS in taps for taps in captured.values()),
    }


def _step(listed: Sequence[int], captured: Sequence[int | str]) -> int | None:
    """Return by how much every captured boundary exceeds its id; None if they do not agree or something else came."""
    steps = {tap - own if isinstance(tap, int) else None for tap, own in zip(captured, listed, strict=False)}
    return steps.pop() if len(captured) == len(listed) and len(steps) == 1 else None
