"""Folders as each trainer leaves them, as an engine sees them: a config, and tensors by name, dtype and shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eagle3hub.engines.preflight import ExaminedHead, HeadFiles, Truth, infer_truth
from eagle3hub.head.target import TargetFacts

H, INTER, HEADS, KV, DIM, V, VD, LAYERS = 8, 12, 2, 1, 4, 40, 10, 30
CONTEXT = 8192
BOUNDARIES = (2, 15, 27)
AFTER = [1, 14, 26]
OTHER_AFTER = [3, 9, 20]


def target(
    model_type: str = "llama",
    *,
    layers: int = LAYERS,
    context: int | None = CONTEXT,
    hidden_size: int = H,
    fields: dict[str, Any] | None = None,
) -> TargetFacts:
    return TargetFacts(
        name="owner/target",
        is_local=False,
        num_hidden_layers=layers,
        hidden_size=hidden_size,
        vocab_size=V,
        max_position_embeddings=context,
        model_type=model_type,
        architectures=("LlamaForCausalLM",),
        token_ids={},
        fields=fields or {},
    )


def layer(prefix: str, width: int = 2 * H, *, hidden_norm: bool = True) -> dict[str, tuple[int, ...]]:
    shapes = {
        "input_layernorm.weight": (H,),
        "self_attn.q_proj.weight": (HEADS * DIM, width),
        "self_attn.k_proj.weight": (KV * DIM, width),
        "self_attn.v_proj.weight": (KV * DIM, width),
        "self_attn.o_proj.weight": (H, HEADS * DIM),
        "post_attention_layernorm.weight": (H,),
        "mlp.gate_proj.weight": (INTER, H),
        "mlp.up_proj.weight": (INTER, H),
        "mlp.down_proj.weight": (H, INTER),
        **({"hidden_norm.weight": (H,)} if hidden_norm else {}),
    }
    return {prefix + name: shape for name, shape in shapes.items()}


def shapes(prefix: str, *, aux: int = 3, rows: int = VD) -> dict[str, tuple[int, ...]]:
    return {"fc.weight": (H, aux * H), **layer(prefix), "norm.weight": (H,), "lm_head.weight": (rows, H)}


def config(**changes: Any) -> dict[str, Any]:
    flat = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": H,
        "intermediate_size": INTER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "vocab_size": V,
        "draft_vocab_size": VD,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    return changed(flat, changes)


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with changes; the value "DELETE" removes a key."""
    return {k: v for k, v in {**base, **changes}.items() if not (isinstance(v, str) and v == "DELETE")}


def subject(
    fields: dict[str, Any],
    weights: dict[str, tuple[int, ...]],
    *,
    d2t: str | None = "I64",
    entries: int | None = None,
    t2d: bool = False,
    files: tuple[str, ...] = ("model.safetensors",),
    truth: dict[str, Any] | None = None,
) -> ExaminedHead:
    """A folder; ``truth`` says what the files do not, ``entries`` is the length of d2t if it does not fit."""
    tensors = {name: ("BF16", shape) for name, shape in weights.items()}
    rows = weights.get("lm_head.weight", (VD,))[0]
    if d2t is not None:
        tensors["d2t"] = (d2t, (rows if entries is None else entries,))
    if t2d:
        tensors["t2d"] = ("BOOL", (V,))
    seen = HeadFiles(fields, tensors, files)
    found: Truth = infer_truth(seen)
    return ExaminedHead(seen, replace(found, **truth) if truth else found)


def eagle_config(after: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    return {**({"eagle_aux_hidden_state_layer_ids": after} if after else {}), **changes}


def safeailab(files: tuple[str, ...] = ("pytorch_model.bin",), **changes: Any) -> ExaminedHead:
    plain = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    return subject(config(**{**plain, **changes}), shapes("midlayer."), t2d=True, files=files)


def specforge(after: list[int] | None = None, **changes: Any) -> ExaminedHead:
    own = {"eagle_config": eagle_config(after, use_aux_hidden_state=True)} if after else {}
    return subject(config(**own, **changes), shapes("midlayer."), t2d=True)


def specforge_31() -> ExaminedHead:
    """SpecForge's EAGLE-3.1 up to 0.2.0: norm_output: true there means pre-norm feedback."""
    extra = {f"fc_norm.{j}.weight": (H,) for j in range(3)}
    fields = config(fc_norm=True, norm_output=True)
    return subject(fields, {**shapes("midlayer."), **extra}, t2d=True, truth={"feedback": "pre_norm"})


def specjax() -> ExaminedHead:
    fields = config(architectures=["LlamaForCausalLM"], max_position_embeddings="DELETE", hidden_act="DELETE")
    return subject(fields, shapes("midlayer."), d2t="I32", t2d=True)


def modelopt(after: list[int] | None = AFTER, *, full: bool = False, **changes: Any) -> ExaminedHead:
    own = eagle_config(after, use_aux_hidden_state=True, next_layer_regular=True)
    rows = V if full else VD
    fields = config(eagle_config=own, bos_token_id=None, draft_vocab_size=rows, **changes)
    return subject(fields, shapes("layers.0.", aux=len(after or AFTER), rows=rows), d2t=None if full else "I64")


def modelopt_without_aux(width: int = 2 * H) -> ExaminedHead:
    own = eagle_config(None, use_aux_hidden_state=False, next_layer_regular=True)
    weights = {**shapes("layers.0."), **layer("layers.0.", width)}
    del weights["fc.weight"]
    if width == H:  # the form that no engine builds
        del weights["layers.0.hidden_norm.weight"]
    return subject(config(eagle_config=own), weights)


def modelopt_two_layers() -> ExaminedHead:
    own = eagle_config(AFTER, use_aux_hidden_state=True, next_layer_regular=True)
    weights = {**shapes("layers.0."), **layer("layers.1.", H, hidden_norm=False)}
    return subject(config(eagle_config=own, num_hidden_layers=2), weights)


def modelopt_quantized() -> ExaminedHead:
    own = eagle_config(AFTER, use_aux_hidden_state=True, next_layer_regular=True)
    # both spellings of the ids: what is on trial is quantization
    both = {"eagle_aux_hidden_state_layer_ids": list(BOUNDARIES), "eagle_config": own}
    how = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["fc", "lm_head"]}
    return in_fp8(subject(config(quantization_config=how, **both), shapes("layers.0.")))


def in_fp8(plain: ExaminedHead, dtype: str = "F8_E4M3") -> ExaminedHead:
    """The same folder with the matrices of its decoder layers in FP8 (or another dtype), each with its scale."""
    every = plain.files.tensors
    held = {
        n: (dtype if "_proj" in n else own, _halved(s, dtype) if "_proj" in n else s) for n, (own, s) in every.items()
    }
    scales = {n.replace(".weight", ".weight_scale"): ("F32", (1,)) for n in held if "_proj" in n}
    files = replace(plain.files, tensors={**held, **scales})
    return ExaminedHead(files, replace(plain.truth, quantized=infer_truth(files).quantized))


def packed(plain: ExaminedHead, but: tuple[str, ...] = ("fc", "lm_head")) -> ExaminedHead:
    """The same folder with its matrices as GPTQ and AWQ pack them; ``but``: ends of the modules that stay plain."""
    held: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in plain.files.tensors.items():
        stem = name.removesuffix(".weight")
        if len(shape) == 2 and not stem.endswith(but):
            held |= {f"{stem}.qweight": ("I32", (shape[1] // 8, shape[0])), f"{stem}.scales": ("F16", (1, shape[0]))}
            held[f"{stem}.qzeros"] = ("I32", (1, shape[0] // 8))
        else:
            held[name] = (dtype, shape)
    files = replace(plain.files, tensors=held)
    return ExaminedHead(files, replace(plain.truth, quantized=infer_truth(files).quantized))


def gptq(**changes: Any) -> dict[str, Any]:
    own = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    return {"quantization_config": changed(own, changes)}


def awq(**changes: Any) -> dict[str, Any]:
    own = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    return {"quantization_config": changed(own, changes)}


def _halved(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    return (shape[0], shape[1] // 2) if dtype == "U8" else shape


def quark(exclude: list[str], **changes: Any) -> dict[str, Any]:
    """Quark's FP8, as AMD's card for Kimi-K2.5 has it."""
    weight = {"dtype": "fp8_e4m3", "qscheme": "per_channel", "ch_axis": 0, "is_dynamic": False, "symmetric": True}
    whole = {"weight": weight, "input_tensors": {**weight, "ch_axis": 1, "is_dynamic": True}}
    own = {"quant_method": "quark", "exclude": exclude, "export": {"kv_cache_group": []}, "global_quant_config": whole}
    own |= {"layer_quant_config": {}, "layer_type_quant_config": {}}
    return {"quantization_config": changed(own, changes)}


def compressed(ignore: list[str], bits: int = 8, targets: str = "Linear") -> dict[str, Any]:
    """llm-compressor's integers: weights of so many bits by channel, inputs of 8 bits by token."""
    weights = {"num_bits": bits, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
    groups = {"group_0": {"targets": [targets], "weights": weights, "input_activations": inputs}}
    own = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ignore, "config_groups": groups}
    return {"quantization_config": own}


def two_layers(norm: str, prefix: str = "layers.{}.") -> ExaminedHead:
    """Two layers, the second with ``norm`` before its attention; ids where every engine finds them."""
    second = layer(prefix.format(1), H)
    kept = {
        n: s
        for n, s in second.items()
        if norm in n or not n.endswith(("input_layernorm.weight", "hidden_norm.weight"))
    }
    return universal(
        weights={**dict.fromkeys(shapes("midlayer.")), **shapes(prefix.format(0)), **kept}, num_hidden_layers=2
    )


Q_RANK, KV_RANK, NOPE, ROPE, VALUE = 5, 4, 3, 2, 6
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def _latent(weights: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors of a head with MLA in place of those with Llama attention."""
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        at, found, which = name.partition("self_attn.")
        if which == "q_proj.weight":
            out |= {
                f"{at}{found}q_a_proj.weight": (Q_RANK, shape[1]),
                f"{at}{found}q_a_layernorm.weight": (Q_RANK,),
                f"{at}{found}q_b_proj.weight": (HEADS * (NOPE + ROPE), Q_RANK),
                f"{at}{found}kv_a_proj_with_mqa.weight": (KV_RANK + ROPE, shape[1]),
                f"{at}{found}kv_a_layernorm.weight": (KV_RANK,),
                f"{at}{found}kv_b_proj.weight": (HEADS * (NOPE + VALUE), KV_RANK),
            }
        elif which not in ("k_proj.weight", "v_proj.weight"):
            out[name] = (H, HEADS * VALUE) if which == "o_proj.weight" else shape
    return out


def mla(
    *,
    layers: int = 1,
    prefix: str = "midlayer.",
    weights: dict[str, tuple[int, ...] | None] | None = None,
    truth: dict[str, Any] | None = None,
    full: bool = False,
    **changes: Any,
) -> ExaminedHead:
    """A head with MLA; ``weights`` adds tensors or, with None, leaves some out."""
    both = {"eagle_aux_hidden_state_layer_ids": list(BOUNDARIES), "eagle_config": eagle_config(AFTER)}
    sizes = {"q_lora_rank": Q_RANK, "kv_lora_rank": KV_RANK, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE}
    own = {"architectures": ["Eagle3DeepseekV2ForCausalLM"], "model_type": "kimi_k2", "num_hidden_layers": layers}
    own |= {"rope_scaling": YARN}
    own |= {"head_dim": "DELETE", "v_head_dim": VALUE, "draft_vocab_size": V if full else VD, **sizes, **both}
    shaped = shapes(prefix, rows=V if full else VD)
    for i in range(1, layers):
        shaped |= layer(f"layers.{i}.", H, hidden_norm=False)
    held = {n: s for n, s in {**_latent(shaped), **(weights or {})}.items() if s is not None}
    return subject(config(**{**own, **changes}), held, d2t=None if full else "I64", truth=truth)


def speculators(
    boundaries: list[int] | None = list(BOUNDARIES),  # noqa: B006
    *,
    kind: str = "llama",
    embedding: bool = False,
    aux: int | None = None,
    **changes: Any,
) -> ExaminedHead:
    flat = config(model_type=kind, architectures="DELETE", draft_vocab_size="DELETE", tie_word_embeddings="DELETE")
    whole = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": VD,
        "norm_before_residual": False,
        "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": boundaries,
        "transformer_layer_config": flat,
        "speculators_config": {
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
            "verifier": {"name_or_path": "owner/target"},
        },
    }
    weights = shapes("layers.0.", aux=aux or len(boundaries or BOUNDARIES))
    if kind == "qwen3":
        weights |= {f"layers.0.self_attn.{x}_norm.weight": (DIM,) for x in "qk"}
    if embedding:
        weights["embed_tokens.weight"] = (V, H)
    return subject(changed(whole, changes), weights, t2d=True)


def universal(
    boundaries: tuple[int, ...] = BOUNDARIES,
    *,
    full: bool = False,
    weights: dict[str, tuple[int, ...] | None] | None = None,
    d2t: str | None = "I64",
    entries: int | None = None,
    truth: dict[str, Any] | None = None,
    **changes: Any,
) -> ExaminedHead:
    """One flat folder that every engine should read alike; ``weights`` replaces shapes, None removes a tensor."""
    rows = V if full else VD
    fields = config(
        **{
            "eagle_aux_hidden_state_layer_ids": list(boundaries),
            "eagle_config": eagle_config([b - 1 for b in boundaries], use_aux_hidden_state=True),
            "norm_before_residual": False,
            "draft_vocab_size": rows,
            **changes,
        }
    )
    own = {**shapes("midlayer.", aux=len(boundaries), rows=rows), **(weights or {})}
    kept = {name: shape for name, shape in own.items() if shape is not None}
    stored = None if full and d2t == "I64" else d2t
    return subject(fields, kept, d2t=stored, entries=entries, t2d=not full, truth=truth)
