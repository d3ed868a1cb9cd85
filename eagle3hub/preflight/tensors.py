"""Which tensors of the files an engine takes, which it lacks, and which it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator

from eagle3hub.preflight.case import Case, Finding
from eagle3hub.preflight.subject import QUANTIZED_NAME, inputs_of, named, number, section, shape_of

_LAYER = re.compile(r"(midlayer|layers)\.(?:(\d+)\.)?(.+)")
_ALIASES = {"aux_norm_low.": "fc_norm.0.", "aux_norm_mid.": "fc_norm.1.", "aux_norm_high.": "fc_norm.2."}
_JUDGED_BY_FLAG = re.compile(r"(fc_norm|input_norm|aux_norm_\w+|mask_hidden)\b|\.(q_norm|k_norm)\.")
_LATER_NORM = re.compile(r"layers\.[1-9]\d*\.(input_layernorm|hidden_norm)\.")
_ROTARY = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
"""Buffers of old transformers versions, which every loader skips or ignores (vLLM ``models/utils.py:233``)."""
_QWEN3_HEAD_DIM = 128
"""head_dim of a Qwen3 config that states none (transformers)."""
_ALWAYS_KNOWN = {"embed_tokens.weight", "lm_head.weight", "d2t", "t2d"}
_MATRICES = (
    *(f"self_attn.{x}_proj.weight" for x in "qkvo"),
    *(f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
    "post_attention_layernorm.weight",
)


def tensor_findings(case: Case) -> Iterator[Finding]:
    """Names that are not mapped, tensors that are missing or unknown, and widths that do not fit."""
    prefixed = sorted(n for n in case.files.tensors if n.startswith("model."))
    if prefixed and not case.contract.model_prefix:
        yield Finding("model-prefix", {"name": prefixed[0]})
    if case.truth.kind != "mla":
        yield from _accounted(case)
    yield from _widths(case)
    yield from _vocabulary(case)
    yield from _embedding(case)


def _accounted(case: Case) -> Iterator[Finding]:
    found: set[str] = set()
    misnamed: list[str] = []
    for name in case.files.tensors:
        spelled = _canonical(case, name)
        if spelled is None:
            misnamed.append(name)
        else:
            found.add(spelled)
    if misnamed:
        yield Finding("layer-names", {"name": sorted(misnamed)[0], "count": len(misnamed)})
    wanted = _wanted(case)
    lacking = {n for n in wanted - found if not (misnamed and n.startswith("layers."))}
    later = {n for n in lacking if _LATER_NORM.search(n)}
    if later:
        yield Finding("later-norm", {"names": _several(later)})
    if lacking - later:
        yield Finding("tensor-missing", {"names": _several(lacking - later)})
    asked = next((key for key in case.contract.o_proj_bias if case.fields.get(key) is True), None)
    built = {f"layers.{i}.self_attn.o_proj.bias" for i in range(case.truth.num_layers)} if asked else set()
    if built - found:
        yield Finding("o-proj-bias", {"names": _several(built - found), "flag": asked})
    yield from _surplus(case, found - wanted - built - _ALWAYS_KNOWN)


def _surplus(case: Case, unknown: set[str]) -> Iterator[Finding]:
    biases = {n for n in unknown if n.endswith(".bias")}
    rest = {n for n in unknown - biases if not _ROTARY.search(n)}
    if case.truth.quantized:
        rest = {n for n in rest if not QUANTIZED_NAME.search(n)}
    by_flag = {n for n in rest if _JUDGED_BY_FLAG.search(n)}
    leaked = {n for n in rest - by_flag if n.startswith("target_model.")}
    if case.contract.attention_bias and case.fields.get("attention_bias") is True:
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
            yield Finding(code, {"names": _several(names)})


def _canonical(case: Case, name: str) -> str | None:
    """The name as ``layers.{i}.…``; None where the engine does not map this spelling of a layer."""
    name = name.removeprefix("model.")
    if case.contract.aux_norm_alias:
        for alias, own in _ALIASES.items():
            name = name.replace(alias, own)
    spelling, plain = _parse(name)
    terms = case.contract
    mapped = terms.layer_names if case.truth.num_layers == 1 else terms.several_layer_names
    return plain if spelling is None or spelling in mapped else None


def _parse(name: str) -> tuple[str | None, str]:
    """How a name spells its layer (None outside of layers), and the name as ``layers.{i}.…``."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return None, name
    word, index, rest = match.groups()
    return f"{word}." if index is None else f"{word}.{{i}}.", f"layers.{index or 0}.{rest}"


def _wanted(case: Case) -> set[str]:
    truth = case.truth
    wanted = {"norm.weight"}
    for i in range(truth.num_layers):
        wanted |= {f"layers.{i}.{name}" for name in _MATRICES}
        wanted.add(f"layers.{i}.{case.contract.later_norm if i else 'input_layernorm'}.weight")
        if case.draft_class == "qwen3":
            wanted |= {f"layers.{i}.self_attn.{x}_norm.weight" for x in "qk"}
    if truth.uses_aux:
        wanted |= {"fc.weight", "layers.0.hidden_norm.weight"}
    if case.reads("norm_before_fc"):
        wanted.add("input_norm.weight")
    if case.reads("fc_norm"):
        wanted |= {f"fc_norm.{j}.weight" for j in range(truth.num_aux)}
    if truth.parallel_drafting:
        wanted.add("mask_hidden")
    return wanted


def _widths(case: Case) -> Iterator[Finding]:
    truth = case.truth
    inputs = inputs_of(case.files, "fc.weight")
    if truth.uses_aux and inputs is not None:
        built = feature_count(case) * truth.target_hidden_size
        if inputs != built:
            after = None if truth.boundaries is None else [b - 1 for b in truth.boundaries]
            facts = {"file": inputs, "built": built, "count": truth.num_aux, "after": after or "[…]"}
            yield Finding("fc-width", facts)
    plain = {_parse(name.removeprefix("model."))[1]: shape for name, (_, shape) in case.files.tensors.items()}
    q = plain.get("layers.0.self_attn.q_proj.weight")
    if q is not None and len(q) == 2 and not truth.quantized and q[1] == truth.hidden_size:
        yield Finding("qkv-width", {"file": q[1], "built": 2 * truth.hidden_size})
    heads = 0 if truth.kind == "mla" else number(case.fields, "num_attention_heads", 0)
    if q is not None and len(q) == 2 and heads and (read := _head_dim(case, heads)) * heads != q[0]:
        yield Finding("head-dim", {"read": read, "file": q[0] // heads})


def _head_dim(case: Case, heads: int) -> int:
    """The width of an attention head as an engine reads it; transformers completes a flat config only."""
    qwen3 = not case.files.nested and case.fields.get("model_type") == "qwen3"
    return number(case.fields, "head_dim", _QWEN3_HEAD_DIM if qwen3 else case.truth.hidden_size // heads)


def feature_count(case: Case) -> int:
    """How many aux hidden states the engine sizes fc for."""
    if case.capture is not None:
        return len(case.capture)
    terms, eagle = case.contract, section(case.files.config, "eagle_config")
    for key in terms.count_keys:
        if count := number(case.fields, key, 0):
            return count
    for key in terms.class_count_lists.get(case.draft_class or "", terms.count_lists):
        listed = (eagle if key.startswith("eagle_config.") else case.fields).get(key.rpartition(".")[2])
        if isinstance(listed, list) and listed:
            return len(listed)
    return 3


def _vocabulary(case: Case) -> Iterator[Finding]:
    truth, tensors = case.truth, case.files.tensors
    facts = {"draft": truth.draft_vocab_size, "full": truth.vocab_size}
    d2t = named(tensors, "d2t")
    if d2t is None and truth.reduced:
        yield Finding("d2t-missing", facts)
    if d2t is not None and not truth.reduced:
        yield Finding("d2t-with-full-vocabulary", facts)
    if d2t is not None and d2t[0] in {"BF16", "F16", "F32", "F64"}:
        yield Finding("d2t-float", {"dtype": d2t[0]})
    if truth.map_fault is not None:
        yield Finding("d2t-wrong", {"fault": truth.map_fault})
        if truth.map_fits is False:
            yield Finding("d2t-collides", {"fault": truth.map_fault})
    if truth.map_doubt is not None:
        yield Finding("map-doubtful", {"fault": truth.map_doubt})
    if "model.lm_head.weight" in tensors and "lm_head.weight" not in tensors:
        yield Finding("lm-head-prefix")
    rows, stated = shape_of(case.files, "lm_head.weight"), case.fields.get("draft_vocab_size")
    if rows is not None and type(stated) is int and rows[:1] != (stated,):
        yield Finding("lm-head-rows", {"rows": rows[0] if rows else 0, "stated": stated})
    if rows is None:
        yield Finding("no-lm-head-reduced" if truth.reduced else "no-lm-head", facts)


def _embedding(case: Case) -> Iterator[Finding]:
    truth, terms = case.truth, case.contract
    if truth.hidden_size != truth.target_hidden_size:
        widths = {"own": truth.hidden_size, "target": truth.target_hidden_size}
        if truth.embedding == "none":
            yield Finding("no-embedding", widths)
        elif not terms.own_embedding_if_other_width:
            yield Finding("embedding-width", widths)
    elif truth.embedding != "none":
        if truth.embedding == "differs":
            yield Finding("embedding-differs")
        elif truth.embedding == "own":
            yield Finding("embedding-own")


def _several(names: set[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:2])
    return shown if len(ordered) <= 2 else f"{shown} and {len(ordered) - 2} more"
