"""The tensors of a folder by canonical name; shapes, scales and vocabulary buffers are checked."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import FLOATS, TensorRef, is_scale, scales_among
from eagle3hub.checkpoint.source import refuse_contents
from eagle3hub.errors import ConfigError, Hint, LayoutError, Problem, Refusal, TensorError, UsageError
from eagle3hub.head import Dims, Head, MlaDims, Semantics
from eagle3hub.head.fields import Fields
from eagle3hub.head.quantization import Weights, check_weights, count_values, scheme_of, seem_quantized, weights_in
from eagle3hub.head.vocab import MASK_WIDTHS, VocabMap, check_vocab_map, mask_from, order_fault, swapped_fault
from eagle3hub.layouts.base import Contract, ReadOptions
from eagle3hub.layouts.hf_config import LlamaConfig, joined

# Names of tensors: from every trainer's names to the canonical ones, and back.
#
# Canonical is ``layers.{i}.…``. SafeAILab, SpecForge, SpecJAX, AngelSlim and ModelOpt up to 0.42 write ``midlayer.``
# for their one layer; ModelOpt 0.41-0.42 and Megatron write ``midlayer.{i}.`` for several; the research code of
# speculators 0.1 used no prefix at all.


BUFFERS = ("d2t", "t2d")

_MIDLAYERS = re.compile(r"midlayer\.(\d+)\.(.+)")
_LAYER = re.compile(r"layers\.(\d+)\.")
_ALIASES = {
    "aux_norm_low.weight": "fc_norm.0.weight",  # SGLang, models/llama_eagle3.py
    "aux_norm_mid.weight": "fc_norm.1.weight",
    "aux_norm_high.weight": "fc_norm.2.weight",
}
_RESEARCH = {  # speculators 0.1, research/eagle3/convert_checkpoint.py
    "hidden_norm.weight": "layers.0.hidden_norm.weight",
    "input_layernorm.weight": "layers.0.input_layernorm.weight",
    "lm_head_layernorm.weight": "norm.weight",
}


def canonical_tensors(tensors: Mapping[str, TensorRef], forms: Collection[str]) -> dict[str, TensorRef]:
    """Every weight by its canonical name; a name in a form other than ``forms`` gets a leading question mark.

    Raises TensorError where two names mean the same tensor.
    """
    out: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        if name in BUFFERS:
            continue
        canonical = _canonical(name, forms)
        if canonical in out:
            raise TensorError(
                f"{out[canonical].name} and {ref.name} are two names of the same tensor",
                hint=Hint("keep the one the head was trained with, and leave the other out with --drop", "--drop"),
                code="tensor-duplicate",
            )
        out[canonical] = ref
    return out if "midlayers" not in forms else _without_deep_norms(out)


def by_research_code(names: Collection[str]) -> bool:
    """Whether tensors have names of speculators' research code (0.1), with ``model.`` before them or not."""
    return any(name.removeprefix("model.") in _RESEARCH for name in names)


def name_on_disk(canonical: str, prefix: str) -> str:
    """The name of a tensor on disk in a layout that writes ``prefix`` for ``layers.0.``."""
    return prefix + canonical.removeprefix("layers.0.") if canonical.startswith("layers.0.") else canonical


def names_on_disk(canonical: Iterable[str], prefix: str) -> dict[str, str]:
    """`name_on_disk` of each canonical name."""
    return {name: name_on_disk(name, prefix) for name in canonical}


def other_names(tensors: Mapping[str, TensorRef], buffers: Mapping[str, TensorRef], prefix: str) -> dict[str, str]:
    """The name on disk of each weight and buffer, by canonical name, whose name is not the one of `name_on_disk`."""
    names = {n: ref.name for n, ref in tensors.items() if ref.name != name_on_disk(n, prefix)}
    return names | {n: ref.name for n, ref in buffers.items() if ref.name != n}


def layer_of(canonical: str) -> int | None:
    """The decoder layer a tensor belongs to, or None."""
    match = _LAYER.match(canonical)
    return int(match[1]) if match else None


def layer_count(names: Collection[str]) -> int:
    """Number of decoder layers in canonical names, at least 1."""
    return 1 + max((i for n in names if (i := layer_of(n)) is not None), default=0)


def _canonical(name: str, forms: Collection[str]) -> str:
    if name in _ALIASES:
        return _ALIASES[name]
    if "research" in forms and name in _RESEARCH:
        return _RESEARCH[name]
    if name.startswith("layers."):
        return name if "layers" in forms else f"?{name}"
    match = _MIDLAYERS.fullmatch(name)
    if match:
        return f"layers.{match[1]}.{match[2]}" if "midlayers" in forms else f"?{name}"
    if name.startswith("midlayer."):
        return f"layers.0.{name.removeprefix('midlayer.')}" if "midlayer" in forms else f"?{name}"
    return name


def _without_deep_norms(tensors: dict[str, TensorRef]) -> dict[str, TensorRef]:
    """Megatron's "Deep" export calls the input norm of layers 1 and up ``hidden_norm`` (ModelOpt, mcore_llama.py)."""
    for i in range(1, layer_count(tensors)):
        deep, usual = f"layers.{i}.hidden_norm.weight", f"layers.{i}.input_layernorm.weight"
        if deep in tensors and usual not in tensors:
            tensors[usual] = tensors.pop(deep)
    return tensors


# The vocabulary buffers of a folder, d2t and t2d: as bytes on disk and as a checked map.


_TYPECODES = {"I32": "i", "I64": "q", "F32": "f", "F64": "d"}

Read = tuple["VocabMap | None", str, "list[Problem]"]


def read_vocab_map(
    checkpoint: Checkpoint, d: Dims, stated: int | None, given: Sequence[int] | None, contract: Contract
) -> Read:
    """The vocabulary map of a folder, its status, and what is wrong with it.

    ``stated`` is the config's draft_vocab_size; it must be the number of rows of lm_head. ``given`` are offsets that
    replace the folder's d2t; a t2d that marks as many tokens must agree with them, any other is ignored.
    ``contract`` is the layout's: it says in which order its heads keep the rows of lm_head. A map whose only fault is
    its order is returned with the fault where the layout's rows always ascend.
    """
    if not any(name.startswith("lm_head.") for name in checkpoint.tensors) and (stated or d.vocab_size) < d.vocab_size:
        raise TensorError(
            f"{checkpoint.source} lacks lm_head.weight, and the target's does not fit: the draft vocabulary has "
            f"{stated} of {d.vocab_size} tokens",
            hint="export the head again",
            code="tensor-missing",
        )
    d2t, t2d = (checkpoint.tensors.get(name) for name in BUFFERS)
    if stated is not None and stated != d.draft_vocab_size:
        rows = d.draft_vocab_size
        entries = None if d2t is None else d2t.shape
        raise TensorError(
            f"lm_head.weight has {rows} rows but the config says draft_vocab_size {stated}",
            hint=f"d2t has {rows} entries, too: with draft_vocab_size: {rows} in config.json all fits"
            if entries == (rows,)
            else f"d2t has {stated} entries, too, and lm_head a row for every token of the target: it is the "
            "target's, or another head's"
            if entries == (stated,) and rows == d.vocab_size
            else "config.json and weights are from different heads, or one of them was edited",
            code="tensor-shape",
        )
    if given is None and swapped_map(d2t, t2d, d.vocab_size, d.draft_vocab_size) is not None:
        return None, "swapped", [swapped_fault(d.vocab_size, d.draft_vocab_size)]
    stored = None if given is not None or d2t is None else read_integers(d2t)
    if given is None and d2t is not None and stored is None:
        return None, "dtype", [_no_vector(d2t, "d2t", "I32 or I64")]
    mask = None if t2d is None else read_mask(t2d)
    if given is None and t2d is not None and mask is None:
        return None, "dtype", [_no_vector(t2d, "t2d", "booleans or integers")]
    offsets = stored if given is None else given
    if given is not None and mask is not None and mask.count(1) != d.draft_vocab_size:
        mask = None
    vocab, status, problems = check_vocab_map(
        offsets, mask, vocab_size=d.vocab_size, draft_vocab_size=d.draft_vocab_size
    )
    if d2t is not None and given is None and d2t.dtype in _WIDE_FLOATS:
        message = f"d2t is {d2t.dtype}, and its values are whole: engines take it for the integers it holds"
        problems = [*problems, Problem("info", "vocab-float", message, "eagle3hub convert writes integers")]
    if d2t is not None and d2t.name.removeprefix(_PREFIX) == MAP_OF_VLLM:
        message = f"the vocabulary map is called {d2t.name}, as vLLM calls it in memory: every engine looks for d2t"
        problems = [*problems, Problem("warning", MAP_NAME, message, "eagle3hub convert writes d2t")]
    fault = None if vocab is None else _order_fault(vocab, contract)
    if vocab is None or fault is None:
        return vocab, status, problems
    return vocab if contract.sorted_rows else None, fault.code.removeprefix("vocab-"), [fault]


def swapped_map(d2t: TensorRef | None, t2d: TensorRef | None, v: int, vd: int) -> VocabMap | None:
    """The map of two buffers that each hold what the other should; None where they are no such pair."""
    if d2t is None or t2d is None or vd == v or d2t.shape != (v,) or t2d.shape != (vd,):
        return None
    offsets, mask = read_integers(t2d), read_mask(d2t)
    if offsets is None or mask is None:
        return None
    return check_vocab_map(offsets, mask, vocab_size=v, draft_vocab_size=vd)[0]


def _no_vector(ref: TensorRef, name: str, of: str) -> Problem:
    """The error of a buffer that no map can be read from."""
    message = f"{name} is {ref.dtype} {list(ref.shape)}, not a vector of {of}"
    return Problem("error", "vocab-dtype", message, Hint("export it as one, or give the map with --d2t FILE", "--d2t"))


def _order_fault(vocab: VocabMap, contract: Contract) -> Problem | None:
    return order_fault(vocab, sorted_rows=contract.sorted_rows, trainer_sorts=contract.trainer_sorts)


def buffers_of(checkpoint: Checkpoint) -> dict[str, TensorRef]:
    """The vocabulary buffers that the folder holds."""
    return {name: checkpoint.tensors[name] for name in BUFFERS if name in checkpoint.tensors}


def read_mask(ref: TensorRef) -> bytes | None:
    """A mask over the vocabulary, one byte an entry (2 for other than 0 and 1); None for a tensor that is no mask."""
    if ref.dtype not in MASK_WIDTHS or len(ref.shape) != 1:
        return None
    return mask_from(read_tensor(ref), ref.dtype)


_WIDE_FLOATS = {"F32", "F64"}
"""Floats that hold every token id exactly. Every engine that was asked takes such a d2t as the integers it holds."""
_EXACT = 1 << 24


def read_integers(ref: TensorRef) -> array[int] | None:
    """The values of a vector of integers, or of wide floats that are all whole; None for any other tensor."""
    if ref.dtype not in _TYPECODES or len(ref.shape) != 1:
        return None
    values: array[Any] = array(_TYPECODES[ref.dtype])
    values.frombytes(read_tensor(ref))
    if sys.byteorder == "big":
        values.byteswap()
    if ref.dtype not in _WIDE_FLOATS:
        return values
    whole = all(value.is_integer() and abs(value) < _EXACT for value in values)
    return array("q", map(int, values)) if whole else None


# The tensors a head must have, with their shapes; a folder must hold exactly these.
#
# Trainers agree on them (SpecJAX ``models/draft/eagle3.py``, SpecForge ``modeling/draft/llama3_eagle.py``, ModelOpt
# ``export/plugins/hf_spec_export.py``, speculators ``models/eagle3/core.py``): q/k/v of the first layer take
# [token embedding ‖ hidden], hence 2H inputs; further layers are plain Llama layers with their own input norm.


Shapes = dict[str, tuple[int, ...]]


_MOST_INPUTS = 1000
"""A bound on the hidden states that a hostile fc can claim, far above any head's."""


def collect_tensors(
    checkpoint: Checkpoint, config: LlamaConfig, semantics: Semantics, contract: Contract
) -> tuple[dict[str, TensorRef], Dims, Semantics]:
    """Give every tensor its canonical name and hold its shape against the config.

    Returns the weights by canonical name (vocabulary buffers left out), the dimensions, and the semantics with what
    only the tensors tell (bias of fc, quantization, whether a head without fc joins the embedding).
    Raises TensorError for a tensor that is missing, unknown, of the wrong shape or dtype, ConfigError where the
    number of layers contradicts the config.
    """
    everything = canonical_tensors(checkpoint.tensors, contract.forms)
    mla = _is_mla(checkpoint, everything, config, contract)
    quantized = _quantized(checkpoint, everything, contract)
    found = everything if quantized is None else quantized.values
    _check_layer_count(found, semantics, contract)
    d = _dims(found, config, mla, quantized)
    s = replace(
        semantics,
        fc_bias="fc.bias" in found,
        attention="gqa" if d.mla is None else "mla",
        joins_embedding=semantics.uses_aux or _joins_embedding(found, d, quantized),
    )
    expected = expected_shapes(d, s, num_aux_inputs(found, d, quantized))
    _check_names(checkpoint, found, expected, contract)
    for name, shape in expected.items():
        plain = quantized is None or quantized.is_plain(name)
        if name in found and plain and not same_shape(name, found[name].shape, shape):
            raise TensorError(
                f"{found[name].name} is {list(found[name].shape)} but the config asks for {list(shape)} "
                f"(hidden_size {d.hidden_size}, {d.num_attention_heads} heads {_heads(d)}, "
                f"intermediate_size {d.intermediate_size}, vocab_size {d.vocab_size})",
                hint=_one_wrong(found, d, s, quantized)
                or "config.json and weights are from different heads, or one of them was edited",
                code="tensor-shape",
            )
    if quantized is None:
        _check_floats(found)
        return everything, d, s
    check_weights(quantized, expected)
    return everything, d, replace(s, quantization=quantized.method, quantized_as=quantized.formats(expected))


def _one_wrong(found: Mapping[str, TensorRef], d: Dims, s: Semantics, quantized: Weights | None) -> str | None:
    """The hint of a config of which one size is wrong, so that with another number every tensor fits."""
    if d.mla is not None or quantized is not None:
        return None
    at = "layers.0."
    q, k = (_rows(found, f"{at}self_attn.{x}_proj.weight") for x in "qk")
    for key, value, rest in (
        ("head_dim", *divmod(q, d.num_attention_heads)),
        ("num_attention_heads", *divmod(q, d.head_dim)),
        ("num_key_value_heads", *divmod(k, d.head_dim)),
        ("intermediate_size", _rows(found, f"{at}mlp.up_proj.weight"), 0),
        ("vocab_size", _rows(found, "embed_tokens.weight"), 0),
    ):
        if not value or rest or value == getattr(d, key):
            continue
        other = replace(d, **{key: value})  # type: ignore[arg-type]
        shapes = expected_shapes(other, s, num_aux_inputs(found, other))
        if all(name not in found or same_shape(name, found[name].shape, shape) for name, shape in shapes.items()):
            return f"with {key}: {value} in config.json every tensor fits: write that if the head was trained so"
    return None


def _quantized(checkpoint: Checkpoint, everything: Mapping[str, TensorRef], contract: Contract) -> Weights | None:
    """The folder's weights where they are quantized and the folder, or its layout, says how."""
    if not seem_quantized(everything):
        return None
    scheme = scheme_of(checkpoint)
    if scheme is None and "quantization" not in contract.expresses:
        return None
    return weights_in(everything, scheme)


MASK_HIDDEN = "mask_hidden"
"""The features of a P-EAGLE head at positions not drafted yet: a vector, kept as [1, 1, n], [1, n] or [n]."""


def same_shape(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes of a tensor are one: vLLM flattens mask_hidden (``models/llama_eagle3.py:415``)."""
    if name == MASK_HIDDEN and max(len(a), len(b)) <= 3:
        a, b = (1,) * (3 - len(a)) + a, (1,) * (3 - len(b)) + b
    return a == b


def output_biases(head: Head) -> dict[str, TensorRef]:
    """By its name, each bias of o that the head lacks although it has them on q, k and v, with that of q beside it.

    Some trainers of P-EAGLE heads make no bias on o. ``attention_bias: true`` asks an engine for all four (vLLM
    ``models/llama.py:169``), and one that no tensor fills is whatever lies in memory: zeros say what the head
    computes.
    """
    if not head.semantics.attention_bias or head.dims.mla is not None:
        return {}
    at = [f"layers.{i}.self_attn." for i in range(head.semantics.num_layers)]
    return {f"{a}o_proj.bias": head.tensors[f"{a}q_proj.bias"] for a in at if f"{a}o_proj.bias" not in head.tensors}


def _heads(d: Dims) -> str:
    if d.mla is None:
        return f"of {d.head_dim}, {d.num_key_value_heads} KV heads"
    m = d.mla
    return (
        f"of {m.qk_nope_head_dim} + {m.qk_rope_head_dim}, values of {m.v_head_dim}, q_lora_rank {m.q_lora_rank}, "
        f"kv_lora_rank {m.kv_lora_rank}"
    )


def has_mla(names: Collection[str]) -> bool:
    """Whether tensors are those of MLA attention, under any prefix."""
    return any(".self_attn.kv_a_proj_with_mqa." in name or ".self_attn.kv_b_proj." in name for name in names)


def _is_mla(
    checkpoint: Checkpoint, found: Mapping[str, TensorRef], config: LlamaConfig, contract: Contract
) -> MlaDims | None:
    """The sizes of MLA attention if the tensors have it. Raises LayoutError, ConfigError."""
    if not has_mla(found):
        return None
    if "mla" not in contract.expresses:
        raise LayoutError(
            f"{checkpoint.source} holds an MLA draft head (kv_b_proj), which a {contract.title} head cannot be: "
            f"{contract.cannot.get('mla', f'{contract.title} has no place for it')}",
            hint=Hint("name the layout of its trainer with --from", "--from"),
            code="layout-mla",
        )
    if config.mla is None:
        raise ConfigError(
            "config.json has no kv_lora_rank, but the tensors have MLA attention (kv_b_proj)",
            hint="write q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim and v_head_dim as in training",
            code="config-missing",
        )
    return config.mla


def expected_shapes(d: Dims, s: Semantics, num_aux: int) -> Shapes:
    """Shape of every tensor such a head has, by canonical name (embed_tokens.weight and biases of o are optional)."""
    h, aux = d.hidden_size, num_aux * d.target_hidden_size
    shapes: Shapes = {
        "norm.weight": (h,),
        "lm_head.weight": (d.draft_vocab_size, h),
        "embed_tokens.weight": (d.vocab_size, h),
    }
    if s.uses_aux:
        shapes["fc.weight"] = (h, aux)
    if s.joins_embedding:
        shapes["layers.0.hidden_norm.weight"] = (h,)
    if s.fc_bias:
        shapes["fc.bias"] = (h,)
    if s.norm_before_fc:
        shapes["input_norm.weight"] = (aux,)
    if s.fc_norm:
        shapes |= {f"fc_norm.{j}.weight": (d.target_hidden_size,) for j in range(num_aux)}
    if s.parallel_drafting:
        shapes[MASK_HIDDEN] = (1, 1, aux)
    for i in range(s.num_layers):
        shapes |= _layer_shapes(d, s, f"layers.{i}.", 2 * h if i == 0 and s.joins_embedding else h)
    return shapes


def _layer_shapes(d: Dims, s: Semantics, at: str, inputs: int) -> Shapes:
    h, i = d.hidden_size, d.intermediate_size
    attention = _gqa_shapes(d, s, inputs) if d.mla is None else _mla_shapes(d, d.mla, s, inputs)
    return {
        f"{at}input_layernorm.weight": (h,),
        **{f"{at}self_attn.{name}": shape for name, shape in attention.items()},
        f"{at}post_attention_layernorm.weight": (h,),
        f"{at}mlp.gate_proj.weight": (i, h),
        f"{at}mlp.up_proj.weight": (i, h),
        f"{at}mlp.down_proj.weight": (h, i),
    }


def _gqa_shapes(d: Dims, s: Semantics, inputs: int) -> Shapes:
    q, kv, h = d.num_attention_heads * d.head_dim, d.num_key_value_heads * d.head_dim, d.hidden_size
    sizes = (("q", q), ("k", kv), ("v", kv))
    shapes: Shapes = {**{f"{p}_proj.weight": (n, inputs) for p, n in sizes}, "o_proj.weight": (h, q)}
    if s.attention_bias:
        shapes |= {f"{p}_proj.bias": (n,) for p, n in (*sizes, ("o", h))}
    if s.qk_norm:
        shapes |= {f"{p}_norm.weight": (d.head_dim,) for p in "qk"}
    return shapes


def _mla_shapes(d: Dims, m: MlaDims, s: Semantics, inputs: int) -> Shapes:
    """MLA's tensors (ModelOpt ``export/plugins/hf_spec_export.py``, TorchSpec ``models/draft/deepseek_eagle.py``).

    Only the projections of the input and o_proj may have biases (transformers ``DeepseekV3Attention``).
    """
    heads, h = d.num_attention_heads, d.hidden_size
    query, latent = heads * (m.qk_nope_head_dim + m.qk_rope_head_dim), m.kv_lora_rank + m.qk_rope_head_dim
    shapes: Shapes = {
        "kv_a_proj_with_mqa.weight": (latent, inputs),
        "kv_a_layernorm.weight": (m.kv_lora_rank,),
        "kv_b_proj.weight": (heads * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank),
        "o_proj.weight": (h, heads * m.v_head_dim),
    }
    if m.q_lora_rank is None:
        shapes["q_proj.weight"] = (query, inputs)
    else:
        shapes |= {
            "q_a_proj.weight": (m.q_lora_rank, inputs),
            "q_a_layernorm.weight": (m.q_lora_rank,),
            "q_b_proj.weight": (query, m.q_lora_rank),
        }
    if s.attention_bias:
        shapes |= {"kv_a_proj_with_mqa.bias": (latent,), "o_proj.bias": (h,)}
        shapes |= {} if m.q_lora_rank is None else {"q_a_proj.bias": (m.q_lora_rank,)}
    return shapes


def _joins_embedding(found: Mapping[str, TensorRef], d: Dims, quantized: Weights | None) -> bool:
    """Whether a head without fc joins the target's state with the token's embedding, as engines do."""
    query, outputs = found.get("layers.0.self_attn.q_proj.weight"), d.num_attention_heads * d.head_dim
    scheme = None if quantized is None else quantized.scheme
    wide = query is not None and count_values(query, scheme) == outputs * 2 * d.hidden_size
    return wide or "layers.0.hidden_norm.weight" in found


def num_aux_inputs(found: Mapping[str, TensorRef], d: Dims, quantized: Weights | None = None) -> int:
    """Number of hidden states fc takes, by its shape; at least 1."""
    fc = found.get("fc.weight")
    if fc is None or len(fc.shape) != 2 or (quantized is not None and not quantized.readable):
        return 3
    width = fc.shape[1] if quantized is None else count_values(fc, quantized.scheme) // d.hidden_size
    return min(max(width // d.target_hidden_size, 1), _MOST_INPUTS)


def _dims(found: Mapping[str, TensorRef], config: LlamaConfig, mla: MlaDims | None, quantized: Weights | None) -> Dims:
    lm_head = found.get("lm_head.weight")
    heads = config.num_attention_heads
    if lm_head is not None and quantized is not None and not quantized.is_plain("lm_head.weight"):
        rows = count_values(lm_head, quantized.scheme) // config.hidden_size if quantized.readable else None
    else:
        rows = lm_head.shape[0] if lm_head is not None and lm_head.shape else None
    return Dims(
        hidden_size=config.hidden_size,
        target_hidden_size=config.target_hidden_size,
        intermediate_size=_intermediate_size(found, config),
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads if mla is None else heads,
        head_dim=_head_dim(found, config) if mla is None else mla.qk_nope_head_dim + mla.qk_rope_head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=config.vocab_size if rows is None else rows,
        mla=mla,
    )


def _head_dim(found: Mapping[str, TensorRef], config: LlamaConfig) -> int:
    """The width of an attention head: stated, or told by the rows of q and k where they agree. Raises ConfigError."""
    if config.head_dim is not None:
        return config.head_dim
    q, k = (_rows(found, f"layers.0.self_attn.{x}_proj.weight") for x in "qk")
    width, rest = divmod(q, config.num_attention_heads)
    if width and not rest and k == width * config.num_key_value_heads:
        return width
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"config.json: hidden_size {config.hidden_size} is not a multiple of {config.num_attention_heads} heads, "
            "and head_dim is not given",
            hint="write head_dim as in training",
            code="config-head-dim",
        )
    return config.usual_head_dim


def _rows(found: Mapping[str, TensorRef], name: str) -> int:
    """Rows of a matrix of floats; 0 for anything else."""
    ref = found.get(name)
    return ref.shape[0] if ref is not None and ref.dtype in FLOATS and len(ref.shape) == 2 else 0


def _intermediate_size(found: Mapping[str, TensorRef], config: LlamaConfig) -> int:
    """The MLP's width: of the two that a Llama 4 config states, the one that the tensors have."""
    up = found.get("layers.0.mlp.up_proj.weight")
    is_other = up is not None and up.shape[:1] == (config.intermediate_size_mlp,)
    return config.intermediate_size_mlp or 0 if is_other else config.intermediate_size


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


MAP_OF_VLLM = "draft_id_to_target_id"
"""What vLLM calls d2t in memory; it holds the same offsets, and is read as d2t."""
_MAP_OF_SGLANG = "hot_token_id"
MAP_NAME = "tensor-map-name"
"""Code of the problem of a vocabulary map under another name than d2t."""
FUSED = "tensor-fused"
"""Code of the error of fused matrices that cannot be split."""


def _check_names(checkpoint: Checkpoint, found: Mapping[str, TensorRef], expected: Shapes, contract: Contract) -> None:
    biases = {n for n in expected if n.endswith("o_proj.bias") and n.replace("o_proj", "v_proj") in expected}
    optional = {"embed_tokens.weight"} | ({"lm_head.weight"} if "no_lm_head" in contract.expresses else set())
    optional |= set() if biases & set(found) else biases
    missing = sorted(set(expected) - set(found) - optional)
    fused = sorted(n for n in found if _FUSED.fullmatch(n))
    if missing and fused:
        raise TensorError(
            f"{checkpoint.source} holds {several([found[n].name for n in fused])}, several quantized matrices in one",
            hint="only those of floats are split here: export the head with its trainer",
            code=FUSED,
        )
    if {"fc.weight", "layers.0.hidden_norm.weight"} <= set(missing):
        raise _bare_layer(checkpoint)
    if missing:
        raise TensorError(
            f"{checkpoint.source} lacks {several([name_on_disk(n, contract.tensor_prefix) for n in missing])}",
            hint="the head cannot be completed from the rest: export it again",
            code="tensor-missing",
        )
    unknown = sorted(set(found) - set(expected))
    if _MAP_OF_SGLANG in unknown:
        raise TensorError(
            f"{checkpoint.source} holds {found[_MAP_OF_SGLANG].name}: SGLang calls the vocabulary map so in memory, "
            "and no engine looks for that name in a file",
            hint=Hint(
                f"leave it out with --drop {found[_MAP_OF_SGLANG].name}, and give the map with --d2t FILE, which may "
                "hold its target ids",
                "--drop",
                "--d2t",
            ),
            code=MAP_NAME,
        )
    if unknown:
        raise TensorError(
            f"{checkpoint.source} holds {several([found[n].name for n in unknown])}, for which a head with this "
            f"config has no place (layout: {contract.title})",
            hint=Hint(
                "an engine would ignore it or crash on it; name another layout with --from, or leave the tensor out "
                "with --drop if it is no part of the head",
                "--from",
                "--drop",
            ),
            code="tensor-unknown",
        )


def _check_floats(found: Mapping[str, TensorRef]) -> None:
    scales = scales_among([ref.name for ref in found.values()])
    for ref in found.values():
        if ref.dtype not in FLOATS or ref.name in scales:
            raise TensorError(
                f"{ref.name} is {ref.dtype}: this layout reads unquantized heads, whose weights are floating point",
                hint="export the head in bfloat16, or with the scales and the config of its quantization",
                code="tensor-dtype",
            )


def several(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


# Before any codec sees a folder's names: tensors are dropped, leftovers refused, prefixes removed.


_LEAKED = re.compile(r"(^|\.)target_model\.|^verifier_(lm_head|norm)\.")
_ROTATION = re.compile(r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
"""Tables of RoPE that transformers saved up to version 4.30. Engines compute their own, and so does the reference."""
_PREFIX = "model."
_NEVER_PREFIXED = frozenset({"lm_head.weight", MASK_HIDDEN, *BUFFERS})
"""What a model has besides its backbone, whose names alone begin with ``model.`` as NeMo Automodel saves them."""
_MAP = Hint(
    "--repair takes the vocabulary map from the other buffer where this one is wrong, --d2t from a file",
    "--repair",
    "--d2t",
)
_OWN = {
    "embed_tokens.weight": Hint("--drop-embeddings leaves them out where they are the target's", "--drop-embeddings"),
    "fc.bias": "leave the option out",
    "lm_head.weight": "leave the option out",
    "d2t": _MAP,
    "t2d": _MAP,
}
"""Tensors that a config does not announce, so that a head could be read without them; what to do instead of --drop."""


def prepared(checkpoint: Checkpoint, options: ReadOptions) -> Checkpoint:
    """The checkpoint without dropped tensors, without tables of RoPE, and without a ``model.`` before every name.

    Also without one before every name of a backbone, with a flat config (`joined`), fused matrices split, and the map
    under its usual name.

    Raises UsageError for a tensor to drop that is not there, TensorError for leftovers of the target model and for
    fused matrices that do not fit the config, LayoutError where some other names begin with ``model.`` and others do
    not.
    """
    absent = sorted(set(options.drop) - set(checkpoint.tensors))
    if absent:
        raise UsageError(f"{checkpoint.source} holds no {several(absent)} to drop", code="usage-drop")
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name not in options.drop}
    tensors = _unwrapped(checkpoint, tensors)
    leaked = sorted(name for name in tensors if _LEAKED.search(name))
    tensors = {name: ref for name, ref in tensors.items() if not _ROTATION.search(name)}
    if leaked:
        raise TensorError(
            f"{checkpoint.source} holds {several(leaked)}: leftovers of the target model that training saved along, "
            "no part of the head",
            hint=Hint("leave them out with " + " ".join(f"--drop {name}" for name in leaked), "--drop"),
            code="tensor-leaked",
        )
    plain = _without_prefix(replace(checkpoint, tensors=tensors, config=joined(checkpoint.config)))
    tensors = _split(plain)
    if MAP_OF_VLLM in tensors and "d2t" not in tensors:
        tensors["d2t"] = tensors.pop(MAP_OF_VLLM)
    return replace(plain, tensors=tensors)


_FUSED = re.compile(r"(.+\.)(qkv_proj|gate_up_proj)\.(weight|bias)")


def _split(checkpoint: Checkpoint) -> dict[str, TensorRef]:
    """The tensors with those of q, k and v, and of gate and up, that stand one after the other in a fused one.

    Engines hold them so in memory, and vLLM and SGLang load them so, too. Each part is a range of the fused one's
    rows, so its bytes stay. Quantized ones are left as they are.
    """
    out: dict[str, TensorRef] = {}
    for name, ref in checkpoint.tensors.items():
        fused = _FUSED.fullmatch(name)
        if fused is None or ref.dtype not in FLOATS or not ref.shape:
            out[name] = ref
            continue
        before, kind, what = fused.groups()
        parts = ("q", "k", "v") if kind == "qkv_proj" else ("gate", "up")
        rows = _rows_of_parts(checkpoint, ref) if kind == "qkv_proj" else _halves(ref)
        at, row = ref.offset, ref.nbytes // ref.shape[0]
        for part, count in zip(parts, rows, strict=True):
            own = f"{before}{part}_proj.{what}"
            if own in checkpoint.tensors:
                raise TensorError(
                    f"{ref.name} and {checkpoint.tensors[own].name} are two names of the same tensor",
                    hint=Hint("keep the one the head was trained with, and leave the other out with --drop", "--drop"),
                    code="tensor-duplicate",
                )
            out[own] = replace(ref, name=own, shape=(count, *ref.shape[1:]), offset=at, nbytes=count * row)
            at += count * row
    return out


def _rows_of_parts(checkpoint: Checkpoint, ref: TensorRef) -> tuple[int, int, int]:
    """The rows of q, k and v in a fused tensor. Raises TensorError where the config's heads do not fit them."""
    nested = checkpoint.config.get("transformer_layer_config")
    config = Fields(nested if isinstance(nested, dict) else checkpoint.config)
    heads = config.number("num_attention_heads")
    kv = config.number("num_key_value_heads", default=heads)
    width, rest = divmod(ref.shape[0], heads + 2 * kv)
    stated = config.number("head_dim", default=width)
    if rest or not width or stated != width:
        raise TensorError(
            f"{ref.name} has {ref.shape[0]} rows, which are not those of {heads} heads and twice {kv} KV heads"
            + (f" of {stated}" if stated != width else ""),
            hint="config.json and weights are from different heads, or one of them was edited",
            code=FUSED,
        )
    return heads * width, kv * width, kv * width


def _halves(ref: TensorRef) -> tuple[int, int]:
    half, rest = divmod(ref.shape[0], 2)
    if rest or not half:
        raise TensorError(
            f"{ref.name} has {ref.shape[0]} rows, which are not two halves of one size, gate and up",
            hint="export the head again",
            code=FUSED,
        )
    return half, half


_WRAPPED = re.compile(r"(?<![^.])(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""What FSDP, activation checkpointing and torch.compile put into the names of what they wrap."""
_OUTER = re.compile(r"((model|module|draft_model)\.)*(module|draft_model)\.")
"""What data parallelism and trainers put before every name."""


def _unwrapped(checkpoint: Checkpoint, tensors: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    """The tensors by their names without those of wrappers. Raises TensorError where two names become one."""
    names = {name: _WRAPPED.sub("", name) for name in tensors}
    if all(_OUTER.match(bare) for bare in names.values()):
        names = {name: _OUTER.sub("", bare, count=1) for name, bare in names.items()}
    out: dict[str, TensorRef] = {}
    for name, bare in names.items():
        if bare in out:
            raise TensorError(
                f"{checkpoint.source}: {out[bare].name} and {name} are two names of the same tensor",
                hint=Hint("keep the one the head was trained with, and leave the other out with --drop", "--drop"),
                code="tensor-duplicate",
            )
        out[bare] = tensors[name]
    return out


def refuse_own(head: Head, dropped: Collection[str]) -> None:
    """Raise Refusal if a dropped tensor is a part of the head although the head can be read without it.

    A tensor that the head cannot be read without has been reported as missing already, unless the folder held it under
    two names.
    """
    there = {ref.name for ref in head.tensors.values()}
    prefix = _PREFIX if all(name.startswith(_PREFIX) or name in _NEVER_PREFIXED for name in there) else ""
    for name in sorted(dropped):
        bare = name.removeprefix(prefix)
        scales = is_scale(bare) and any(other.startswith(f"{name.rpartition('.')[0]}.") for other in there)
        if bare in _OWN or (scales and head.semantics.quantization is not None):
            raise Refusal(
                f"--drop {name}: the tensor is a part of the head, which would be another head without it",
                hint=_OWN.get(bare, "leave the option out"),
                code="refused-drop",
            )


def _without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without a ``model.`` before each name of its backbone. Raises LayoutError where some lack it."""
    tensors = checkpoint.tensors
    prefixed = [name for name in tensors if name.startswith(_PREFIX)]
    bare = set(tensors) - set(prefixed)
    kinds = {name.removeprefix(_PREFIX) for name in prefixed} & _NEVER_PREFIXED
    if prefixed and bare <= _NEVER_PREFIXED and not (bare and kinds):
        stripped = {name.removeprefix(_PREFIX): ref for name, ref in tensors.items()}
        if _is_language_model(stripped):
            refuse_contents(checkpoint.source, {}, checkpoint.config, checkpoint.files)  # a draft model with a name
            raise _whole_model(checkpoint)
        return replace(checkpoint, tensors=stripped)
    if prefixed:
        if _is_language_model({name.removeprefix(_PREFIX) for name in tensors}):
            refuse_contents(checkpoint.source, {}, checkpoint.config, checkpoint.files)
            raise _whole_model(checkpoint)
        stripped = {name.removeprefix(_PREFIX): ref for name, ref in tensors.items()}
        refuse_contents(checkpoint.source, stripped, checkpoint.config, checkpoint.files)
        raise LayoutError(
            f"in {checkpoint.source} some names begin with model. ({prefixed[0]}) and others do not ({min(bare)}): "
            "engines put model. before every name, so neither reading is safe",
            hint="rename the tensors so that none of them begin with model.",
            code="layout-prefixed",
        )
    return checkpoint


def _is_language_model(names: Collection[str]) -> bool:
    return "embed_tokens.weight" in names and not any("fc." in name for name in names)


_NUMBERED = re.compile(r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)\.")
_DEEP = 3
"""Layers of which no draft head of an unknown layout has so many."""


def refuse_language_model(checkpoint: Checkpoint) -> None:
    """Raise LayoutError for a folder in no layout that has the layers of a language model, under whatever names."""
    layers = {match[1] for name in checkpoint.tensors if (match := _NUMBERED.match(name))}
    if len(layers) >= _DEEP and not any("hidden_norm" in name or "fc." in name for name in checkpoint.tensors):
        raise _whole_model(checkpoint)


def refuse_bare_layer(checkpoint: Checkpoint) -> None:
    """Raise TensorError for a folder in no layout whose decoder layer gets no states of a target."""
    names = [name.removeprefix("model.") for name in checkpoint.tensors]
    layer = any(name.startswith(("layers.0.", "midlayer.")) for name in names)
    if layer and not any("hidden_norm" in name or name.startswith("fc.") for name in names):
        raise _bare_layer(checkpoint)


def refuse_wrapped(checkpoint: Checkpoint) -> None:
    """Raise LayoutError for a head of which every name begins with one and the same word, as wrappers save it."""
    word, dot, _ = min(checkpoint.tensors, default="").partition(".")
    bare = {name.removeprefix(f"{word}{dot}") for name in checkpoint.tensors if name.startswith(f"{word}{dot}")}
    if dot and len(bare) == len(checkpoint.tensors) and any(_OF_A_HEAD.match(name) for name in bare):
        raise LayoutError(
            f"in {checkpoint.source} every name begins with {word}. ({word}.{min(bare)}): no engine reads such names",
            hint=f"save the weights anew without {word}. before their names, from the module inside its wrapper",
            code="layout-wrapped",
        )


_OF_A_HEAD = re.compile(r"(midlayer|layers\.0)\.|fc\.weight$")


def _bare_layer(checkpoint: Checkpoint) -> TensorError:
    return TensorError(
        f"{checkpoint.source} holds a decoder layer without fc and hidden_norm, by which an EAGLE-3 head reads its "
        "target",
        hint="if an export lost them, export the head again; else it is a model of one layer, and no draft head",
        code="tensor-bare-layer",
    )


def _whole_model(checkpoint: Checkpoint) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds a whole language model, not a draft head",
        hint="name the folder of the head; the target model goes to --target",
        code="layout-language-model",
    )
