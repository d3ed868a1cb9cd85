"""Check a head's files against an engine's contract: config, tensors, and aux hidden states of the target."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod

from eagle3hub.engines.preflight.case import PreflightCase, PreflightFinding, lookup
from eagle3hub.engines.preflight.contracts import AuxReading, EngineContract, Numbering, is_known_type
from eagle3hub.engines.preflight.files import (
    PACKED_NAME,
    QUANTIZED_NAME,
    find_tensor,
    inputs_of,
    nested_object,
    packed_weights,
    positive_int,
    shape_of,
    whole_numbers,
)
from eagle3hub.engines.preflight.quantization import quantization_findings
from eagle3hub.head.aux_defaults import FINAL_STATE, shown
from eagle3hub.head.fields import MASK_TOKENS
from eagle3hub.head.rope import ROPE_THETA, read_rope, scaling_in_words
from eagle3hub.head.target import TargetFacts, stated_dtype
from eagle3hub.head.vocab import FAULTS
from eagle3hub.layouts.hf_config import LAYERS, METHOD, MLA_CLASS, MLA_TYPES, context_of
from eagle3hub.layouts.tensors import MAP_OF_VLLM

# Check config.json: what it says, and how an engine reads it


_NORM_FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm")
_NULLS = ("target_hidden_size", "draft_vocab_size", "eagle_config")
_OTHER_BASES = frozenset({"apertus", "gpt_oss", "llama4", "llama4_text", "mistral3"})
"""Types of targets whose config class has another RoPE base than 10000 by default (transformers 4.57.1)."""
_TOKENIZERS_OF_5 = frozenset({"TokenizersBackend", "SentencePieceBackend", "PythonBackend"})
"""Classes of tokenizers that transformers 5 writes and transformers 4 does not know."""
_DTYPES = frozenset(
    {
        *("auto", "bfloat16", "float16", "half", "float32", "float", "float64", "double"),
        *("float8_e4m3fn", "float8_e5m2", "int8", "uint8"),
    }
)
"""Names of dtypes that a config of transformers may have: those of torch, and ``auto``."""
_NOT_NULL = (
    *("attention_bias", "hidden_act", "hidden_size", "initializer_range", "intermediate_size"),
    *("max_position_embeddings", "mlp_bias", "num_attention_heads", "num_hidden_layers", "rms_norm_eps"),
    *("tie_word_embeddings", "use_cache", "vocab_size"),
)
"""Keys that the Llama config of transformers 5 refuses as null (executed, 5.19.0)."""


def configuration_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check the form of the config, draft class, norms, RoPE, context length and all other keys."""
    yield PreflightFinding("no-eagle3")
    yield from _target(case)
    yield from _form(case)
    yield from _draft_class(case)
    yield from _nulls(case)
    if not case.files.nested and "num_hidden_layers" not in case.fields:
        yield PreflightFinding("no-num-hidden-layers", {"read": LAYERS, "file": case.truth.num_layers})
    yield from _vocabulary_keys(case)
    yield from _norms(case)
    yield from _rope(case)
    yield from _context(case)
    yield from _dtypes(case)
    yield from _kinds(case)
    yield from _sharding(case)


def _target(case: PreflightCase) -> Iterator[PreflightFinding]:
    target, truth, terms = case.target, case.truth, case.contract
    if target is None:
        return
    for what, ours, theirs in (
        ("hidden size", truth.target_hidden_size, target.hidden_size),
        ("vocabulary", truth.vocab_size, target.vocab_size),
    ):
        if ours != theirs:
            yield PreflightFinding(
                "target-mismatch", {"what": what, "ours": ours, "theirs": theirs, "target": target.name}
            )
    if not _needs_no_aux(case):
        yield from _target_type(terms, target)
    yield from _target_config(terms, target)


def unserved_findings(terms: EngineContract, target: TargetFacts | None) -> Iterator[PreflightFinding]:
    """Check whether an engine drafts at all, and for a target of this kind, whatever the head is."""
    yield PreflightFinding("no-eagle3")
    if target is not None:
        yield from _target_type(terms, target)
        yield from _target_config(terms, target)


def _target_type(terms: EngineContract, target: TargetFacts) -> Iterator[PreflightFinding]:
    kind = target.model_type
    if kind and kind in terms.newer_targets:
        yield PreflightFinding("target-newer", {"kind": kind})
    elif kind and (kind in terms.not_targets or (terms.only_targets and kind not in terms.only_targets)):
        yield PreflightFinding("target-type", {"kind": kind})
    elif kind and terms.known_targets and kind not in terms.known_targets:
        yield PreflightFinding("target-unchecked", {"kind": kind})


def _target_config(terms: EngineContract, target: TargetFacts) -> Iterator[PreflightFinding]:
    """Check what an engine needs of the target's own config, whatever the head is."""
    if target.ties_embeddings:
        yield PreflightFinding("target-tied")
    if target.tokenizer_class in _TOKENIZERS_OF_5:
        yield PreflightFinding("target-tokenizer", {"kind": target.tokenizer_class})
    stated, read = target.rope(), target.rope(terms.rope.reader)
    if stated is not None and stated.kind in terms.rope.ignored:
        yield PreflightFinding("target-rope-scaling", {"kind": stated.kind})
    if stated is None or stated.theta is None or target.model_type in _OTHER_BASES:
        return
    base = ROPE_THETA if read is None or read.theta is None else read.theta
    if stated.theta != base:
        yield PreflightFinding("target-rope", {"read": f"{base:.15g}", "stated": f"{stated.theta:.15g}"})


def _needs_no_aux(case: PreflightCase) -> bool:
    """Whether this head needs only the final hidden state, which every target gives, and the engine can feed it."""
    rule = case.contract.rules.get("final-norm")
    return not case.truth.uses_aux and rule is not None and rule.effect == "right"


_USUAL_NAME = re.compile(r"model.*\.safetensors|pytorch_model.*\.bin")


def _form(case: PreflightCase) -> Iterator[PreflightFinding]:
    files = case.files
    if not any(name.endswith(".safetensors") for name in files.weights):
        yield PreflightFinding("pickle-weights", {"file": files.weights[0] if files.weights else "no file at all"})
    if files.weights and not files.indexed and not any(map(_USUAL_NAME.fullmatch, files.weights)):
        yield PreflightFinding("weights-name", {"file": files.weights[0]})
    if files.weights and all(name.endswith(".pt") for name in files.weights):
        yield PreflightFinding("weights-pt", {"file": files.weights[0]})
    if files.part is not None:
        yield PreflightFinding("weights-part", {"file": files.weights[0], "part": files.part})
    if files.stray:
        yield PreflightFinding("weights-stray", {"file": files.stray[0]})
    if files.more:
        tensor, file = next(iter(files.more.items()))
        yield PreflightFinding("weights-elsewhere", {"tensor": tensor, "file": file})
    if (called := _of_mistral(files.name)) is not None:
        both = "eagle and mistral" if called == "mistral" else called
        yield PreflightFinding("mistral-name", {"called": both, "without": called})
    if files.alone is not None:
        yield PreflightFinding("weights-alone-foreign" if files.foreign else "weights-alone", {"file": files.alone})
    if files.overlaid:
        yield PreflightFinding("weights-overlaid")
    if files.overlaid_first is not None:
        yield PreflightFinding("weights-overlaid-first", {"file": files.overlaid_first})
    if files.mislabelled:
        yield PreflightFinding("mislabelled-pickle", {"file": files.mislabelled[0]})
    if files.parted:
        yield PreflightFinding("parted-config")
        if files.config.get("method") != METHOD:
            yield PreflightFinding("parted-method")
    if files.nested:
        yield PreflightFinding("nested-config")
        if case.contract.reads_nested and not files.config.get("speculators_model_type"):
            yield PreflightFinding("nested-untyped")
        elif case.contract.reads_nested and _proposes_nothing(files.config):
            yield PreflightFinding("nested-incomplete", {"lacking": "proposal_methods[0].speculative_tokens"})
    if "model_type" not in files.config and not (files.nested and case.contract.reads_nested):
        yield PreflightFinding("no-model-type")


def _of_mistral(name: str) -> str | None:
    """The part of a folder's name by which SGLang takes it for one in Mistral's own format, or None."""
    lower = name.lower()
    whole = next((part for part in ("mistral-large-3", "mistral-small-4", "leanstral") if part in lower), None)
    return whole or ("mistral" if "eagle" in lower and "mistral" in lower else None)


def _proposes_nothing(config: Mapping[str, object]) -> bool:
    own = config.get("speculators_config")
    methods = own.get("proposal_methods") if isinstance(own, dict) else None
    first = methods[0] if isinstance(methods, list) and methods else None
    return not isinstance(first, dict) or not first.get("speculative_tokens")


_CLASSES = ("LlamaForCausalLMEagle3", "Eagle3Qwen3ForCausalLM", MLA_CLASS)
"""The names of a draft's class to advise, of which at most one is of a kind."""


def _draft_class(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth, terms, built = case.truth, case.contract, case.draft_class
    if built is None and not (case.files.parted and "parted-config" in terms.rules):
        plain = case.architecture == "LlamaForCausalLM"
        name = case.architecture or "a config without architectures"
        prefix = "" if case.files.nested or case.architecture is None else terms.class_prefix
        if not name.startswith(prefix) and not name.endswith(prefix):
            name = prefix + name
        called = f"for {name}" if case.architecture is None else f"called {name}"
        known = terms.architectures.get(truth.kind, frozenset())
        facts = {"name": name, "called": called, "class": next((own for own in _CLASSES if own in known), None)}
        yield PreflightFinding("architecture-plain" if plain else "architecture", facts)
    kind = case.files.config.get("model_type")
    if not case.files.nested and isinstance(kind, str) and not is_known_type(kind):
        yield PreflightFinding(
            "model-type", {"kind": kind, "own": MLA_TYPES[0] if truth.kind == "mla" else truth.kind}
        )
    concerned = terms.mtp_of_mla or truth.kind != "mla"
    if not case.files.nested and isinstance(kind, str) and kind in terms.mtp_types and concerned:
        yield PreflightFinding("mtp-type", {"kind": kind, "own": MLA_TYPES[0] if truth.kind == "mla" else truth.kind})
    if truth.kind != "mla" and case.fields.get("kv_lora_rank"):
        yield PreflightFinding("mla-stray")
    if truth.kind == "mla":
        if "mla" not in terms.architectures or built not in {None, "mla"}:
            yield PreflightFinding("mla")
        if find_tensor(case.files.tensors, "lm_head.weight") and "draft_vocab_size" not in case.fields:
            yield PreflightFinding("mla-no-draft-vocab-size")
        if not case.fields.get("q_lora_rank"):
            yield PreflightFinding("mla-query")
        scaled = (truth.rope_scaling or {}).get("rope_type")
        if scaled is None:
            yield PreflightFinding("mla-plain-rope")
        elif scaled != "yarn":
            yield PreflightFinding("mla-rope", {"kind": scaled})
        if truth.quantized or case.files.says_quantized:
            yield PreflightFinding("mla-quantized")
        if truth.num_layers > 1:
            yield PreflightFinding("mla-several-layers", {"layers": truth.num_layers})
        if truth.norm_before_fc:
            yield PreflightFinding("mla-norm-before-fc")
        if not truth.uses_aux:
            yield PreflightFinding("mla-final-norm")
    if truth.kind == "qwen3" and built != "qwen3":
        yield PreflightFinding("qk-norm")


def _nulls(case: PreflightCase) -> Iterator[PreflightFinding]:
    if case.files.nested:
        return
    own = {"draft_vocab_size"} if shape_of(case.files, "lm_head.weight") is None else set()
    for key in _NULLS:
        if key in case.files.config and case.files.config[key] is None and key not in own:
            yield PreflightFinding(f"null-{key.replace('_', '-')}")
    if (
        case.truth.uses_aux
        and nested_object(case.files.config, "eagle_config").get("use_aux_hidden_state", True) is None
    ):
        yield PreflightFinding("null-use-aux-hidden-state")
    refused = [key for key in _NOT_NULL if key in case.files.config and case.files.config[key] is None]
    if refused:
        yield PreflightFinding("null-strict", {"names": ", ".join(refused[:3])})


def _vocabulary_keys(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth, fields = case.truth, case.fields
    if "draft_vocab_size" not in fields and case.draft_class != "mla":
        yield PreflightFinding("no-draft-vocab-size")
    if fields.get("draft_vocab_size") is None and truth.reduced:
        yield PreflightFinding(
            "no-draft-vocab-size-reduced", {"draft": truth.draft_vocab_size, "full": truth.vocab_size}
        )
    if fields.get("tie_word_embeddings") is True and shape_of(case.files, "lm_head.weight") is not None:
        yield PreflightFinding("tied")


def _norms(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth = case.truth
    for flag in _NORM_FLAGS:
        wanted, read = getattr(truth, flag), case.reads(flag)
        if wanted and not read:
            yield PreflightFinding(flag.replace("_", "-"), {"flag": flag})
        elif read and not wanted:
            why = "assumed" if case.assumes(flag) else "stated"
            yield PreflightFinding(f"{flag.replace('_', '-')}-{why}", {"flag": flag})
    read = case.reads("norm_output")
    if truth.feedback is None:
        yield PreflightFinding("feedback-open")
    elif read != (truth.feedback == "post_norm"):
        names = {"post_norm": "normed", "pre_norm": "un-normed"}
        other = "pre_norm" if truth.feedback == "post_norm" else "post_norm"
        yield PreflightFinding("feedback", {"wanted": names[truth.feedback], "fed": names[other]})


def _rope(case: PreflightCase) -> Iterator[PreflightFinding]:
    terms, truth, context = case.contract.rope, case.truth, context_of(case.fields)
    read = read_rope(case.fields, terms.reader, context=context, original=terms.original)
    if read.by_layer:
        yield PreflightFinding("rope-by-layer")
        return
    if read.lacks:
        yield PreflightFinding("rope-incomplete", {"kind": read.kind, "keys": " or ".join(read.lacks)})
    elif read.kind is not None and read.kind not in terms.types | terms.ignored:
        yield PreflightFinding("rope-type", {"kind": read.kind})
    if read.theta is None:
        yield PreflightFinding("null-rope-theta")
    theta = ROPE_THETA if read.theta is None else read.theta
    if theta != truth.rope_theta:
        yield PreflightFinding("rope-theta", {"read": f"{theta:.15g}", "trained": f"{truth.rope_theta:.15g}"})
    scaling = None if read.kind in terms.ignored else read.scaling
    if scaling != (dict(truth.rope_scaling) if truth.rope_scaling else None):
        how = "no RoPE scaling" if scaling is None else f"RoPE scaling {scaling_in_words(scaling)}"
        yield PreflightFinding("rope-scaling", {"read": how})
    if "mrope_section" in (truth.rope_scaling or {}):
        yield PreflightFinding("mrope")
    part = next((part for place, part in read.partial.items() if place in terms.partial), None)
    if part is not None and truth.kind != "mla":  # which rotates a part of its own, of qk_rope_head_dim numbers
        yield PreflightFinding("partial-rotary", {"part": f"{part:g}"})


def _context(case: PreflightCase) -> Iterator[PreflightFinding]:
    own = positive_int(case.fields, "max_position_embeddings", 0)
    length = own or context_of(case.fields)
    stated = f"{length} tokens" + ("" if own else ", which transformers assumes where none is stated")
    if case.target is None or case.target.max_position_embeddings is None:
        yield PreflightFinding("context-unknown", {"stated": stated})
    elif length < case.target.max_position_embeddings:
        facts = {"stated": stated, "target": case.target.max_position_embeddings}
        yield PreflightFinding("context", facts)
        if (case.truth.rope_scaling or {}).get("rope_type") == "yarn":
            yield PreflightFinding("context-lowered", facts)


def _dtypes(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check that the config's dtype is one, and that both have one where an engine gives each model its own."""
    for key in ("torch_dtype", "dtype"):
        named = case.fields.get(key)
        if isinstance(named, str) and named.removeprefix("torch.") not in _DTYPES:
            yield PreflightFinding("dtype-name", {"key": key, "named": f"{named:.40}"})
            return
    target = None if case.files.nested else case.target
    if target is None or target.dtype is None or case.contract.sets_dtype & set(target.architectures):
        return
    own = stated_dtype(case.fields)
    served, theirs = served_dtype(case.fields, own), served_dtype(target.fields, target.dtype)
    if served != theirs:
        why = "" if served == own else f" (its config states {own or 'no dtype'})"
        yield PreflightFinding("dtype-apart", {"own": served, "why": why, "target": theirs})


def served_dtype(config: Mapping[str, object], stated: str | None) -> str:
    """The dtype of a model that is told none: as stated, but half precision for float32, which is the default."""
    if stated is not None and stated != "float32":
        return stated
    return "bfloat16" if str(config.get("model_type", "")).startswith("gemma") else "float16"


def _sharding(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check that the sizes of draft and target divide by the number of devices.

    KV heads are replicated where there are fewer of them. The experts of a target are not looked at.
    """
    devices = case.tensor_parallel
    target = {} if case.target is None else case.target.fields
    has_experts = any("experts" in name for name in target)
    for what, fields, has_inner in (("the draft", case.fields, True), ("the target", target, not has_experts)):
        heads = positive_int(fields, "num_attention_heads", 0)
        latent = case.truth.kind == "mla" if fields is case.fields else "kv_lora_rank" in fields
        kv = heads if latent else positive_int(fields, "num_key_value_heads", heads)
        uneven = [
            f"{count} {size}"
            for size, count in (
                ("attention heads", heads),
                ("KV heads", kv if devices <= kv or (kv and devices % kv) else 0),
                ("intermediate sizes", positive_int(fields, "intermediate_size", 0) if has_inner else 0),
            )
            if count % devices
        ]
        if uneven:
            facts = {"what": what, "devices": devices, "uneven": " and ".join(uneven)}
            yield PreflightFinding("tensor-parallel", facts)


def _kinds(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth = case.truth
    if truth.hidden_act != "silu":
        yield PreflightFinding("hidden-act", {"act": truth.hidden_act})
    elif case.fields.get("hidden_act") not in (None, "silu"):
        yield PreflightFinding("hidden-act-name", {"act": case.fields["hidden_act"]})
    if truth.sliding_window:
        yield PreflightFinding("sliding-window")
        if not case.files.says_sliding:
            yield PreflightFinding("sliding-window-unstated")
    elif case.files.says_sliding:
        yield PreflightFinding("sliding-window-stated")
    yield from quantization_findings(case)
    if truth.parallel_drafting:
        told = case.files.serves_parallel and "parallel-by-name" in case.contract.rules
        yield PreflightFinding("parallel-by-name" if told else "parallel-drafting")
        if all(case.files.config.get(key) is None for key in MASK_TOKENS):
            yield PreflightFinding("no-mask-token")
    if truth.num_layers > 1:
        yield PreflightFinding("several-layers", {"layers": truth.num_layers})


# Check tensors: which an engine takes, which are missing, and which it does not know


_LAYER = re.compile(r"(midlayer|layers)\.(?:(\d+)\.)?(.+)")
_ALIASES = {"aux_norm_low.": "fc_norm.0.", "aux_norm_mid.": "fc_norm.1.", "aux_norm_high.": "fc_norm.2."}
_JUDGED_BY_FLAG = re.compile(r"(fc_norm|input_norm|aux_norm_\w+|mask_hidden)\b|\.(q_norm|k_norm)\.")
_Q_K_NORM = re.compile(r"\.[qk]_norm\.")
_LATER_NORM = re.compile(r"layers\.[1-9]\d*\.(input_layernorm|hidden_norm)\.")
_ROTARY = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
"""Buffers of old transformers versions; every loader skips or ignores them (vLLM ``models/utils.py:233``)."""
_QWEN3_HEAD_DIM = 128
"""Default head_dim of a Qwen3 config (transformers)."""
_ALWAYS_KNOWN = {"embed_tokens.weight", "lm_head.weight", "d2t", "t2d", MAP_OF_VLLM}
_MATRICES = (
    *(f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
)
_FUSED = re.compile(r"(.+\.)(qkv|gate_up)_proj\.(weight|bias)")
_FUSED_PARTS = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
_OF_LLAMA = tuple(f"self_attn.{x}_proj.weight" for x in "qkv")
_OF_MLA = tuple(f"self_attn.{x}.weight" for x in ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj"))
_QUERY, _UP = "layers.0.self_attn.q_proj.weight", "layers.0.mlp.up_proj.weight"
_QUERIES = tuple(f"self_attn.{x}.weight" for x in ("q_a_proj", "q_a_layernorm", "q_b_proj"))


def tensor_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check for names that are not mapped, tensors that are missing or unknown, and widths that do not fit."""
    known = {"model.lm_head.weight"} if case.contract.lm_head_prefix else set()
    prefixed = sorted(n for n in case.files.tensors if n.startswith("model.") and n not in known)
    if prefixed and not case.contract.model_prefix:
        yield PreflightFinding("model-prefix", {"name": prefixed[0]})
    elif prefixed and case.draft_class == "mla":
        yield PreflightFinding("mla-model-prefix", {"name": prefixed[0]})
    if case.truth.kind != "mla" or case.draft_class == "mla":  # weights of another kind are said to be so
        yield from _accounted(case)
    yield from _widths(case)
    yield from _vocabulary(case)
    yield from _embedding(case)


def _accounted(case: PreflightCase) -> Iterator[PreflightFinding]:
    found: set[str] = set()
    misnamed: list[str] = []
    fused: list[str] = []
    for name in case.files.tensors:
        spelled = _canonical(case, name)
        if spelled is None:
            misnamed.append(name)
        elif (parts := _FUSED.fullmatch(spelled)) and not case.truth.quantized:
            fused.append(name)
            found |= {f"{parts[1]}{part}_proj.{parts[3]}" for part in _FUSED_PARTS[parts[2]]}
        else:
            found.add(spelled)
    if misnamed:
        yield PreflightFinding("layer-names", {"name": sorted(misnamed)[0], "count": len(misnamed)})
    if fused:
        yield PreflightFinding("tensor-fused", {"names": _several(set(fused))})
    wanted = _wanted(case)
    lacking = {n for n in wanted - found if not (misnamed and n.startswith("layers."))}
    later = {n for n in lacking if _LATER_NORM.search(n)}
    if later:
        yield PreflightFinding("later-norm", {"names": _several(later)})
    if "mask_hidden" in lacking:
        yield PreflightFinding("no-mask-state")
    lacking -= later | {"mask_hidden"}
    if lacking:
        other_class = case.draft_class == "qwen3" and all(_Q_K_NORM.search(name) for name in lacking)
        way = f'architectures: ["{_CLASSES[0]}"]' if other_class else "export the head again"
        yield PreflightFinding("tensor-missing", {"names": _several(lacking), "way": way})
    if matrices := {n for n in lacking if not n.endswith("norm.weight")}:
        yield PreflightFinding("matrix-missing", {"names": _several(matrices)})
    asked = next((key for key in case.contract.o_proj_bias if case.fields.get(key) is True), None)
    if case.fields.get("attention_bias") is True and not case.contract.attention_bias:
        yield PreflightFinding("attention-bias-stated")
    built = {f"layers.{i}.self_attn.o_proj.bias" for i in range(case.truth.num_layers)} if asked else set()
    if built - found:
        yield PreflightFinding("o-proj-bias", {"names": _several(built - found), "flag": asked})
    yield from _surplus(case, found - wanted - built - _ALWAYS_KNOWN)


def _surplus(case: PreflightCase, unknown: set[str]) -> Iterator[PreflightFinding]:
    biases = {n for n in unknown if n.endswith(".bias")}
    rest = {n for n in unknown - biases if not _ROTARY.search(n)}
    if case.truth.quantized:
        rest = {n for n in rest if not QUANTIZED_NAME.search(n)}
    by_flag = {n for n in rest if _JUDGED_BY_FLAG.search(n)}
    leaked = {n for n in rest - by_flag if n.startswith("target_model.")}
    if case.contract.attention_bias and case.fields.get("attention_bias") is True and case.draft_class != "mla":
        biases = {n for n in biases if ".self_attn." not in n}
    if case.contract.fc_bias and case.fields.get("bias") is True:
        biases -= {"fc.bias"}
    for code, names in (
        ("bias", biases),
        ("tensor-without-flag", {n for n in by_flag if not n.startswith(case.contract.dropped)}),
        ("tensor-leftover", leaked),
        ("tensor-unknown", {n for n in rest - by_flag - leaked if not _LATER_NORM.search(n)}),
    ):
        if names:
            yield PreflightFinding(code, {"names": _several(names)})


def _canonical(case: PreflightCase, name: str) -> str | None:
    """Return the name as ``layers.{i}.…``, or None if the engine does not map this form of the name."""
    name = name.removeprefix("model.")
    if case.truth.quantized:
        name = PACKED_NAME.sub(".weight", name)
    if case.contract.aux_norm_alias and case.draft_class != "mla":
        for alias, own in _ALIASES.items():
            name = name.replace(alias, own)
    spelling, plain = _parse(name)
    terms = case.contract
    mapped = terms.layer_names if case.truth.num_layers == 1 else terms.several_layer_names
    return plain if spelling is None or spelling in mapped else None


def _parse(name: str) -> tuple[str | None, str]:
    """Return how a name writes its layer (None outside of layers), and the name as ``layers.{i}.…``."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return None, name
    word, index, rest = match.groups()
    return f"{word}." if index is None else f"{word}.{{i}}.", f"layers.{index or 0}.{rest}"


def _wanted(case: PreflightCase) -> set[str]:
    truth = case.truth
    wanted = {"norm.weight"}
    for i in range(truth.num_layers):
        wanted |= {f"layers.{i}.{name}" for name in (*_MATRICES, *_attention(case))}
        wanted.add(f"layers.{i}.{case.contract.later_norm if i else 'input_layernorm'}.weight")
        if case.draft_class == "qwen3":
            wanted |= {f"layers.{i}.self_attn.{x}_norm.weight" for x in "qk"}
    wanted.add("layers.0.hidden_norm.weight")  # built by every engine, for a head without aux states too
    if truth.uses_aux:
        wanted.add("fc.weight")
    if case.reads("norm_before_fc"):
        wanted.add("input_norm.weight")
    if case.reads("fc_norm"):
        wanted |= {f"fc_norm.{j}.weight" for j in range(truth.num_aux)}
    if truth.parallel_drafting:
        wanted.add("mask_hidden")
    return wanted


def _attention(case: PreflightCase) -> tuple[str, ...]:
    if case.truth.kind != "mla":
        return _OF_LLAMA
    return (*_OF_MLA, *(_QUERIES if case.fields.get("q_lora_rank") else ("self_attn.q_proj.weight",)))


def _widths(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth = case.truth
    inputs = inputs_of(case.files, "fc.weight")
    if truth.uses_aux and inputs is not None:
        built = feature_count(case) * truth.target_hidden_size
        if inputs != built:
            after = None if truth.boundaries is None else [b - 1 for b in truth.boundaries]
            where = "in its transformer_layer_config" if case.files.nested else "at its top level"
            facts = {
                "file": inputs,
                "built": built,
                "count": truth.num_aux,
                "after": after or "[…]",
                "where": where,
            }
            yield PreflightFinding("fc-width", facts)
    plain = {_parse(name.removeprefix("model."))[1]: shape for name, (_, shape) in case.files.tensors.items()}
    flattened = {name for name, shape in plain.items() if truth.quantized and len(shape) == 2 and shape[1] == 1}
    q = None if _QUERY in flattened else plain.get(_QUERY)
    if q is not None and len(q) == 2 and not truth.quantized and q[1] == truth.hidden_size:
        yield PreflightFinding("qkv-width", {"file": q[1], "built": 2 * truth.hidden_size})
    up = None if _UP in flattened else plain.get(_UP)
    if up is not None and len(up) == 2 and (width := _mlp_width(case)) not in (None, up[0]):
        yield PreflightFinding(_narrower("mlp-width", width, up[0]), {"read": width, "file": up[0]})
    heads = 0 if truth.kind == "mla" else positive_int(case.fields, "num_attention_heads", 0)
    if q is not None and len(q) == 2 and heads and (read := _head_dim(case, heads)) * heads != q[0]:
        code = _narrower("head-dim", read, q[0] // heads)
        yield PreflightFinding(code, {"read": read, "file": q[0] // heads})


def _narrower(code: str, read: int | None, file: int) -> str:
    """Return the code of a width that the engine reads differently from the file: engines may cut what is too wide."""
    return f"{code}-narrower" if read is not None and read < file else code


def _mlp_width(case: PreflightCase) -> int | None:
    """Return the width of an MLP as an engine reads it; None if the config states none."""
    key = case.contract.mlp_width.get(str(case.fields.get("model_type")), "intermediate_size")
    return positive_int(case.fields, key, 0) or None


def _head_dim(case: PreflightCase, heads: int) -> int:
    """Return the width of an attention head as an engine reads it; transformers completes only flat configs."""
    qwen3 = not case.files.nested and case.fields.get("model_type") == "qwen3"
    return positive_int(case.fields, "head_dim", _QWEN3_HEAD_DIM if qwen3 else case.truth.hidden_size // heads)


def feature_count(case: PreflightCase) -> int:
    """Return the number of aux hidden states that the engine builds fc for."""
    if case.capture is not None:
        return len(case.capture)
    terms, eagle = case.contract, nested_object(case.files.config, "eagle_config")
    for key in terms.count_keys:
        if count := positive_int(case.fields, key, 0):
            return count
    for key in terms.class_count_lists.get(case.draft_class or "", terms.count_lists):
        listed = (eagle if key.startswith("eagle_config.") else case.fields).get(key.rpartition(".")[2])
        if isinstance(listed, list) and listed:
            return len(listed)
    return 3


def _vocabulary(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth, tensors = case.truth, case.files.tensors
    facts = {"draft": truth.draft_vocab_size, "full": truth.vocab_size}
    d2t = find_tensor(tensors, "d2t")
    if d2t is None and MAP_OF_VLLM in tensors:
        yield PreflightFinding("d2t-name", {"name": MAP_OF_VLLM})
    elif d2t is None and truth.reduced and "d2t" not in case.files.more:
        way = "eagle3hub convert writes d2t" if truth.map_known else "get d2t from the training run"
        yield PreflightFinding("d2t-missing", {**facts, "way": way})
    if d2t is None and not truth.reduced:
        yield PreflightFinding("d2t-absent")
    if d2t is not None and not truth.reduced:
        yield PreflightFinding("d2t-with-full-vocabulary", facts)
    if d2t is not None and d2t[0] in {"BF16", "F16"}:  # wider floats hold every id, and every engine asked takes them
        yield PreflightFinding("d2t-float", {"dtype": d2t[0]})
    if d2t is not None and truth.reduced and d2t[1] != (truth.draft_vocab_size,):
        entries = prod(d2t[1])
        code = "d2t-short" if entries < truth.draft_vocab_size else "d2t-long"
        if entries != truth.draft_vocab_size or not case.contract.flattens_d2t:
            has = f"{entries} entries" if len(d2t[1]) == 1 else f"the shape {list(d2t[1])}"
            swapped = d2t[1] == (truth.vocab_size,) and shape_of(case.files, "t2d") == (truth.draft_vocab_size,)
            way = (
                "--repair swapped of eagle3hub convert gives d2t and t2d each other's names"
                if swapped
                else "the two belong to different heads: export the head again"
            )
            yield PreflightFinding(code, {"draft": truth.draft_vocab_size, "entries": has, "way": way})
    if truth.map_fault is not None:
        fault = {"fault": FAULTS[truth.map_fault]}
        yield PreflightFinding("d2t-wrong", fault)
        if truth.map_fits is False:
            yield PreflightFinding("d2t-collides", fault)
        if truth.map_fault == "out-of-range":
            yield PreflightFinding("d2t-out-of-range", fault)
    if truth.map_doubt is not None:
        yield PreflightFinding("map-doubtful", {"fault": FAULTS[truth.map_doubt]})
    if "model.lm_head.weight" in tensors and "lm_head.weight" not in tensors:
        yield PreflightFinding("lm-head-prefix")
    rows, stated = shape_of(case.files, "lm_head.weight"), case.fields.get("draft_vocab_size")
    if rows is not None and type(stated) is int and rows[:1] != (stated,):
        yield PreflightFinding("lm-head-rows", {"rows": rows[0] if rows else 0, "stated": stated})
    if packed_weights(case.files, of="lm_head.weight"):  # its rows are not those of the packed values
        return
    tied = case.fields.get("tie_word_embeddings") is True and "no-lm-head-tied" in case.contract.rules
    if rows is None and truth.reduced:
        yield PreflightFinding("no-lm-head-reduced", facts)
    elif rows is None and tied:
        if case.target is None or not case.target.ties_embeddings:
            yield PreflightFinding("no-lm-head-tied")
    elif rows is None:
        yield PreflightFinding("no-lm-head" if type(stated) is int else "no-lm-head-unsized", facts)


def _embedding(case: PreflightCase) -> Iterator[PreflightFinding]:
    truth, terms = case.truth, case.contract
    if truth.hidden_size != truth.target_hidden_size:
        widths = {"own": truth.hidden_size, "target": truth.target_hidden_size}
        if truth.embedding == "none":
            yield PreflightFinding("no-embedding", widths)
        elif not terms.own_embedding_if_other_width:
            yield PreflightFinding("embedding-width", widths)
    elif truth.embedding != "none":
        if truth.embedding == "differs":
            yield PreflightFinding("embedding-differs")
        elif truth.embedding == "own":
            yield PreflightFinding("embedding-own")
        elif truth.embedding == "foreign":
            yield PreflightFinding("embedding-foreign")


def _several(names: set[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:2])
    return shown if len(ordered) <= 2 else f"{shown} and {len(ordered) - 2} more"


# Check aux hidden states: those the engine feeds to the head, and those the head was trained on


def wiring_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check which aux layers are captured, how many, in what order, and whether that depends on the target."""
    truth = case.truth
    if not truth.uses_aux:
        special = truth.kind == "mla" and "mla-final-norm" in case.contract.rules
        if case.capture != FINAL_STATE and not special:
            yield PreflightFinding("final-norm")
        return
    if truth.num_aux == 1 and truth.hidden_size == truth.target_hidden_size:
        yield PreflightFinding("single-feature")
    distinct = truth.boundaries is not None and len(set(truth.boundaries)) == len(truth.boundaries)
    descends = truth.boundaries is not None and distinct and any(a > b for a, b in pairwise(truth.boundaries))
    if descends and not case.contract.aux.as_listed:
        yield PreflightFinding("aux-order", {"ids": list(truth.boundaries or ())})
        return
    yield from _captured(case)


def _captured(case: PreflightCase) -> Iterator[PreflightFinding]:
    kind = case.target.model_type if case.target is not None else None
    terms = case.contract
    if terms.aux_by_target.get(kind or "", terms.aux).branch:
        yield PreflightFinding("aux-branch", {"kind": kind})
    if case.capture is not None:
        yield from _compared(case, "what it is told", tuple(i + 1 for i in case.capture))
        return
    for key, _ in terms.aux.places:
        listed = lookup(case.fields, key)
        if listed == [] and "aux-empty" in terms.rules:
            yield PreflightFinding("aux-empty", {"place": key})
            return
        if whole_numbers(listed) and any(type(i) is float for i in listed):
            yield PreflightFinding("aux-floats", {"place": key})
    general = _reading(case, terms.aux_by_target.get(kind or "", terms.aux))
    if general is None:
        yield from _without_target(case)
        return
    place, captured = general
    if case.target is None:
        others = [_reading(case, special) for special in terms.aux_by_target.values()]
        if any(other is None or other[1] != captured for other in others):
            yield PreflightFinding("aux-numbering", {"place": place})
            return
    yield from _compared(case, place, captured)


def _reading(case: PreflightCase, aux: AuxReading) -> tuple[str, tuple[int, ...]] | None:
    """Return the key that decides and its boundary ids, or None for the default of an unknown target."""
    layers = None if case.target is None else case.target.num_hidden_layers
    for key, numbering in aux.places:
        listed = whole_numbers(lookup(case.fields, key))
        if listed is not None:
            return key, _boundaries(listed, numbering, layers)
    if layers is None:
        return None
    return "its default", tuple(layer.number(layers) for layer in aux.default_layers)


def _boundaries(listed: Sequence[int], numbering: Numbering, layers: int | None) -> tuple[int, ...]:
    after = (
        numbering == "after"
        or (numbering == "after-if-first-is-1" and listed[0] == 1)
        or (numbering == "boundary-if-last-layer" and max(listed) != layers)
    )
    return tuple(i + 1 for i in listed) if after else tuple(listed)


def _without_target(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Check a head whose engine takes the default layers of a target that we do not know."""
    truth, default = case.truth, shown(case.contract.aux.default_layers)
    if truth.boundaries is None:
        if truth.num_aux == len(case.contract.aux.default_layers):
            yield PreflightFinding("aux-agree", {"place": "its default", "layers": f"{default} of L"})
        return
    layers = truth.boundaries[-1] - case.contract.aux.default_layers[-1].plus
    facts = {"wanted": _shown(truth.boundaries), "after": _after(truth.boundaries)}
    if truth.boundaries == tuple(layer.number(layers) for layer in case.contract.aux.default_layers):
        yield PreflightFinding("aux-target", {"layers": layers, **facts})
    else:
        yield PreflightFinding("aux-layers", {"place": "its default", "captured": default, "how": "", **facts})


def _compared(case: PreflightCase, place: str, captured: tuple[int, ...]) -> Iterator[PreflightFinding]:
    truth = case.truth
    taken = captured if case.contract.aux.as_listed else tuple(sorted(set(captured)))
    wanted = truth.boundaries if truth.boundaries is not None else taken
    facts = {
        "place": place,
        "captured": _shown(captured),
        "wanted": _shown(wanted),
        "after": _after(wanted),
        "how": _shift(taken, wanted),
    }
    if case.target is not None:
        layers = case.target.num_hidden_layers
        reach = layers if _reaches_last(case) else layers - 1
        if min(taken) < 0 or max(taken) > reach:
            yield PreflightFinding("aux-range", {**facts, "layers": layers})
            return
        if layers in taken and case.contract.aux.last_unfilled:
            yield PreflightFinding("aux-last-unfilled", {**facts, "layers": layers})
            return
    if len(taken) != truth.num_aux:
        yield PreflightFinding("aux-count", {**facts, "count": len(taken), "width": truth.num_aux})
    elif taken != wanted:
        yield PreflightFinding("aux-layers", facts)
    else:
        yield PreflightFinding("aux-agree", {"place": place, "layers": _shown(taken)})


def _reaches_last(case: PreflightCase) -> bool:
    kind = case.target.model_type if case.target is not None else ""
    return case.contract.aux_by_target.get(kind, case.contract.aux).last_layer


def _shift(captured: Sequence[int], wanted: Sequence[int]) -> str:
    if len(captured) != len(wanted):
        return ""
    steps = {c - w for c, w in zip(captured, wanted, strict=True)}
    return ", one too early" if steps == {-1} else ", one too late" if steps == {1} else ""


def _shown(boundaries: Sequence[int]) -> str:
    return ", ".join(map(str, boundaries))


def _after(boundaries: Sequence[int]) -> list[int]:
    return [b - 1 for b in boundaries]
