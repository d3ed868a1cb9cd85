"""Heads with more than the plain core: layers, biases, norms, P-EAGLE, quantized; written as their trainers do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support import heads

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Has:
    """What a head shall have besides the plain core of one layer."""

    layers: int = 1
    attention_bias: bool = False
    fc_bias: bool = False
    qk_norm: bool = False
    input_norm: bool = False
    fc_norm: bool = False
    mask_hidden: bool = False
    embeddings: bool = False
    uses_aux: bool = True
    joins: bool = True
    mla: bool = False
    q_lora: bool = True
    """With ``mla``: whether queries come from a latent (q_a_proj, q_b_proj) or straight from q_proj."""


MLA = {"q_lora_rank": 6, "kv_lora_rank": 10, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3}
"""Sizes of the MLA heads made here, each another number; ``d`` may hold others."""


def mla_sizes(d: dict[str, int]) -> dict[str, int]:
    return {name: d.get(name, size) for name, size in MLA.items()}


def mla_fields(d: dict[str, int], has: Has, model_type: str = "kimi_k2") -> dict[str, Any]:
    """What a config of an MLA head says beside and instead of Llama's fields."""
    sizes: dict[str, Any] = mla_sizes(d)
    return {
        **sizes,
        **({} if has.q_lora else {"q_lora_rank": None}),
        "model_type": model_type,
        "num_key_value_heads": d["heads"],
        "head_dim": "DELETE",
    }


def _attention(d: dict[str, int], has: Has, inputs: int) -> dict[str, tuple[int, ...]]:
    h, q, kv = d["hidden"], d["heads"] * d["head_dim"], d["kv"] * d["head_dim"]
    if not has.mla:
        shapes: dict[str, tuple[int, ...]] = {
            "q_proj.weight": (q, inputs),
            "k_proj.weight": (kv, inputs),
            "v_proj.weight": (kv, inputs),
            "o_proj.weight": (h, q),
        }
        if has.attention_bias:
            shapes |= {f"{p}_proj.bias": (n,) for p, n in zip("qkvo", (q, kv, kv, h), strict=True)}
        if has.qk_norm:
            shapes |= {f"{p}_norm.weight": (d["head_dim"],) for p in "qk"}
        return shapes
    rank, latent, nope, rope, value = mla_sizes(d).values()
    query = d["heads"] * (nope + rope)
    shapes = {
        "kv_a_proj_with_mqa.weight": (latent + rope, inputs),
        "kv_a_layernorm.weight": (latent,),
        "kv_b_proj.weight": (d["heads"] * (nope + value), latent),
        "o_proj.weight": (h, d["heads"] * value),
    }
    if has.q_lora:
        shapes |= {
            "q_a_proj.weight": (rank, inputs),
            "q_a_layernorm.weight": (rank,),
            "q_b_proj.weight": (query, rank),
        }
    else:
        shapes["q_proj.weight"] = (query, inputs)
    if has.attention_bias:
        shapes |= {"kv_a_proj_with_mqa.bias": (latent + rope,), "o_proj.bias": (h,)}
        shapes |= {"q_a_proj.bias": (rank,)} if has.q_lora else {}
    return shapes


def weights(d: dict[str, int], has: Has, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    """Canonical names (``layers.{i}.``), random values."""
    h = d["hidden"]
    wide = d["aux"] * d.get("target_hidden", h)
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (h,), "lm_head.weight": (d["draft"], h)}
    if has.uses_aux:
        shapes["fc.weight"] = (h, wide)
    if has.joins:
        shapes["layers.0.hidden_norm.weight"] = (h,)
    for i in range(has.layers):
        at, inputs = f"layers.{i}.", 2 * h if i == 0 and has.joins else h
        shapes |= {
            f"{at}input_layernorm.weight": (h,),
            f"{at}post_attention_layernorm.weight": (h,),
            **{f"{at}self_attn.{name}": shape for name, shape in _attention(d, has, inputs).items()},
            f"{at}mlp.gate_proj.weight": (d["inter"], h),
            f"{at}mlp.up_proj.weight": (d["inter"], h),
            f"{at}mlp.down_proj.weight": (h, d["inter"]),
        }
    if has.fc_bias:
        shapes["fc.bias"] = (h,)
    if has.input_norm:
        shapes["input_norm.weight"] = (wide,)
    if has.fc_norm:
        shapes |= {f"fc_norm.{j}.weight": (d.get("target_hidden", h),) for j in range(d["aux"])}
    if has.mask_hidden:
        shapes["mask_hidden"] = (1, 1, wide)
    if has.embeddings:
        shapes["embed_tokens.weight"] = (d["vocab"], h)
    generator = torch.Generator().manual_seed(h + len(shapes))
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def edit(folder: Path, **changes: Any) -> Path:
    """Change fields of config.json; DELETE removes one."""
    config = {**config_of(folder), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "DELETE"}))
    return folder


def tensors_of(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def replace(folder: Path, metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> Path:
    """Change tensors; None removes one."""
    every = {**tensors_of(folder), **tensors}
    save_file({k: v for k, v in every.items() if v is not None}, folder / "model.safetensors", metadata=metadata)
    return folder


def renamed(folder: Path, rename: Any, metadata: dict[str, str] | None = None) -> Path:
    """Call every tensor ``rename(name)``."""
    save_file({rename(n): t for n, t in tensors_of(folder).items()}, folder / "model.safetensors", metadata=metadata)
    return folder


def _ids(d: dict[str, int], unsorted: bool) -> torch.Tensor:
    ids = heads.sorted_ids(d)
    return ids.flip(0) if unsorted else ids


def modelopt(
    folder: Path,
    d: dict[str, int] | None = None,
    has: Has = Has(),
    *,
    unsorted: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    **config: Any,
) -> Path:
    """ModelOpt 0.43 and later, of any shape."""
    d = d or heads.dims()
    plain = config_of(heads.modelopt(folder / "plain", d))
    ids = [1, 14, 26] if d["aux"] == 3 else list(range(2, 2 + 3 * d["aux"], 3))
    eagle = {**plain["eagle_config"], "use_aux_hidden_state": has.uses_aux}
    eagle["eagle_aux_hidden_state_layer_ids"] = ids if has.uses_aux else []
    if has.input_norm:
        eagle["norm_before_fc"] = True
    extra = {"num_hidden_layers": has.layers, "attention_bias": has.attention_bias, "eagle_config": eagle}
    extra["torch_dtype"] = str(dtype).removeprefix("torch.")
    if has.mla:
        extra |= {"architectures": ["Eagle3DeepseekV2ForCausalLM"], **mla_fields(d, has)}
    tensors = weights(d, has, dtype)
    if d["draft"] != d["vocab"]:
        tensors["d2t"] = heads.buffers(_ids(d, unsorted), d["vocab"])["d2t"]
    return heads.write(folder / "head", tensors, _without_deleted({**plain, **extra, **config}))


def _without_deleted(config: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if v != "DELETE"}


def speculators(
    folder: Path,
    d: dict[str, int] | None = None,
    has: Has = Has(),
    *,
    unsorted: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    layer: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """speculators 0.9, of any shape."""
    d = d or heads.dims()
    plain = config_of(heads.speculators(folder / "plain", d))
    changed = {
        **plain["transformer_layer_config"],
        "model_type": "qwen3" if has.qk_norm else "llama",
        "num_hidden_layers": has.layers,
        "attention_bias": has.attention_bias,
        **(layer or {}),
    }
    extra: dict[str, Any] = {
        "transformer_layer_config": {k: v for k, v in changed.items() if v != "DELETE"},
        "norm_before_fc": has.input_norm,
        "fc_norm": has.fc_norm,
        "norm_output": False,
    }
    if d["aux"] != 3:
        extra["eagle_aux_hidden_state_layer_ids"] = list(range(3, 3 + 3 * d["aux"], 3))
    if has.mask_hidden:
        extra |= {"speculators_model_type": "peagle", "mask_token_id": 7, "architectures": ["PEagleSpeculator"]}
    tensors = weights(d, has, dtype)
    if d["draft"] != d["vocab"]:
        tensors |= heads.buffers(_ids(d, unsorted), d["vocab"])
    return heads.write(folder / "head", tensors, {**plain, **extra, **config}, {"format": "pt"})


def specforge(folder: Path, d: dict[str, int] | None = None, has: Has = Has(), **config: Any) -> Path:
    """SpecForge: EAGLE-3 as ``midlayer.``, P-EAGLE as ``layers.{i}.``."""
    d = d or heads.dims()
    plain = config_of(heads.specforge(folder / "plain", d))
    tensors = {**weights(d, has), **heads.buffers(heads.sorted_ids(d), d["vocab"])}
    extra: dict[str, Any] = {"fc_norm": True} if has.fc_norm else {}
    if has.mask_hidden:
        extra |= {"architectures": ["PEagleDraftModel"], "num_hidden_layers": has.layers}
    else:
        tensors = {n.replace("layers.0.", "midlayer."): t for n, t in tensors.items()}
    if "target_hidden" in d:
        extra["target_hidden_size"] = d["target_hidden"]
    if has.mla:
        extra |= {"architectures": ["DeepseekV3ForCausalLMEagle3"], **mla_fields(d, has, "deepseek_v3")}
    return heads.write(folder / "head", tensors, _without_deleted({**plain, **extra, **config}), {"format": "pt"})


def quantized(folder: Path, kind: str = "NVFP4") -> Path:
    """ModelOpt's quantized export: packed weights with scales, and hf_quant_config.json beside them."""
    d = heads.dims(hidden=32, inter=48, heads=4, head_dim=8, kv=2)
    source = modelopt(folder, d, quantization_config={"quant_method": "modelopt", "quant_algo": kind})
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors_of(source).items():
        module = name.removesuffix("weight")
        if tensor.dim() != 2 or name == "lm_head.weight":
            out[name] = tensor
        elif kind == "FP8":
            out |= {name: tensor.to(torch.float8_e4m3fn), f"{module}weight_scale": torch.tensor(0.5)}
            out[f"{module}input_scale"] = torch.tensor(0.25)
        else:
            rows, columns = tensor.shape
            out[name] = torch.randint(0, 255, (rows, columns // 2), dtype=torch.uint8)
            out[f"{module}weight_scale"] = torch.ones(rows, columns // 16).to(torch.float8_e4m3fn)
            out[f"{module}weight_scale_2"] = torch.tensor(0.5)
    if kind == "FP8":
        out["layers.0.self_attn.k_proj.k_scale"] = torch.tensor(1.0)
    save_file(out, source / "model.safetensors")
    (source / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": kind}}))
    return source


SCHEMES: dict[str, dict[str, Any]] = {
    "quark": {
        "quant_method": "quark",
        "exclude": ["re:.*fc.*", "re:.*lm_head.*"],
        "export": {"kv_cache_group": [], "pack_method": "reorder"},
        "global_quant_config": {
            "weight": {"dtype": "fp8_e4m3", "qscheme": "per_channel", "ch_axis": 0, "is_dynamic": False},
            "input_tensors": {"dtype": "fp8_e4m3", "qscheme": "per_channel", "is_dynamic": True},
        },
        "layer_quant_config": {},
        "layer_type_quant_config": {},
    },
    "int8": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["re:.*fc$", "re:.*lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
                "input_activations": {
                    "num_bits": 8,
                    "type": "int",
                    "strategy": "token",
                    "symmetric": True,
                    "dynamic": True,
                },
            }
        },
    },
    "int4": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["re:.*lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16, "symmetric": True},
            }
        },
    },
    "blocks": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 16],
        "modules_to_not_convert": ["model.fc", "lm_head"],
    },
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}
"""Configs of quantized heads, as their tools write them."""


def parts_of(weight: torch.Tensor, scheme: str, group: int = 16) -> Tensors:
    """What a tool stores in place of a weight, by the last part of its name. ``group``: inputs that share a scale."""
    rows, columns = weight.shape
    wide = weight.to(torch.float32)
    if scheme == "quark":
        scale = wide.abs().amax(dim=1) / 448
        return {"weight": (wide / scale[:, None]).to(torch.float8_e4m3fn), "weight_scale": scale}
    if scheme == "int8":
        scale = wide.abs().amax(dim=1, keepdim=True) / 127
        return {"weight": (wide / scale).round().to(torch.int8), "weight_scale": scale.to(weight.dtype)}
    if scheme == "blocks":
        blocks = torch.rand(-(-rows // 16), -(-columns // 16))
        return {"weight": wide.to(torch.float8_e4m3fn), "weight_scale_inv": blocks}

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)

    groups = -(-columns // group)
    if scheme == "int4":
        return {
            "weight_packed": words(rows, -(-columns // 8)),
            "weight_scale": torch.rand(rows, groups).to(weight.dtype),
            "weight_shape": torch.tensor([rows, columns]),
        }
    if scheme == "gptq":
        packed, index = words(-(-columns // 8), rows), {"g_idx": (torch.arange(columns) // group).to(torch.int32)}
    elif scheme == "awq":
        packed, index = words(columns, -(-rows // 8)), {}
    else:
        bits = torch.randint(0, 255, (rows * columns // 2, 1), dtype=torch.uint8)
        return {"weight": bits, "weight.absmax": torch.rand(4), "weight.quant_map": torch.rand(16)}
    return {
        "qweight": packed,
        "qzeros": words(groups, -(-rows // 8)),
        "scales": torch.rand(groups, rows, dtype=torch.float16),
        **index,
    }


def with_scheme(source: Path, scheme: str, but: tuple[str, ...] = ("fc", "lm_head"), **changes: Any) -> Path:
    """The head in a folder with its matrices quantized, but for those whose module ends in one of ``but``."""
    out: Tensors = {}
    group = changes.get("group_size", 16)
    for name, tensor in tensors_of(source).items():
        module = name.removesuffix(".weight")
        if tensor.dim() == 2 and module != name and not module.endswith((*but, "embed_tokens")):
            out |= {f"{module}.{part}": t.contiguous() for part, t in parts_of(tensor, scheme, group).items()}
        else:
            out[name] = tensor
    save_file(out, source / "model.safetensors", metadata=heads_metadata(source))
    return edit(source, quantization_config={**SCHEMES[scheme], **changes})


def heads_metadata(folder: Path) -> dict[str, str] | None:
    with safe_open(folder / "model.safetensors", "pt") as f:
        return f.metadata()
