"""The config.json of speculators: what it says, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.fields import Fields
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts.base import WriteOptions
from eagle3hub.layouts.hf_defaults import ROPE_THETA, with_defaults
from eagle3hub.layouts.interpret import Interpretation, plain_semantics, taps_of
from eagle3hub.layouts.llama import parse_llama, spell_llama
from eagle3hub.layouts.rope import spell_rope
from eagle3hub.layouts.taps import AUX_IDS, Taps, taps_from

SCHEMA_VERSION = "0.9.0"
"""The release of speculators whose config we write."""

SETTLE_RESIDUAL = "give --norm-before-residual"
"""What settles a doubtful norm_before_residual."""

_KINDS = ("eagle3", "peagle")
_MODEL_TYPES = ("llama", "qwen3")
_MODELOPT_EXPORT = "0.1.0.dev14"


def interpret_config(config: Mapping[str, Any]) -> Interpretation:
    """What a config says. Raises ConfigError."""
    c = Fields(config)
    kind = c.text("speculators_model_type")
    if kind not in _KINDS:
        raise ConfigError(
            f"config.json says speculators_model_type: {kind}; this version reads {' and '.join(_KINDS)}",
            code="config-kind",
        )
    if c.mapping("transformer_layer_config") is None:
        raise ConfigError(
            "config.json has no transformer_layer_config", hint="it must be an object", code="config-missing"
        )
    given = c.section("transformer_layer_config")
    layer_type = given.text("model_type", default="llama")
    if layer_type not in _MODEL_TYPES:
        raise ConfigError(
            f"config.json: transformer_layer_config: model_type is {layer_type}; this version reads "
            f"{' and '.join(_MODEL_TYPES)} layers",
            code="config-kind",
        )
    layer = Fields(with_defaults(given.data, layer_type), given.where)
    width = c.number("target_hidden_size", default=None)
    llama = parse_llama(
        Fields({**layer.data, **({"target_hidden_size": width} if width else {})}, layer.where), rope_theta=ROPE_THETA
    )
    before_fc, fc_norm = c.flag("norm_before_fc", default=False), c.flag("fc_norm", default=False)
    if before_fc and fc_norm:
        raise ConfigError(
            "config.json says both norm_before_fc and fc_norm, which exclude each other", code="config-norms"
        )
    before_residual, assumptions = _norm_before_residual(c)
    ids = c.layer_ids(AUX_IDS)
    taps = Taps() if ids is None else taps_from(ids, "boundary", "config", where=c.where)
    verifier = c.section("speculators_config").section("verifier")
    names = verifier.get("architectures")
    return Interpretation(
        llama=llama,
        semantics=plain_semantics(
            llama,
            norm_before_residual=before_residual,
            norm_before_fc=before_fc,
            fc_norm=fc_norm,
            feedback="post_norm" if c.flag("norm_output", default=False) else "pre_norm",
            qk_norm=layer_type == "qwen3",
            parallel_drafting=kind == "peagle",
        ),
        **taps_of(taps),
        draft_vocab_size=c.number("draft_vocab_size", default=None),
        mask_token_id=token_id(c),
        target_name=verifier.text("name_or_path", default=None),
        target_architectures=[a for a in names if isinstance(a, str)] if isinstance(names, list) else [],
        speculative_tokens=_speculative_tokens(c),
        assumptions=assumptions,
        problems=taps.problems,
    )


def version_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Major and minor of ``speculators_version``, or None."""
    match = re.match(r"(\d+)\.(\d+)", str(config.get("speculators_version") or ""))
    return (int(match[1]), int(match[2])) if match else None


def token_id(config: Fields) -> int | None:
    """mask_token_id, which may be 0."""
    value = config.token_ids("mask_token_id")
    return value if isinstance(value, int) else None


def _norm_before_residual(config: Fields) -> tuple[bool, list[Assumption]]:
    stated = config.flag("norm_before_residual", default=None)
    if stated is None:
        why = "the key is missing: the speculators library takes false, but vLLM takes true for such a folder"
        return False, [Assumption("norm_before_residual", False, why, SETTLE_RESIDUAL)]
    if stated and config.get("speculators_version") == _MODELOPT_EXPORT:
        why = (
            f"speculators_version {_MODELOPT_EXPORT} is what ModelOpt's own converter writes, together with "
            "norm_before_residual: true whatever the head, and ModelOpt trains with false"
        )
        return True, [Assumption("norm_before_residual", True, why, SETTLE_RESIDUAL)]
    return stated, []


def spell(head: Head, options: WriteOptions) -> dict[str, Any]:
    """config.json of a head. Raises Refusal without a verifier, a number of draft tokens or P-EAGLE's mask token."""
    tokens = options.speculative_tokens or head.speculative_tokens
    if head.target_name is None:
        raise Refusal(
            "a speculators config names the verifier, and neither the source nor an option says which it is",
            hint="give --target, a folder or Hub id of the target model",
            code="refused-no-target",
        )
    if tokens is None:
        raise Refusal(
            "a speculators config says how many tokens to draft (vLLM requires it), and no number is safe to guess",
            hint="give --speculative-tokens K",
            code="refused-no-speculative-tokens",
        )
    s, d = head.semantics, head.dims
    if s.parallel_drafting and head.mask_token_id is None:
        raise Refusal(
            "a P-EAGLE config names the token that stands for positions not drafted yet (vLLM requires it), and the "
            "source does not (SpecForge keeps it in its training state only)",
            hint="give --mask-token-id",
            code="refused-no-mask-token",
        )
    kind = "peagle" if s.parallel_drafting else "eagle3"
    layer = {
        "architectures": ["Qwen3ForCausalLM" if s.qk_norm else "LlamaForCausalLM"],
        **spell_llama(s, d),
        **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
        **head.token_ids,
        **spell_rope(s.rope),
        "tie_word_embeddings": False,
    }
    return {
        "architectures": ["PEagleSpeculator" if s.parallel_drafting else "Eagle3Speculator"],
        "speculators_model_type": kind,
        "speculators_version": SCHEMA_VERSION,
        "draft_vocab_size": d.draft_vocab_size,
        "norm_before_residual": s.norm_before_residual,
        "norm_before_fc": s.norm_before_fc,
        "fc_norm": s.fc_norm,
        "norm_output": s.feedback == "post_norm",
        **({"mask_token_id": head.mask_token_id} if s.parallel_drafting else {}),
        **({AUX_IDS: head.aux.boundary} if head.aux is not None else {}),
        "tie_word_embeddings": False,
        "dtype": TORCH_NAME[head.dtype],
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [_proposal(tokens)],
            "verifier": {"name_or_path": head.target_name, "architectures": head.target_architectures},
        },
    }


def with_said(config: Mapping[str, Any], head: Head, options: WriteOptions) -> dict[str, Any]:
    """A config seen before, with the verifier and the number of draft tokens that the user says now, if any."""
    said = config.get("speculators_config") or {}
    tokens = options.speculative_tokens
    changes: dict[str, Any] = {}
    if options.target_name is not None:
        named = {"name_or_path": options.target_name, "architectures": head.target_architectures}
        changes["verifier"] = {**(said.get("verifier") or {}), **named}
    if tokens is not None:
        methods = said.get("proposal_methods")
        first, *others = methods if isinstance(methods, list) and methods else [None]
        method = first if isinstance(first, dict) and first else _proposal(tokens)
        changes["proposal_methods"] = [{**method, "speculative_tokens": tokens}, *others]
    return {**config, "speculators_config": {**said, **changes}} if changes else dict(config)


def _proposal(tokens: int) -> dict[str, Any]:
    return {
        "proposal_type": "greedy",
        "speculative_tokens": tokens,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }


def _speculative_tokens(config: Fields) -> int | None:
    methods = config.section("speculators_config").get("proposal_methods")
    if not isinstance(methods, list) or not methods or not isinstance(methods[0], dict):
        return None
    return Fields(methods[0], "config.json: proposal_methods[0]").number("speculative_tokens", default=None)
