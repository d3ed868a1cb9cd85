"""Small heads written by the safetensors library, independently of the writer under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DIMS = {"hidden": 8, "inter": 12, "heads": 2, "kv": 1, "head_dim": 4, "vocab": 40, "draft": 10, "aux": 3}
TARGET_LAYERS = 30


def dims(**changes: int) -> dict[str, int]:
    return {**DIMS, **changes}


def weights(
    d: dict[str, int], prefix: str = "midlayer.", dtype: torch.dtype = torch.bfloat16
) -> dict[str, torch.Tensor]:
    h, q, kv = d["hidden"], d["heads"] * d["head_dim"], d["kv"] * d["head_dim"]
    shapes = {
        "fc.weight": (h, d["aux"] * h),
        f"{prefix}input_layernorm.weight": (h,),
        f"{prefix}hidden_norm.weight": (h,),
        f"{prefix}self_attn.q_proj.weight": (q, 2 * h),
        f"{prefix}self_attn.k_proj.weight": (kv, 2 * h),
        f"{prefix}self_attn.v_proj.weight": (kv, 2 * h),
        f"{prefix}self_attn.o_proj.weight": (h, q),
        f"{prefix}post_attention_layernorm.weight": (h,),
        f"{prefix}mlp.gate_proj.weight": (d["inter"], h),
        f"{prefix}mlp.up_proj.weight": (d["inter"], h),
        f"{prefix}mlp.down_proj.weight": (h, d["inter"]),
        "norm.weight": (h,),
        "lm_head.weight": (d["draft"], h),
    }
    generator = torch.Generator().manual_seed(sum(ord(c) for c in prefix) + d["hidden"])
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def sorted_ids(d: dict[str, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(d["vocab"])
    return torch.randperm(d["vocab"], generator=generator)[: d["draft"]].sort().values


def buffers(ids: torch.Tensor, vocab: int, dtype: torch.dtype = torch.int64) -> dict[str, torch.Tensor]:
    t2d = torch.zeros(vocab, dtype=torch.bool)
    t2d[ids] = True
    return {"d2t": (ids - torch.arange(len(ids))).to(dtype), "t2d": t2d}


def flat_config(d: dict[str, int], **extra: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": d["hidden"],
        "intermediate_size": d["inter"],
        "num_hidden_layers": 1,
        "num_attention_heads": d["heads"],
        "num_key_value_heads": d["kv"],
        "head_dim": d["head_dim"],
        "vocab_size": d["vocab"],
        "draft_vocab_size": d["draft"],
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **extra,
    }


def write(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], metadata: dict[str, str] | None = None
) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def specjax(folder: Path, d: dict[str, int] | None = None, **changes: torch.Tensor | None) -> Path:
    """A head as SpecJAX writes one; ``changes`` replace tensors, None removes one."""
    d = d or dims()
    tensors = {**weights(d), **buffers(sorted_ids(d), d["vocab"], torch.int32), **changes}
    return write(folder, {k: v for k, v in tensors.items() if v is not None}, flat_config(d))


def specforge(folder: Path, d: dict[str, int] | None = None, **config: Any) -> Path:
    """A head as SpecForge's SGLang export writes one."""
    d = d or dims()
    extra = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]},
        "transformers_version": "4.57.1",
        "some_trainer_field": {"kept": [1, 2]},
    }
    tensors = {**weights(d), **buffers(sorted_ids(d), d["vocab"])}
    return write(folder, tensors, {**flat_config(d), **extra, **config}, {"format": "pt"})


def modelopt(folder: Path, d: dict[str, int] | None = None, *, unsorted: bool = False, **config: Any) -> Path:
    """A head as ModelOpt's Hugging Face export writes one, nulls included."""
    d = d or dims()
    ids = sorted_ids(d)
    if unsorted:
        ids = ids.flip(0)
    extra = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "mlp_bias": None,
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [1, 14, 26],
            "use_aux_hidden_state": True,
            "use_input_layernorm_in_first_layer": True,
            "use_last_layernorm": True,
            "use_mtp_layernorm": False,
            "next_layer_regular": True,
            "parallel_draft_step": 1,
            "parallel_draft_heads_num_layers": 1,
        },
    }
    tensors = {**weights(d, "layers.0."), "d2t": buffers(ids, d["vocab"])["d2t"]}
    return write(folder, tensors, {**flat_config(d), **extra, **config})


def speculators(folder: Path, d: dict[str, int] | None = None, *, embeddings: bool = False, **config: Any) -> Path:
    """A head as the speculators library writes one, with its own extra keys."""
    d = d or dims()
    flat = flat_config(d)
    for key in ("draft_vocab_size", "rope_theta", "torch_dtype"):
        del flat[key]
    whole = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.9.0",
        "draft_vocab_size": d["draft"],
        "norm_before_residual": False,
        "target_hidden_size": None,
        "embed_requires_grad": False,
        "eagle_aux_hidden_state_layer_ids": [2, 15, 27],
        "tie_word_embeddings": False,
        "transformer_layer_config": {
            **flat,
            "hidden_act": "silu",
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "max_position_embeddings": 4096,
        },
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
            "verifier": {"name_or_path": "owner/target", "architectures": ["LlamaForCausalLM"]},
        },
        **config,
    }
    tensors = {**weights(d, "layers.0."), **buffers(sorted_ids(d), d["vocab"])}
    if embeddings:
        tensors["embed_tokens.weight"] = torch.ones(d["vocab"], d["hidden"], dtype=torch.bfloat16)
    return write(folder, tensors, whole, {"format": "pt"})


def safeailab(folder: Path, d: dict[str, int] | None = None, **config: Any) -> Path:
    """A head as SafeAILab's training code makes one, saved as safetensors, beside the trainer's own config."""
    d = d or dims()
    flat = flat_config(d)
    for key in ("rope_theta", "head_dim"):
        del flat[key]
    extra = {"hidden_act": "silu", "max_position_embeddings": 2048, "pad_token_id": 0, "torch_dtype": "float16"}
    if d["head_dim"] * d["heads"] != d["hidden"]:
        extra["head_dim"] = d["head_dim"]
    tensors = {**weights(d, dtype=torch.float16), **buffers(sorted_ids(d), d["vocab"])}
    return write(folder, tensors, {**flat, **extra, **config})


def angelslim(folder: Path, d: dict[str, int] | None = None, **config: Any) -> Path:
    """A head as AngelSlim's trainer saves one: embeddings beside it, and a config that ties them to lm_head."""
    d = d or dims()
    extra = {
        "architectures": ["Eagle3LlamaForCausalLM"],
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "target_model_type": "qwen3",
    }
    tensors = {**weights(d), **buffers(sorted_ids(d), d["vocab"])}
    return write(folder, tensors, {**flat_config(d), **extra, **config}, {"format": "pt"})


def universal(folder: Path, d: dict[str, int] | None = None, **config: Any) -> Path:
    """A head as eagle3hub writes one for all engines."""
    d = d or dims()
    extra = {
        "eagle3hub_layout": "universal",
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "norm_before_residual": False,
        "eagle_aux_hidden_state_layer_ids": [2, 15, 27],
        "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]},
    }
    tensors = {**weights(d), **buffers(sorted_ids(d), d["vocab"])}
    return write(folder, tensors, {**flat_config(d), **extra, **config}, {"format": "pt"})


def target(folder: Path, d: dict[str, int] | None = None, **changes: Any) -> Path:
    """A target's config.json; its weights are not needed."""
    d = d or dims()
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": TARGET_LAYERS,
        "hidden_size": d["hidden"],
        "vocab_size": d["vocab"],
        "max_position_embeddings": 8192,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def wrapped_target(folder: Path, model_type: str | None, text: str, **changes: Any) -> Path:
    """A target whose config.json keeps the language model of the type ``text`` in a part of its own."""
    path = target(folder, model_type=text, **changes) / "config.json"
    inner = json.loads(path.read_text())
    path.write_text(json.dumps({"architectures": ["Other"], "model_type": model_type, "text_config": inner}))
    return folder


MAKERS = {
    "specjax": specjax,
    "specforge": specforge,
    "modelopt": modelopt,
    "speculators": speculators,
    "safeailab": safeailab,
    "angelslim": angelslim,
    "universal": universal,
}
