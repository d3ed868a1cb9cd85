"""The fields of a Llama (or Qwen3) config, wherever a layout keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3hub.errors import ConfigError
from eagle3hub.fields import Fields
from eagle3hub.head import Assumption, Dims, Rope, Semantics
from eagle3hub.layouts.hf_defaults import context_of
from eagle3hub.layouts.rope import needs_context, parse_rope, with_original

_MOST_LAYERS = 1000
_LARGEST_VOCAB = 1 << 24
"""Bounds far above any model, so that a number in a config cannot make a mask or a list of shapes of any size."""
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


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
    num_hidden_layers: int
    attention_bias: bool
    hidden_act: str
    rms_norm_eps: float
    rope: Rope
    sliding_window: int | None
    sliding_layers: tuple[int, ...]
    max_position_embeddings: int | None
    token_ids: dict[str, int | list[int]]
    assumptions: list[Assumption]


def parse_llama(
    config: Fields, *, hidden_act: str | None = None, rope_theta: float | None = None, sliding: bool = True
) -> LlamaConfig:
    """Read the Llama fields of ``config``.

    Args:
        config: the object that holds them. hidden_act: the activation, where the trainer hard-codes it.
        rope_theta: the RoPE base where the config states none, if the trainer leaves no doubt about it.
        sliding: whether the trainer obeys ``layer_types``.

    Raises ConfigError naming the field that is missing, malformed or not supported.
    """
    assumptions: list[Assumption] = []

    def assume(name: str, value: Any, why: str, settle: str | None = None) -> Any:
        assumptions.append(Assumption(name, value, why, settle or f"write {name} into config.json"))
        return value

    _refuse_unheld(config)
    if config.flag("mlp_bias", default=False):
        raise ConfigError(
            f"{config.where}: mlp_bias is true; no EAGLE-3 trainer makes heads with biases in the MLP",
            code="config-bias",
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
    theta, scaling = parse_rope(config)
    if theta is None:
        why = "the config has no rope_theta; engines and transformers fall back to 10000"
        theta = rope_theta or assume("rope_theta", 10000.0, why, "give --rope-theta")
    context = config.number("max_position_embeddings", default=None)
    if context is None and needs_context(scaling):
        why = "the RoPE scaling is computed from it, and this is what transformers takes where a config has none"
        context = assume("max_position_embeddings", context_of(config.data), why)
    layers = config.number("num_hidden_layers", default=1, most=_MOST_LAYERS)
    window, limited = _sliding(config, layers) if sliding else (None, ())
    return LlamaConfig(
        hidden_size=hidden,
        target_hidden_size=config.number("target_hidden_size", default=hidden),
        intermediate_size=config.number("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=config.number("num_key_value_heads", default=heads),
        head_dim=config.number("head_dim", default=hidden // heads),
        vocab_size=config.number("vocab_size", most=_LARGEST_VOCAB),
        num_hidden_layers=layers,
        attention_bias=config.flag("attention_bias", default=False),
        hidden_act=act,
        rms_norm_eps=eps,
        rope=Rope(theta, with_original(scaling, context)),
        sliding_window=window,
        sliding_layers=limited,
        max_position_embeddings=context,
        token_ids={k: v for k in TOKEN_IDS if (v := config.token_ids(k)) is not None},
        assumptions=assumptions,
    )


def _refuse_unheld(config: Fields) -> None:
    """Raise ConfigError for a field at top level that some engine obeys and no layout has a place for."""
    if not config.flag("is_causal", default=True):
        raise ConfigError(
            f"{config.where}: is_causal is false; vLLM would let tokens attend to later ones, as in no draft head",
            hint="remove is_causal from config.json",
            code="config-causal",
        )
    for name, what in (
        ("logit_scale", "vLLM multiplies the draft's logits by it"),
        ("partial_rotary_factor", "vLLM rotates that part of each attention head only"),
    ):
        value = config.real(name, default=1.0)
        if value != 1.0:
            raise ConfigError(
                f"{config.where}: {name} is {value:g}; {what}, but no trainer of EAGLE-3 heads and no layout knows it",
                hint=f"if the head was trained without it, remove {name} from config.json",
                code=f"config-{name.replace('_', '-')}",
            )


def _sliding(config: Fields, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The attention window and the layers it limits, from ``layer_types`` and ``sliding_window``."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or all(kind == "full_attention" for kind in kinds):
        return None, ()
    if not all(kind in ("full_attention", "sliding_attention") for kind in kinds) or len(kinds) != layers:
        raise ConfigError(
            f"{config.where}: layer_types is {kinds} for {layers} draft layer{'s' if layers > 1 else ''}; each layer "
            "is either full_attention or sliding_attention",
            code="config-layer-types",
        )
    limited = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    return config.number("sliding_window"), limited


def spell_llama(s: Semantics, d: Dims) -> dict[str, Any]:
    """The Llama fields every flat config and every ``transformer_layer_config`` has in common."""
    return {
        "model_type": "qwen3" if s.qk_norm else "llama",
        "hidden_size": d.hidden_size,
        "intermediate_size": d.intermediate_size,
        "num_hidden_layers": s.num_layers,
        "num_attention_heads": d.num_attention_heads,
        "num_key_value_heads": d.num_key_value_heads,
        "head_dim": d.head_dim,
        "hidden_act": s.hidden_act,
        "rms_norm_eps": s.rms_norm_eps,
        "vocab_size": d.vocab_size,
        "attention_bias": s.attention_bias,
        "mlp_bias": False,
        **_spell_sliding(s),
    }


def _spell_sliding(s: Semantics) -> Mapping[str, Any]:
    if s.sliding_window is None:
        return {}
    kinds = ["sliding_attention" if i in s.sliding_layers else "full_attention" for i in range(s.num_layers)]
    switch = {"use_sliding_window": True} if s.qk_norm else {}
    return {**switch, "sliding_window": s.sliding_window, "layer_types": kinds}
