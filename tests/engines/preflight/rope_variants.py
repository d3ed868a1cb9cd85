"""How a config may state RoPE: changes of the config of `support.outlines`, whose head_dim is 4 and context 8192."""

from __future__ import annotations

from typing import Any

YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [4.0, 4.0]}
ORIGINAL = "original_max_position_embeddings"
NESTED = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}


def without(stated: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in stated.items() if k != key}


def inside(**stated: Any) -> dict[str, Any]:
    return {"rope_theta": "DELETE", "rope_scaling": stated}


VARIANTS: dict[str, dict[str, Any]] = {
    "base at top level": {},
    "no base": {"rope_theta": "DELETE"},
    "base null": {"rope_theta": None},
    "base in rope_parameters": {
        "rope_theta": "DELETE",
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    },
    "base in rope_parameters, no type": {"rope_theta": "DELETE", "rope_parameters": {"rope_theta": 5e4}},
    "base null and in rope_parameters": {
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    },
    "base in rope_scaling": inside(rope_type="default", rope_theta=5e4),
    "base in rope_scaling, old word": inside(type="default", rope_theta=5e4),
    "base in rope_scaling, no type": inside(rope_theta=5e4),
    "two bases": {"rope_scaling": {"rope_type": "default", "rope_theta": 5e4}},
    "rope_scaling empty": {"rope_scaling": {}},
    "rope_scaling null": {"rope_scaling": None},
    "type alone": {"rope_scaling": {"rope_type": "default"}},
    "both forms, other scaling": {
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "a factor without a type": {"rope_scaling": {"factor": 2.0}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "linear, old word": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "linear, no factor": {"rope_scaling": {"rope_type": "linear"}},
    "linear, factor null": {"rope_scaling": {"rope_type": "linear", "factor": None}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "dynamic, no factor": {"rope_scaling": {"rope_type": "dynamic"}},
    "yarn": {"rope_scaling": YARN},
    "yarn, base inside": inside(**YARN, rope_theta=5e4),
    "yarn, no factor": {"rope_scaling": without(YARN, "factor")},
    "yarn, factor null": {"rope_scaling": {**YARN, "factor": None}},
    "yarn, no length": {"rope_scaling": without(YARN, ORIGINAL)},
    "yarn, length at top level": {"rope_scaling": without(YARN, ORIGINAL), ORIGINAL: 32},
    "yarn, two lengths": {"rope_scaling": YARN, ORIGINAL: 32},
    "llama3": {"rope_scaling": {**LLAMA3, ORIGINAL: 64}},
    "llama3, no length": {"rope_scaling": LLAMA3},
    "llama3, no factor": {"rope_scaling": without(LLAMA3, "factor")},
    "llama3, no low_freq_factor": {"rope_scaling": without(LLAMA3, "low_freq_factor")},
    "llama3, no high_freq_factor": {"rope_scaling": without(LLAMA3, "high_freq_factor")},
    "longrope": {"rope_scaling": {**LONG, ORIGINAL: 64}},
    "longrope, no length": {"rope_scaling": LONG},
    "longrope, no long_factor": {"rope_scaling": without(LONG, "long_factor")},
    "longrope, no short_factor": {"rope_scaling": without(LONG, "short_factor")},
    "su": {"rope_scaling": {**LONG, "rope_type": "su", ORIGINAL: 64}},
    "mrope": {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 0]}},
    "mrope, old word": {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]}},
    "mrope, no section": {"rope_scaling": {"type": "mrope"}},
    "part of each head, top level": {"partial_rotary_factor": 0.5},
    "part of each head, inside": {
        "rope_theta": "DELETE",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
    },
    "part of each head, in rope_scaling": {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    "part of each head, other name": {"rotary_pct": 0.5},
    "part of each head, another name": {"rotary_emb_fraction": 0.5},
    "all of each head": {"partial_rotary_factor": 1.0},
    "by kind of layer": {"rope_theta": "DELETE", "rope_parameters": NESTED},
    "by kind of layer, layer_types": {
        "rope_theta": "DELETE",
        "rope_parameters": NESTED,
        "layer_types": ["full_attention"],
    },
    "a type nobody knows": {"rope_scaling": {"rope_type": "foo", "factor": 2.0}},
    "ntk": {"rope_scaling": {"rope_type": "ntk", "factor": 2.0}},
    "proportional": {"rope_scaling": {"rope_type": "proportional"}},
}
