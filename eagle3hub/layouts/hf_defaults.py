"""What a config written as a difference means by leaving a field out.

speculators writes ``transformer_layer_config`` with transformers' ``to_diff_dict``: a missing field has the default
of the config class that model_type names (transformers 4.57 and 5: ``LlamaConfig``, ``Qwen3Config``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LAYERS, CONTEXT = 32, 2048
"""num_hidden_layers and max_position_embeddings of ``LlamaConfig``."""
_LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
}
_QWEN3 = {**_LLAMA, "intermediate_size": 22016, "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 151936}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"llama": _LLAMA, "qwen3": _QWEN3}
_CONTEXT = {"qwen3": 32768}
ROPE_THETA = 10000.0
"""The RoPE base of both classes."""


def with_defaults(layer: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The config with the fields it leaves out; a null counts as left out."""
    return {**_DEFAULTS[model_type], **{k: v for k, v in layer.items() if v is not None}}


def context_of(fields: Mapping[str, Any]) -> int:
    """``max_position_embeddings`` in tokens, or the default of the class where a config states none."""
    stated = fields.get("max_position_embeddings")
    return stated if type(stated) is int else _CONTEXT.get(str(fields.get("model_type")), CONTEXT)
