"""What all one-layer Llama-style layouts share: the tensors, and the fields of a Llama config.

Tensor core and shapes: trainers agree on them (SpecJAX ``models/draft/eagle3.py``, SpecForge
``modeling/draft/llama3_eagle.py``, ModelOpt ``export/plugins/hf_spec_export.py``, speculators
``models/eagle3/core.py``); q/k/v take [token embedding ‖ hidden], hence 2H inputs.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3hub.checkpoint.dtypes import FLOATS
from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.errors import ConfigError, InputError, Problem, TensorError
from eagle3hub.fields import Fields
from eagle3hub.head import Assumption, Dims, Rope, Semantics, TensorRef
from eagle3hub.vocab import VocabMap, check_vocab_map

BUFFERS = ("d2t", "t2d")
_D2T_TYPECODES = {"I32": "i", "I64": "q"}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The Llama fields of a config, whichever place a layout keeps them in."""

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    hidden_act: str
    rms_norm_eps: float
    rope: Rope
    sliding_window: int | None
    max_position_embeddings: int | None
    token_ids: dict[str, int | list[int]]
    assumptions: list[Assumption]


def parse_llama(config: Fields, *, hidden_act: str | None = None) -> LlamaConfig:
    """Read the Llama fields of ``config``.

    Args:
        config: the object that holds them. hidden_act: the activation, where the trainer hard-codes it.

    Raises ConfigError naming the field that is missing, malformed or not supported.
    """
    assumptions: list[Assumption] = []

    def assume(name: str, value: Any, why: str) -> Any:
        assumptions.append(Assumption(name, value, why, f"write {name} into config.json"))
        return value

    if config.number("num_hidden_layers", default=1) != 1:
        raise ConfigError(
            f"{config.where}: num_hidden_layers is {config.get('num_hidden_layers')}; "
            "this version reads draft heads of one decoder layer",
            code="config-layers",
        )
    for name in ("attention_bias", "mlp_bias"):
        if config.flag(name, default=False):
            raise ConfigError(
                f"{config.where}: {name} is true; this version reads heads without biases", code="config-bias"
            )
    heads = config.number("num_attention_heads")
    hidden = config.number("hidden_size")
    if config.get("head_dim") is None and hidden % heads:
        raise ConfigError(
            f"{config.where}: hidden_size {hidden} is not a multiple of {heads} heads and head_dim is not given",
            code="config-head-dim",
        )
    act = config.text("hidden_act", default=hidden_act)
    if act is None:
        act = assume("hidden_act", "silu", "the config names no activation; transformers' Llama default is silu")
    eps = config.real("rms_norm_eps", default=None)
    if eps is None:
        eps = assume("rms_norm_eps", 1e-6, "the config has no epsilon; transformers' Llama default is 1e-6")
    rope = _parse_rope(config)
    if rope is None:
        why = "the config has no rope_theta; engines and transformers fall back to 10000"
        rope = Rope(assume("rope_theta", 10000.0, why))
    return LlamaConfig(
        hidden_size=hidden,
        target_hidden_size=config.number("target_hidden_size", default=hidden),
        intermediate_size=config.number("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=config.number("num_key_value_heads", default=heads),
        head_dim=config.number("head_dim", default=hidden // heads),
        vocab_size=config.number("vocab_size"),
        hidden_act=act,
        rms_norm_eps=eps,
        rope=rope,
        sliding_window=_sliding_window(config),
        max_position_embeddings=config.number("max_position_embeddings", default=None),
        token_ids={
            k: v for k in ("bos_token_id", "eos_token_id", "pad_token_id") if (v := config.token_ids(k)) is not None
        },
        assumptions=assumptions,
    )


def _parse_rope(config: Fields) -> Rope | None:
    """RoPE from ``rope_theta`` + ``rope_scaling`` and/or transformers 5's ``rope_parameters``, which must agree."""
    legacy_theta = config.real("rope_theta", default=None)
    legacy = _plain_scaling(config.mapping("rope_scaling"))
    new = config.mapping("rope_parameters")
    if new is None:
        return None if legacy_theta is None else Rope(legacy_theta, legacy)
    theta = Fields(new, f"{config.where}: rope_parameters").real("rope_theta", default=legacy_theta)
    scaling = _plain_scaling({k: v for k, v in new.items() if k != "rope_theta"})
    if theta is None:
        return None
    if legacy_theta is not None and legacy_theta != theta:
        raise ConfigError(
            f"{config.where}: rope_theta is {legacy_theta:g} but rope_parameters says {theta:g}", code="config-rope"
        )
    if config.mapping("rope_scaling") is not None and legacy != scaling:
        raise ConfigError(f"{config.where}: rope_scaling and rope_parameters disagree", code="config-rope")
    return Rope(theta, scaling)


def _plain_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The scaling parameters under their current key names, or None for plain RoPE."""
    if scaling is None:
        return None
    out = {("rope_type" if k == "type" else k): v for k, v in scaling.items()}
    return None if out.get("rope_type", "default") == "default" and len(out) <= 1 else out


def _sliding_window(config: Fields) -> int | None:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" in kinds:
        return config.number("sliding_window")
    return None


def spell_llama(c: Semantics, d: Dims) -> dict[str, Any]:
    """The Llama fields every flat config and every ``transformer_layer_config`` has in common."""
    return {
        "model_type": "llama",
        "hidden_size": d.hidden_size,
        "intermediate_size": d.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": d.num_attention_heads,
        "num_key_value_heads": d.num_key_value_heads,
        "head_dim": d.head_dim,
        "hidden_act": c.hidden_act,
        "rms_norm_eps": c.rms_norm_eps,
        "vocab_size": d.vocab_size,
        "attention_bias": False,
        "mlp_bias": False,
    }


def spell_rope(rope: Rope) -> dict[str, Any]:
    """RoPE in both spellings: engines before transformers 5 read the first two keys only."""
    scaling = dict(rope.scaling) if rope.scaling else None
    return {
        "rope_theta": rope.theta,
        **({"rope_scaling": scaling} if scaling else {}),
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": rope.theta},
    }


def collect_tensors(
    checkpoint: Checkpoint, config: LlamaConfig, *, prefix: str, norm_before_fc: bool = False, fc_norm: bool = False
) -> tuple[dict[str, TensorRef], Dims]:
    """Give every tensor its canonical name and hold its shape against the config.

    Returns the weights by canonical name (vocabulary buffers left out) and the dimensions.
    Raises TensorError for a tensor that is missing, unknown, of the wrong shape or not floating point.
    """
    found = {_canonical(name, prefix): ref for name, ref in checkpoint.tensors.items() if name not in BUFFERS}
    lm_head = found.get("lm_head.weight")
    fc = found.get("fc.weight")
    d = Dims(
        hidden_size=config.hidden_size,
        target_hidden_size=config.target_hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=lm_head.shape[0] if lm_head is not None and lm_head.shape else config.vocab_size,
    )
    num_aux = fc.shape[1] // d.target_hidden_size if fc is not None and len(fc.shape) == 2 else 3
    expected = expected_shapes(d, max(num_aux, 1), norm_before_fc=norm_before_fc, fc_norm=fc_norm)
    missing = sorted(set(expected) - set(found) - {"embed_tokens.weight"})
    if missing:
        raise TensorError(
            f"{checkpoint.source} lacks {_several([_spelled(n, prefix) for n in missing])}",
            hint="the head cannot be completed from the rest: export it again",
            code="tensor-missing",
        )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise TensorError(
            f"{checkpoint.source} holds {_several([found[n].name for n in unknown])}, which a one-layer Llama head "
            "of this layout does not have",
            hint="an engine would ignore it or crash on it; if another layout was meant, name it with --from",
            code="tensor-unknown",
        )
    for name, shape in expected.items():
        if name in found and found[name].shape != shape:
            raise TensorError(
                f"{found[name].name} is {list(found[name].shape)} but the config asks for {list(shape)} "
                f"(hidden_size {d.hidden_size}, {d.num_attention_heads} heads of {d.head_dim}, "
                f"{d.num_key_value_heads} KV heads, intermediate_size {d.intermediate_size}, "
                f"vocab_size {d.vocab_size})",
                hint="config.json and weights are from different heads, or one of them was edited",
                code="tensor-shape",
            )
    for ref in found.values():
        if ref.dtype not in FLOATS:
            raise TensorError(f"{ref.name} is {ref.dtype}; this version reads unquantized heads", code="tensor-dtype")
    return found, d


def expected_shapes(d: Dims, num_aux: int, *, norm_before_fc: bool, fc_norm: bool) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor a one-layer Llama head has, by canonical name (embed_tokens.weight is optional)."""
    h, i, q, kv = (
        d.hidden_size,
        d.intermediate_size,
        d.num_attention_heads * d.head_dim,
        d.num_key_value_heads * d.head_dim,
    )
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (h, num_aux * d.target_hidden_size),
        "layers.0.input_layernorm.weight": (h,),
        "layers.0.hidden_norm.weight": (h,),
        "layers.0.self_attn.q_proj.weight": (q, 2 * h),
        "layers.0.self_attn.k_proj.weight": (kv, 2 * h),
        "layers.0.self_attn.v_proj.weight": (kv, 2 * h),
        "layers.0.self_attn.o_proj.weight": (h, q),
        "layers.0.post_attention_layernorm.weight": (h,),
        "layers.0.mlp.gate_proj.weight": (i, h),
        "layers.0.mlp.up_proj.weight": (i, h),
        "layers.0.mlp.down_proj.weight": (h, i),
        "norm.weight": (h,),
        "lm_head.weight": (d.draft_vocab_size, h),
        "embed_tokens.weight": (d.vocab_size, h),
    }
    if norm_before_fc:
        shapes["input_norm.weight"] = (num_aux * d.target_hidden_size,)
    if fc_norm:
        shapes |= {f"fc_norm.{j}.weight": (d.target_hidden_size,) for j in range(num_aux)}
    return shapes


def read_vocab_map(checkpoint: Checkpoint, d: Dims, stated: int | None) -> tuple[VocabMap | None, str, list[Problem]]:
    """The vocabulary map of a folder, its status, and what is wrong with it.

    ``stated`` is the config's draft_vocab_size; it must be the number of rows of lm_head.
    """
    if stated is not None and stated != d.draft_vocab_size:
        raise TensorError(
            f"lm_head.weight has {d.draft_vocab_size} rows but the config says draft_vocab_size {stated}",
            hint="config.json and weights are from different heads, or one of them was edited",
            code="tensor-shape",
        )
    d2t, t2d = (checkpoint.tensors.get(name) for name in BUFFERS)
    if d2t is not None and (d2t.dtype not in _D2T_TYPECODES or len(d2t.shape) != 1):
        problem = Problem("error", "vocab-dtype", f"d2t is {d2t.dtype} {list(d2t.shape)}, not a vector of I32 or I64")
        return None, "dtype", [problem]
    if t2d is not None and (t2d.dtype not in {"BOOL", "U8"} or len(t2d.shape) != 1):
        problem = Problem("error", "vocab-dtype", f"t2d is {t2d.dtype} {list(t2d.shape)}, not a vector of BOOL or U8")
        return None, "dtype", [problem]
    offsets = None if d2t is None else _integers(d2t)
    mask = None if t2d is None else read_tensor(t2d)
    return check_vocab_map(offsets, mask, vocab_size=d.vocab_size, draft_vocab_size=d.draft_vocab_size)


def _integers(ref: TensorRef) -> array[int]:
    """The values of an I32 or I64 tensor."""
    values = array(_D2T_TYPECODES[ref.dtype])
    values.frombytes(read_tensor(ref))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def buffer_dtypes(checkpoint: Checkpoint) -> dict[str, str]:
    """Dtype of each vocabulary buffer the folder holds."""
    return {name: checkpoint.tensors[name].dtype for name in BUFFERS if name in checkpoint.tensors}


def _canonical(name: str, prefix: str) -> str:
    if name.startswith(prefix):
        return "layers.0." + name.removeprefix(prefix)
    return f"?{name}" if name.startswith("layers.") else name


def _spelled(name: str, prefix: str) -> str:
    return prefix + name.removeprefix("layers.0.") if name.startswith("layers.0.") else name


def disk_name(canonical: str, prefix: str) -> str:
    """The name a tensor has on disk under a layout that spells ``layers.0.`` as ``prefix``."""
    return _spelled(canonical, prefix)


def _several(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def not_supported(what: str, why: str, code: str) -> InputError:
    """The error for a recognised kind of head that this version does not read."""
    return InputError(f"{what}: {why}", hint="this version reads one-layer Llama heads", code=code)
