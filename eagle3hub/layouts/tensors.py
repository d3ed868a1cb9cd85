"""Which tensors a head has, with their shapes, and whether a folder holds exactly those.

Trainers agree on them (SpecJAX ``models/draft/eagle3.py``, SpecForge ``modeling/draft/llama3_eagle.py``, ModelOpt
``export/plugins/hf_spec_export.py``, speculators ``models/eagle3/core.py``): q/k/v of the first layer take
[token embedding ‖ hidden], hence 2H inputs; further layers are plain Llama layers with their own input norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from eagle3hub.checkpoint.dtypes import FLOATS
from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.tensors import TensorRef, is_scale
from eagle3hub.errors import ConfigError, TensorError
from eagle3hub.head import Dims, Semantics
from eagle3hub.layouts.base import Contract
from eagle3hub.layouts.llama import LlamaConfig
from eagle3hub.layouts.names import canonical_tensors, layer_count, spelled
from eagle3hub.layouts.quantized import check_scales, quantization_of, split_scales, stored_shape

Shapes = dict[str, tuple[int, ...]]


_MOST_INPUTS = 1000
"""Hidden states beyond which a hostile fc is no longer counted: no head comes near."""


def collect_tensors(
    checkpoint: Checkpoint, config: LlamaConfig, semantics: Semantics, contract: Contract
) -> tuple[dict[str, TensorRef], Dims, Semantics]:
    """Give every tensor its canonical name and hold its shape against the config.

    Returns the weights by canonical name (vocabulary buffers left out), the dimensions, and the semantics with what
    only the tensors tell (number of layers, bias of fc, quantization).
    Raises TensorError for a tensor that is missing, unknown, of the wrong shape or dtype, ConfigError where the
    number of layers contradicts the config.
    """
    everything = canonical_tensors(checkpoint.tensors, contract.forms)
    quantized = quantization_of(everything) if "quantization" in contract.expresses else None
    found, scales = split_scales(everything) if quantized else (everything, {})
    _check_layer_count(found, semantics, contract)
    d = _dims(found, config)
    s = replace(semantics, fc_bias="fc.bias" in found, quantization=quantized)
    expected = expected_shapes(d, s, num_aux_inputs(found, d))
    _check_names(checkpoint, found, expected, contract)
    for name, shape in expected.items():
        wanted = shape if name not in found else stored_shape(found[name], shape)
        if name in found and found[name].shape != wanted:
            raise TensorError(
                f"{found[name].name} is {list(found[name].shape)} but the config asks for {list(wanted)} "
                f"(hidden_size {d.hidden_size}, {d.num_attention_heads} heads of {d.head_dim}, "
                f"{d.num_key_value_heads} KV heads, intermediate_size {d.intermediate_size}, "
                f"vocab_size {d.vocab_size})",
                hint="config.json and weights are from different heads, or one of them was edited",
                code="tensor-shape",
            )
    if quantized:
        check_scales(found, scales, expected)
    else:
        _check_floats(found)
    return {**found, **scales}, d, s


def expected_shapes(d: Dims, s: Semantics, num_aux: int) -> Shapes:
    """Shape of every tensor such a head has, by canonical name (embed_tokens.weight is optional)."""
    h, aux = d.hidden_size, num_aux * d.target_hidden_size
    shapes: Shapes = {
        "norm.weight": (h,),
        "lm_head.weight": (d.draft_vocab_size, h),
        "embed_tokens.weight": (d.vocab_size, h),
    }
    if s.uses_aux:
        shapes |= {"fc.weight": (h, aux), "layers.0.hidden_norm.weight": (h,)}
    if s.fc_bias:
        shapes["fc.bias"] = (h,)
    if s.norm_before_fc:
        shapes["input_norm.weight"] = (aux,)
    if s.fc_norm:
        shapes |= {f"fc_norm.{j}.weight": (d.target_hidden_size,) for j in range(num_aux)}
    if s.parallel_drafting:
        shapes["mask_hidden"] = (1, 1, aux)
    for i in range(s.num_layers):
        shapes |= _layer_shapes(d, s, f"layers.{i}.", 2 * h if i == 0 and s.uses_aux else h)
    return shapes


def _layer_shapes(d: Dims, s: Semantics, at: str, inputs: int) -> Shapes:
    h, i = d.hidden_size, d.intermediate_size
    q, kv = d.num_attention_heads * d.head_dim, d.num_key_value_heads * d.head_dim
    shapes: Shapes = {
        f"{at}input_layernorm.weight": (h,),
        f"{at}self_attn.q_proj.weight": (q, inputs),
        f"{at}self_attn.k_proj.weight": (kv, inputs),
        f"{at}self_attn.v_proj.weight": (kv, inputs),
        f"{at}self_attn.o_proj.weight": (h, q),
        f"{at}post_attention_layernorm.weight": (h,),
        f"{at}mlp.gate_proj.weight": (i, h),
        f"{at}mlp.up_proj.weight": (i, h),
        f"{at}mlp.down_proj.weight": (h, i),
    }
    if s.attention_bias:
        shapes |= {f"{at}self_attn.{p}_proj.bias": (n,) for p, n in (("q", q), ("k", kv), ("v", kv), ("o", h))}
    if s.qk_norm:
        shapes |= {f"{at}self_attn.{p}_norm.weight": (d.head_dim,) for p in "qk"}
    return shapes


def num_aux_inputs(found: Mapping[str, TensorRef], d: Dims) -> int:
    """Number of hidden states fc takes, as far as its shape tells; at least 1."""
    fc = found.get("fc.weight")
    if fc is None or len(fc.shape) != 2:
        return 3
    width = 2 * fc.shape[1] if fc.dtype == "U8" else fc.shape[1]
    return min(max(width // d.target_hidden_size, 1), _MOST_INPUTS)


def _dims(found: Mapping[str, TensorRef], config: LlamaConfig) -> Dims:
    lm_head = found.get("lm_head.weight")
    return Dims(
        hidden_size=config.hidden_size,
        target_hidden_size=config.target_hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=lm_head.shape[0] if lm_head is not None and lm_head.shape else config.vocab_size,
    )


def _check_layer_count(found: Mapping[str, TensorRef], s: Semantics, contract: Contract) -> None:
    there = layer_count(found)
    if there != s.num_layers:
        has = "tensors of one decoder layer" if there == 1 else f"tensors of {there} decoder layers"
        raise ConfigError(
            f"config.json: num_hidden_layers is {s.num_layers}, but the {contract.title} folder holds {has}",
            hint="config.json and weights are from different heads, or one of them was edited",
            code="config-layers",
        )
    for i in range(1, there):
        if f"layers.{i}.input_layernorm.weight" not in found and f"layers.{i}.mlp.up_proj.weight" in found:
            raise TensorError(
                f"layer {i} has neither input_layernorm nor hidden_norm: NVIDIA ModelOpt's exporter of December 2025 "
                "lost this norm of every layer but the first",
                hint="export the head again with ModelOpt 0.41 or later; only the training checkpoint has it",
                code="tensor-lost-norm",
            )


def _check_names(checkpoint: Checkpoint, found: Mapping[str, TensorRef], expected: Shapes, contract: Contract) -> None:
    missing = sorted(set(expected) - set(found) - {"embed_tokens.weight"})
    if missing:
        raise TensorError(
            f"{checkpoint.source} lacks {several([spelled(n, contract.tensor_prefix) for n in missing])}",
            hint="the head cannot be completed from the rest: export it again",
            code="tensor-missing",
        )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise TensorError(
            f"{checkpoint.source} holds {several([found[n].name for n in unknown])}, which a {contract.title} head "
            "with this config does not have",
            hint="an engine would ignore it or crash on it; name another layout with --from, or leave the tensor out "
            "with --drop if it is no part of the head",
            code="tensor-unknown",
        )


def _check_floats(found: Mapping[str, TensorRef]) -> None:
    for ref in found.values():
        if ref.dtype not in FLOATS or is_scale(ref.name):
            raise TensorError(
                f"{ref.name} is {ref.dtype}: this layout reads unquantized heads, whose weights are floating point",
                code="tensor-dtype",
            )


def several(names: list[str]) -> str:
    """The first names of a list, in words."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
