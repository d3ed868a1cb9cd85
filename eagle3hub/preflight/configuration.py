"""What config.json says, against what an engine makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eagle3hub.layouts.hf_defaults import CONTEXT, LAYERS
from eagle3hub.preflight.case import Case, Finding
from eagle3hub.preflight.subject import number, packed_weights, read_rope, section, shape_of

_NORM_FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm")
_NULLS = ("target_hidden_size", "draft_vocab_size", "eagle_config", "rope_theta")
_NOT_NULL = (
    *("attention_bias", "hidden_act", "hidden_size", "initializer_range", "intermediate_size"),
    *("max_position_embeddings", "mlp_bias", "num_attention_heads", "num_hidden_layers", "rms_norm_eps"),
    *("tie_word_embeddings", "use_cache", "vocab_size"),
)
"""Keys whose null the Llama config of transformers 5 refuses (executed, 5.19.0)."""


def configuration_findings(case: Case) -> Iterator[Finding]:
    """Form of the config, draft class, norms, RoPE, context, and whatever else a key decides."""
    yield Finding("no-eagle3")
    yield from _target(case)
    yield from _form(case)
    yield from _draft_class(case)
    yield from _nulls(case)
    if not case.files.nested and "num_hidden_layers" not in case.fields:
        yield Finding("no-num-hidden-layers", {"read": LAYERS, "file": case.truth.num_layers})
    yield from _vocabulary_keys(case)
    yield from _norms(case)
    yield from _rope(case)
    yield from _context(case)
    yield from _kinds(case)


def _target(case: Case) -> Iterator[Finding]:
    target, truth, terms = case.target, case.truth, case.contract
    if target is None:
        return
    for what, ours, theirs in (
        ("hidden size", truth.target_hidden_size, target.hidden_size),
        ("vocabulary", truth.vocab_size, target.vocab_size),
    ):
        if ours != theirs:
            yield Finding("target-mismatch", {"what": what, "ours": ours, "theirs": theirs, "target": target.name})
    kind = target.model_type
    if not kind or _needs_no_aux(case):
        return
    if kind in terms.not_targets or (terms.only_targets and kind not in terms.only_targets):
        yield Finding("target-type", {"kind": kind})
    elif terms.known_targets and kind not in terms.known_targets:
        yield Finding("target-unchecked", {"kind": kind})


def _needs_no_aux(case: Case) -> bool:
    """Whether the engine can feed this head the final hidden state, which the class of any target hands out."""
    rule = case.contract.rules.get("final-norm")
    return not case.truth.uses_aux and rule is not None and rule.effect == "right"


def _form(case: Case) -> Iterator[Finding]:
    files = case.files
    if not any(name.endswith(".safetensors") for name in files.weights):
        yield Finding("pickle-weights", {"file": files.weights[0] if files.weights else "no file at all"})
    if files.overlaid:
        yield Finding("weights-overlaid")
    if files.mislabelled:
        yield Finding("mislabelled-pickle", {"file": files.mislabelled[0]})
    if files.nested:
        yield Finding("nested-config")
        lacking = _nested_lacks(files.config)
        if case.contract.reads_nested and lacking:
            yield Finding("nested-incomplete", {"lacking": lacking})
    if "model_type" not in files.config:
        yield Finding("no-model-type")


def _nested_lacks(config: Mapping[str, Any]) -> str | None:
    if not config.get("speculators_model_type"):
        return "speculators_model_type"
    own = config.get("speculators_config")
    methods = own.get("proposal_methods") if isinstance(own, dict) else None
    first = methods[0] if isinstance(methods, list) and methods else None
    if not isinstance(first, dict) or not first.get("speculative_tokens"):
        return "proposal_methods[0].speculative_tokens"
    return None


def _draft_class(case: Case) -> Iterator[Finding]:
    truth, terms, built = case.truth, case.contract, case.draft_class
    if built is None:
        plain = case.architecture == "LlamaForCausalLM"
        name = case.architecture or "a config without architectures"
        yield Finding("architecture-plain" if plain else "architecture", {"name": name})
    if truth.kind == "mla":
        if "mla" not in terms.architectures or built not in {None, "mla"}:
            yield Finding("mla")
        if truth.quantized or case.files.says_quantized:
            yield Finding("mla-quantized")
        if truth.num_layers > 1:
            yield Finding("mla-several-layers", {"layers": truth.num_layers})
        if truth.norm_before_fc:
            yield Finding("mla-norm-before-fc")
        if not truth.uses_aux:
            yield Finding("mla-final-norm")
    if truth.kind == "qwen3" and built != "qwen3":
        yield Finding("qk-norm")


def _nulls(case: Case) -> Iterator[Finding]:
    if case.files.nested:
        return
    for key in _NULLS:
        if key in case.files.config and case.files.config[key] is None:
            yield Finding(f"null-{key.replace('_', '-')}")
    if case.truth.uses_aux and section(case.files.config, "eagle_config").get("use_aux_hidden_state", True) is None:
        yield Finding("null-use-aux-hidden-state")
    refused = [key for key in _NOT_NULL if key in case.files.config and case.files.config[key] is None]
    if refused:
        yield Finding("null-strict", {"names": ", ".join(refused[:3])})


def _vocabulary_keys(case: Case) -> Iterator[Finding]:
    truth, fields = case.truth, case.fields
    if "draft_vocab_size" not in fields:
        yield Finding("no-draft-vocab-size")
    if fields.get("draft_vocab_size") is None and truth.reduced:
        yield Finding("no-draft-vocab-size-reduced", {"draft": truth.draft_vocab_size, "full": truth.vocab_size})
    if fields.get("tie_word_embeddings") is True and shape_of(case.files, "lm_head.weight") is not None:
        yield Finding("tied")


def _norms(case: Case) -> Iterator[Finding]:
    truth = case.truth
    for flag in _NORM_FLAGS:
        wanted, read = getattr(truth, flag), case.reads(flag)
        if wanted and not read:
            yield Finding(flag.replace("_", "-"), {"flag": flag})
        elif read and not wanted:
            why = "assumed" if case.assumes(flag) else "stated"
            yield Finding(f"{flag.replace('_', '-')}-{why}", {"flag": flag})
    read = case.reads("norm_output")
    if truth.feedback is None:
        yield Finding("feedback-open")
    elif read != (truth.feedback == "post_norm"):
        names = {"post_norm": "normed", "pre_norm": "un-normed"}
        other = "pre_norm" if truth.feedback == "post_norm" else "post_norm"
        yield Finding("feedback", {"wanted": names[truth.feedback], "fed": names[other]})


def _rope(case: Case) -> Iterator[Finding]:
    theta, scaling = read_rope(case.fields, case.contract.rope)
    truth = case.truth
    if theta != truth.rope_theta:
        yield Finding("rope-theta", {"read": f"{theta:g}", "trained": f"{truth.rope_theta:g}"})
    if (scaling or None) != (dict(truth.rope_scaling) if truth.rope_scaling else None):
        how = "no RoPE scaling" if scaling is None else f"RoPE scaling {scaling}"
        yield Finding("rope-scaling", {"read": how})
    for key, code in (("mrope_section", "mrope"), ("partial_rotary_factor", "partial-rotary")):
        if key in (truth.rope_scaling or {}):
            yield Finding(code)


def _context(case: Case) -> Iterator[Finding]:
    own = number(case.fields, "max_position_embeddings", 0)
    length = own or CONTEXT
    stated = str(length) if own else f"{length} (it states none)"
    if case.target is None or case.target.max_position_embeddings is None:
        yield Finding("context-unknown", {"stated": stated})
    elif length < case.target.max_position_embeddings:
        yield Finding("context", {"stated": stated, "target": case.target.max_position_embeddings})


def _kinds(case: Case) -> Iterator[Finding]:
    truth = case.truth
    if truth.hidden_act != "silu":
        yield Finding("hidden-act", {"act": truth.hidden_act})
    if truth.sliding_window:
        yield Finding("sliding-window")
        if not case.files.says_sliding:
            yield Finding("sliding-window-unstated")
    elif case.files.says_sliding:
        yield Finding("sliding-window-stated")
    yield from _quantization(case)
    if truth.parallel_drafting:
        yield Finding("parallel-drafting")
    if truth.num_layers > 1:
        yield Finding("several-layers", {"layers": truth.num_layers})


def _quantization(case: Case) -> Iterator[Finding]:
    told = case.files.says_quantized
    if not case.truth.quantized:
        if told is not None:
            yield Finding("quantized-config-alone", {"where": told})
        return
    yield Finding("quantized")
    if case.truth.kind != "mla" and packed_weights(case.files, of="fc.weight"):
        yield Finding("fc-packed" if packed_weights(case.files, {"U8"}, "fc.weight") else "fc-quantized")
    if told is None:
        yield Finding("packed-untold" if packed_weights(case.files, {"U8"}) else "quantized-untold")
