"""A head's config in the terms of transformers: defaults, RoPE, and the fields of Llama and Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eagle3hub.errors import ConfigError, Hint, Problem
from eagle3hub.head import Assumption, Dims, MlaDims, Rope, Semantics
from eagle3hub.head.fields import TOKEN_IDS, Fields
from eagle3hub.head.rope import (
    ALIASES,
    ORIGINAL,
    OTHER_PARTIALS,
    PARTIAL,
    POSITIVE,
    ROPE_THETA,
    Scaling,
    by_layer_type,
    from_original,
    lacking,
    needs_context,
    plain_scaling,
    type_of,
    untyped,
    with_original,
)

# Defaults of transformers' config classes.
#
# speculators writes ``transformer_layer_config`` with transformers' ``to_diff_dict``: a missing field has the default
# of the config class that model_type names (transformers 4.57 and 5: ``LlamaConfig``, ``Qwen3Config``).


LAYERS, CONTEXT = 32, 2048
"""num_hidden_layers and max_position_embeddings of ``LlamaConfig``."""
_LLAMA: dict[str, object] = {
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
_DEFAULTS: Mapping[str, Mapping[str, object]] = {"llama": _LLAMA, "qwen3": _QWEN3}
_CONTEXT = {"qwen3": 32768, "deepseek_v3": 4096, "kimi_k2": 4096}


def with_defaults(layer: Mapping[str, object], model_type: str) -> dict[str, object]:
    """The config with the default of every field it leaves out; a null counts as left out."""
    return {**_DEFAULTS[model_type], **{k: v for k, v in layer.items() if v is not None}}


def context_of(fields: Mapping[str, object]) -> int:
    """``max_position_embeddings`` in tokens, or the default of the class where a config states none."""
    stated = fields.get("max_position_embeddings")
    return stated if type(stated) is int else _CONTEXT.get(str(fields.get("model_type")), CONTEXT)


# vLLM's form of a draft's config: the fields of the model inside ``model`` (``transformers_utils/configs/eagle.py``).
# vLLM joins both parts, what stands outside coming first, and puts "Eagle3" before the name of a class that lacks it.


METHOD = "eagle3"
"""``method`` of such a config of an EAGLE-3 head; without it vLLM takes the head for an EAGLE-1 head."""


def is_parted(config: Mapping[str, object]) -> bool:
    """Whether a config has the fields of the model inside ``model``, as vLLM reads it."""
    return config.get("model_type") == "eagle" and isinstance(config.get("model"), dict)


def joined(config: Mapping[str, object]) -> dict[str, object]:
    """The config as a flat one, if it has parts; ``architectures`` are those of the model."""
    inner = config.get("model")
    if not is_parted(config) or not isinstance(inner, dict):
        return dict(config)
    outer = {key: v for key, v in config.items() if key not in ("model", "model_type", "method", "architectures")}
    return {**inner, **outer}


# RoPE in both forms: ``rope_theta`` with ``rope_scaling``, and transformers 5's ``rope_parameters``.


ROPE_CONFLICT = "config-rope"
"""Code of the error of RoPE fields that contradict each other, or that no EAGLE-3 head has."""


def parse_rope(config: Fields) -> tuple[float | None, Scaling | None]:
    """Base (None where none is stated) and scaling (None where it is plain), from either form or both.

    Raises ConfigError where the two disagree, or for a rotation no EAGLE-3 head has.
    """
    halves = config.flag("is_neox_style", default=True) and config.flag("rope_is_neox_style", default=True)
    if config.flag("rope_interleave", default=False) or not halves:
        raise ConfigError(
            f"{config.where} asks for interleaved RoPE, which no layout and no engine has for a Llama draft head",
            code=ROPE_CONFLICT,
        )
    top = config.real("rope_theta", default=None)
    original, context = config.number(ORIGINAL, default=None), config.number("max_position_embeddings", default=None)
    stated: list[Scaling | None] = []
    for key in ("rope_scaling", "rope_parameters"):
        if (given := config.mapping(key)) is None:
            continue
        if by_layer_type(given):
            raise ConfigError(
                f"{config.where}: {key} differs by layer type, as its target's does, so it does not say how the draft "
                "was rotated: vLLM and SGLang stop at it",
                hint=Hint(
                    "give the base the head was trained with: --rope-theta X takes it, without scaling; or write the "
                    f"draft's own {key} into config.json",
                    "--rope-theta",
                ),
                code=ROPE_CONFLICT,
            )
        _refuse_two_types(config, key, given)
        inner = Fields(given, f"{config.where}: {key}")
        for name in POSITIVE:
            inner.real(name, default=None)
        theta, scaling = inner.real("rope_theta", default=None), plain_scaling(given)
        if theta is not None and top is not None and theta != top:
            raise ConfigError(
                f"{config.where}: rope_theta is {top:.15g} but {key} says {theta:.15g}",
                hint=Hint(
                    "transformers 5, vLLM and SGLang take the one inside, older engines the other: give the base the "
                    "head was trained with, --rope-theta X",
                    "--rope-theta",
                ),
                code=ROPE_CONFLICT,
            )
        if original is not None and from_original(scaling) and scaling.get(ORIGINAL) not in (None, original):
            raise ConfigError(
                f"{config.where}: {ORIGINAL} is {original} at top level but {scaling[ORIGINAL]} in {key}",
                hint="transformers and SGLang obey the one at top level: make the other say the same, as in training",
                code=ROPE_CONFLICT,
            )
        stated.append(with_original(scaling, original))
        if with_original(stated[0], context) != with_original(stated[-1], context):
            raise ConfigError(f"{config.where}: rope_scaling and rope_parameters disagree", code=ROPE_CONFLICT)
        top = theta if theta is not None else top
    return top, max(stated, key=lambda scaling: ORIGINAL in (scaling or {}), default=None)


def _refuse_two_types(config: Fields, key: str, given: Mapping[str, object]) -> None:
    old, new = given.get("type"), given.get("rope_type")
    if isinstance(old, str) and isinstance(new, str) and ALIASES.get(old, old) != ALIASES.get(new, new):
        raise ConfigError(
            f"{config.where}: {key} is of type {old} and of rope_type {new}",
            hint="vLLM stops at it, other engines take rope_type: keep the one the head was trained with",
            code=ROPE_CONFLICT,
        )


def _rope_problems(config: Fields, scaling: Scaling | None) -> list[Problem]:
    """The errors of a scaling: keys its type needs and that are missing, and a part of each head to rotate."""
    problems: list[Problem] = []
    where = next((key for key in ("rope_scaling", "rope_parameters") if config.mapping(key)), "")
    stated = config.mapping(where) or {}
    if lacks := lacking(stated):
        message = (
            f"{config.where}: {where} is of type {type_of(stated)} but states no {' and no '.join(lacks)}: vLLM and "
            "SGLang stop at it"
        )
        hint = f"write the trained value, or remove {where} if the head was trained without scaling"
        problems.append(Problem("error", "config-rope-incomplete", message, hint))
    parts = (
        ("config-partial-rotary-factor", PARTIAL, config.real(PARTIAL, default=None)),
        *(("config-partial-rotary-name", key, config.real(key, default=None)) for key in OTHER_PARTIALS),
        ("config-partial-rotary", f"{PARTIAL} in {where}", (scaling or {}).get(PARTIAL)),
    )
    for code, what, part in parts:
        if part not in (None, 1.0):
            message = (
                f"{config.where}: {what} is {part:g}: some engines rotate that part of each attention head only "
                "(eagle3hub inspect says which), while every trainer of EAGLE-3 heads rotates all of it"
            )
            hint = f"remove {what.split()[0]} from config.json, unless the training code was changed to obey it"
            problems.append(Problem("error", code, message, hint))
    return problems


def rope_fields(rope: Rope) -> dict[str, object]:
    """The fields of RoPE in both forms: engines before transformers 5 read the first two keys only."""
    scaling = dict(rope.scaling) if rope.scaling else None
    return {
        "rope_theta": rope.theta,
        **({"rope_scaling": scaling} if scaling else {}),
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": rope.theta},
    }


# The fields of a Llama or Qwen3 config, in whichever object a layout keeps them.


_MOST_LAYERS = 1000
_LARGEST_VOCAB = 1 << 24
"""Bounds far above any model's, so that no number in a config makes a mask or a list of shapes endless."""
_QWEN3_FULL_LAYERS = 28
"""max_window_layers of a Qwen3 config that states none."""
LLAMA4, LLAMA4_WIDTH = "llama4_text", "intermediate_size_mlp"
"""The type of a Llama 4 config, and its key for the width of a dense MLP (its experts have intermediate_size).

SGLang builds drafts of this type with it (``models/llama_eagle3.py:81-84``), other engines with the other key.
"""
SLIDING = ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers")


_SAME_ACT = {"swish": "silu"}
"""Names of transformers for an activation that has another name, too."""


def usual_act(config: Mapping[str, object]) -> dict[str, str]:
    """``hidden_act`` by the name that engines know, where a config has it by the other."""
    stated = config.get("hidden_act")
    return {"hidden_act": _SAME_ACT[stated]} if isinstance(stated, str) and stated in _SAME_ACT else {}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The Llama fields of a config, in whichever object a layout keeps them.

    ``head_dim`` is None where the config states none; the width of a head is then that of the tensors.
    ``mla``: sizes of MLA attention if the config states any. Only the tensors tell whether the head has it: a config
    made from a DeepSeek target's may name the sizes for a head with Llama attention.
    """

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    intermediate_size_mlp: int | None
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None
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
    problems: list[Problem]
    mla: MlaDims | None = None

    @property
    def usual_head_dim(self) -> int:
        """The width of a head that a Llama config without head_dim means."""
        return self.hidden_size // self.num_attention_heads


def parse_llama(
    config: Fields,
    *,
    hidden_act: str | None = None,
    rope_theta: float | None = None,
    theta_by_library: bool = False,
    sliding: bool = True,
) -> LlamaConfig:
    """Read the Llama fields of ``config``.

    Args:
        config: the object that holds them. hidden_act: the activation, where the trainer hard-codes it.
        rope_theta: the RoPE base of a config that states none, if the trainer leaves no doubt about it.
        theta_by_library: whether the trainer takes the base of such a config from transformers, as engines do.
        sliding: whether the trainer reads ``layer_types``.

    Raises ConfigError naming the field that is missing, malformed or not supported.
    """
    assumptions: list[Assumption] = []

    def assume(name: str, value: Any, why: str, settle: str | None = None, *, doubtful: bool = True) -> Any:
        assumptions.append(Assumption(name, value, why, settle or f"write {name} into config.json", doubtful))
        return value

    _refuse_unheld(config)
    if config.flag("mlp_bias", default=False):
        raise ConfigError(
            f"{config.where}: mlp_bias is true; no EAGLE-3 trainer makes heads with biases in the MLP",
            code="config-bias",
        )
    heads = config.number("num_attention_heads")
    hidden = config.number("hidden_size")
    mla = _mla(config)
    act = config.text("hidden_act", default=config.text("hidden_activation", default=hidden_act))
    act = _SAME_ACT.get(act or "", act)
    if act is None:
        act = assume(
            "hidden_act", "silu", "the config names no activation; transformers' Llama default is silu", doubtful=False
        )
    eps = config.real("rms_norm_eps", default=None)
    if eps is None:
        eps = assume(
            "rms_norm_eps", 1e-6, "the config has no epsilon; transformers' Llama default is 1e-6", doubtful=False
        )
    theta, scaling = parse_rope(config if mla is None else _without_interleave(config))
    for key in ("rope_scaling", "rope_parameters"):
        if untyped(config.mapping(key) or {}):
            why = f"{key} names no rope_type: engines and transformers take its RoPE for plain and ignore the factor"
            settle = f"write the rope_type that the head was trained with into {key}, or remove the factor"
            assume("rope_scaling", None, why, settle)
            break
    if theta is None:
        why = "the config has no rope_theta; engines and transformers fall back to 10000"
        settle = Hint("give --rope-theta if the head was trained with another base", "--rope-theta")
        theta = rope_theta or assume("rope_theta", ROPE_THETA, why, settle, doubtful=not theta_by_library)
    context = config.number("max_position_embeddings", default=None)
    if context is None and needs_context(scaling):
        why = "the RoPE scaling is computed from it, and this is what transformers takes where a config has none"
        context = assume("max_position_embeddings", context_of(config.data), why)
    layers = config.number("num_hidden_layers", default=1, most=_MOST_LAYERS)
    llama4 = config.get("model_type") == LLAMA4
    window, limited = _sliding(config, layers) if sliding else (None, ())
    return LlamaConfig(
        hidden_size=hidden,
        target_hidden_size=config.number("target_hidden_size", default=hidden),
        intermediate_size=config.number("intermediate_size"),
        intermediate_size_mlp=config.number(LLAMA4_WIDTH, default=None) if llama4 else None,
        num_attention_heads=heads,
        num_key_value_heads=config.number("num_key_value_heads", default=heads),
        head_dim=config.number("head_dim", default=None),
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
        problems=_rope_problems(config, scaling),
        mla=mla,
    )


def _mla(config: Fields) -> MlaDims | None:
    """The sizes of MLA attention; None where the config names no kv_lora_rank. Raises ConfigError."""
    if config.get("kv_lora_rank") is None:
        return None
    return MlaDims(
        q_lora_rank=config.number("q_lora_rank", default=None),
        kv_lora_rank=config.number("kv_lora_rank"),
        qk_nope_head_dim=config.number("qk_nope_head_dim"),
        qk_rope_head_dim=config.number("qk_rope_head_dim"),
        v_head_dim=config.number("v_head_dim"),
    )


def _without_interleave(config: Fields) -> Fields:
    """The config without ``rope_interleave: true``, which is how MLA heads rotate. Raises ConfigError for false.

    vLLM rotates so whatever the key says (``models/deepseek_v2.py:1122``); SGLang obeys it (``:2166``).
    """
    if not config.flag("rope_interleave", default=True):
        raise ConfigError(
            f"{config.where}: rope_interleave is false; every trainer of MLA heads rotates neighbouring numbers, and "
            "vLLM does so whatever the config says",
            hint="if the head was trained with interleaved RoPE, remove rope_interleave from config.json",
            code="config-rope",
        )
    return Fields({k: v for k, v in config.data.items() if k != "rope_interleave"}, config.where)


def _refuse_unheld(config: Fields) -> None:
    """Raise ConfigError for a field that some engine obeys and that no layout can hold."""
    if not config.flag("is_causal", default=True):
        raise ConfigError(
            f"{config.where}: is_causal is false; vLLM would let tokens attend to later ones, as in no draft head",
            hint="remove is_causal from config.json",
            code="config-causal",
        )
    scale = config.real("logit_scale", default=1.0)
    if scale != 1.0:
        raise ConfigError(
            f"{config.where}: logit_scale is {scale:g}: vLLM multiplies the draft's logits by it, but no trainer of "
            "EAGLE-3 heads does",
            hint="if the head was trained without it, remove logit_scale from config.json",
            code="config-logit-scale",
        )


def _sliding(config: Fields, layers: int) -> tuple[int | None, tuple[int, ...]]:
    """The attention window and the layers it limits, from ``layer_types`` and ``sliding_window``.

    A Qwen3 config has none unless ``use_sliding_window`` is true; where it then lists no ``layer_types``, the layers
    from ``max_window_layers`` on are limited (transformers 5.19 ``Qwen3Config``). A Llama config knows neither key.
    """
    kinds = config.get("layer_types")
    if config.get("model_type") == "qwen3":
        if not config.flag("use_sliding_window", default=False):
            return None, ()
        if kinds is None:
            first = config.get("max_window_layers")
            full = first if type(first) is int else _QWEN3_FULL_LAYERS
            kinds = ["full_attention" if i < full else "sliding_attention" for i in range(layers)]
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


MLA_CLASS = "Eagle3DeepseekV2ForCausalLM"
"""The one class name of MLA draft heads that vLLM, SGLang and the trainers TorchSpec and ModelOpt know."""
MLA_TYPES = ("kimi_k2", "deepseek_v2")
"""model_types of an MLA head: vLLM takes a deepseek_v3 for multi-token prediction (``config/speculative.py:680``)."""


def attention_fields(s: Semantics, d: Dims) -> dict[str, object]:
    """The fields of a flat config that every engine reads alike: `llama_fields`, or DeepSeek's for an MLA head.

    ``first_k_dense_replace`` and ``num_nextn_predict_layers`` say that no layer has experts and none predicts further
    tokens: the defaults of transformers' ``DeepseekV3Config`` say otherwise.
    """
    if d.mla is None:
        return llama_fields(s, d)
    unread = {"head_dim", "mlp_bias"}
    return {
        **{k: v for k, v in llama_fields(s, d).items() if k not in unread},
        "model_type": MLA_TYPES[0],
        **asdict(d.mla),
        "first_k_dense_replace": s.num_layers,
        "num_nextn_predict_layers": 0,
    }


def llama_fields(s: Semantics, d: Dims) -> dict[str, object]:
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
        **_sliding_fields(s),
    }


def windowed_alike(source: Mapping[str, object], fresh: Mapping[str, object]) -> dict[str, object]:
    """The Llama fields of ``source``, with the window of ``fresh`` if ``layer_types``, which vLLM obeys, differ."""
    if _limited(source) == _limited(fresh):
        return dict(source)
    kept = {k: v for k, v in source.items() if k not in SLIDING}
    return kept | {k: v for k, v in fresh.items() if k in SLIDING}


def _limited(fields: Mapping[str, object]) -> list[int]:
    kinds = fields.get("layer_types")
    return [i for i, kind in enumerate(kinds) if kind == "sliding_attention"] if isinstance(kinds, list) else []


def _sliding_fields(s: Semantics) -> Mapping[str, object]:
    if s.sliding_window is None:
        return {}
    kinds = ["sliding_attention" if i in s.sliding_layers else "full_attention" for i in range(s.num_layers)]
    switch = {"use_sliding_window": True} if s.qk_norm else {}
    return {**switch, "sliding_window": s.sliding_window, "layer_types": kinds}
