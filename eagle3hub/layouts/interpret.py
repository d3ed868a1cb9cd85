"""Join a config with its tensors into a `Head`, and use an earlier config again where it still holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.safetensors import FLOATS, TORCH_NAME, main_dtype, scales_among
from eagle3hub.errors import ConfigError, Hint, InputError, Problem, UsageError
from eagle3hub.head import OPEN_FEEDBACK, Assumption, AuxTaps, Carried, Head, Semantics
from eagle3hub.head.aux_defaults import AUX_COUNT, AUX_IDS
from eagle3hub.head.fields import MASK_TOKENS
from eagle3hub.head.quantization import inputs_of, side_file
from eagle3hub.head.rope import settled_base
from eagle3hub.layouts.aux_layers import Taps, taps_from
from eagle3hub.layouts.base import Contract, ReadOptions, aux_count
from eagle3hub.layouts.hf_config import ROPE_CONFLICT, LlamaConfig, usual_act, windowed_alike
from eagle3hub.layouts.tensors import (
    buffers_of,
    collect_tensors,
    other_names,
    read_vocab_map,
    refuse_own,
)

__all__ = [
    "Interpretation",
    "build_head",
    "interpreted",
    "overridden",
    "plain_semantics",
    "rewritten",
    "same_meaning",
    "torch_dtype",
]

Interpret = Callable[[Mapping[str, object]], "Interpretation"]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """The meaning of one config.json, in canonical terms.

    ``draft_vocab_size`` is what the config states (None if nothing), to be compared with lm_head. ``fc_order`` is the
    order of fc's column blocks if it is not ascending. ``ignores_order``: the trainer captures in ascending order,
    even if a list has another. ``listed``, ``one_list`` and ``aux_fault`` are those of `Taps`.
    """

    llama: LlamaConfig
    semantics: Semantics
    aux: AuxTaps | None
    draft_vocab_size: int | None
    fc_order: tuple[int, ...] | None = None
    ignores_order: bool = False
    listed: tuple[int, ...] | None = None
    one_list: bool = False
    aux_fault: ConfigError | None = None
    mask_token_id: int | None = None
    target_name: str | None = None
    target_architectures: list[str] = field(default_factory=list)
    speculative_tokens: int | None = None
    assumptions: list[Assumption] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plain_semantics(llama: LlamaConfig, **changes: Any) -> Semantics:
    """The semantics of a Llama head with the given fields changed from EAGLE-3's defaults."""
    fields: dict[str, object] = {
        "rope": llama.rope,
        "rms_norm_eps": llama.rms_norm_eps,
        "hidden_act": llama.hidden_act,
        "attention_bias": llama.attention_bias,
        "sliding_window": llama.sliding_window,
        "sliding_layers": llama.sliding_layers,
        "num_layers": llama.num_hidden_layers,
    }
    return Semantics(**{**fields, **changes})


def overridden(options: ReadOptions) -> set[str]:
    """Names of the assumptions that the user's overrides settle."""
    given = {
        "rope_theta": options.rope_theta,
        "feedback": options.norm_output,
        "norm_before_residual": options.norm_before_residual,
        "aux": options.aux_layers,
        AUX_IDS: options.aux_layers,
    }
    return {field for field, value in given.items() if value is not None}


def interpreted(interpret: Interpret, config: Mapping[str, object], options: ReadOptions) -> Interpretation:
    """The meaning of a config; where its fields of RoPE contradict each other, with the base that the user gives."""
    try:
        return interpret(config)
    except ConfigError as e:
        if options.rope_theta is None or e.code != ROPE_CONFLICT:
            raise
    layer = config.get("transformer_layer_config")
    if isinstance(layer, dict):
        return interpret({**config, "transformer_layer_config": settled_base(layer, options.rope_theta)})
    return interpret(settled_base(config, options.rope_theta))


def with_overrides(meaning: Interpretation, options: ReadOptions) -> Interpretation:
    """The interpretation with the user's overrides in place of what the config says."""
    s, aux, order = meaning.semantics, meaning.aux, meaning.fc_order
    problems = [*meaning.llama.problems, *meaning.problems]
    assumptions = [*meaning.llama.assumptions, *meaning.assumptions]

    open_fields = {a.field for a in assumptions}
    if any(p.code == OPEN_FEEDBACK for p in problems):
        open_fields.add("feedback")

    def report(field: str, was: Any, now: Any) -> None:
        if field in open_fields:
            problems.append(_overridden(f"{field} is taken as {now}, as asked: the source leaves it open"))
        elif was != now and was is not None:
            problems.append(_overridden(f"{field} is taken as {now}, as asked, where the source says {was}"))

    if options.rope_theta is not None:
        report("rope_theta", s.rope.theta, options.rope_theta)
        s = replace(s, rope=replace(s.rope, theta=float(options.rope_theta)))
    if options.norm_output is not None:
        feedback: Literal["pre_norm", "post_norm"] = "post_norm" if options.norm_output == "post" else "pre_norm"
        problems[:] = [p for p in problems if p.code != OPEN_FEEDBACK]
        report("feedback", s.feedback, feedback)
        s = replace(s, feedback=feedback)
    if options.norm_before_residual is not None:
        report("norm_before_residual", s.norm_before_residual, options.norm_before_residual)
        s = replace(s, norm_before_residual=options.norm_before_residual)
    if options.aux_layers is not None and not s.uses_aux:
        raise UsageError("--aux-layers: the head reads no aux layers (use_aux_hidden_state is false)")
    if options.mask_token_id is not None:
        vocab = meaning.llama.vocab_size
        if not s.parallel_drafting:
            raise UsageError("--mask-token-id: the head does not draft in parallel, so it masks no position")
        if not 0 <= options.mask_token_id < vocab:
            raise UsageError(
                f"--mask-token-id {options.mask_token_id}: the vocabulary has {vocab} tokens",
                hint=f"give a token id from 0 to {vocab - 1}",
                code="usage-mask-token",
            )
    if options.aux_layers is not None:
        where, ignored = "--aux-layers", meaning.ignores_order
        given = taps_from(options.aux_layers, options.aux_convention, "flag", order_ignored=ignored, where=where)
        problems[:] = [p for p in problems if not p.code.startswith(("config-aux", "aux-"))]
        if aux is not None and given.aux is not None:
            problems += _other_layers(meaning, aux, given.aux)
        aux, order = given.aux, given.fc_order
        problems += given.problems
    mask = meaning.mask_token_id if options.mask_token_id is None else options.mask_token_id
    report("mask_token_id", meaning.mask_token_id, mask)
    return replace(
        meaning,
        llama=replace(meaning.llama, assumptions=[], problems=[]),
        semantics=s,
        aux=aux,
        fc_order=order,
        one_list=meaning.one_list and options.aux_layers is None,
        aux_fault=meaning.aux_fault if options.aux_layers is None else None,
        mask_token_id=mask,
        assumptions=[a for a in assumptions if a.field not in overridden(options)],
        problems=problems,
    )


def _overridden(message: str) -> Problem:
    return Problem("info", "source-overridden", message)


def _other_layers(meaning: Interpretation, source: AuxTaps, given: AuxTaps) -> list[Problem]:
    """What the user's layers change: the numbering of the ids that the source lists, or the layers themselves."""
    if given.taps == source.taps and not meaning.one_list:
        return []
    ids = sorted(meaning.listed or ())
    as_boundary = ids == given.boundary
    if as_boundary or ids == given.after_layer:
        kind = "boundary" if as_boundary else "after-layer"
        return [_overridden(f"the aux layers {ids} of config.json are taken for {kind} ids, as asked")]
    said = "" if meaning.one_list else f", where the source says {source.after_layer} (both after-layer ids)"
    return [_overridden(f"the aux layers are taken as {given.after_layer}, as asked{said}")]


def build_head(
    name: str, contract: Contract, checkpoint: Checkpoint, meaning: Interpretation, options: ReadOptions
) -> Head:
    """Join a config's meaning with the tensors of a `prepared` checkpoint. Raises TensorError or ConfigError."""
    meaning = with_overrides(meaning, options)
    if meaning.aux_fault is not None:
        raise meaning.aux_fault
    tensors, dims, semantics = collect_tensors(checkpoint, meaning.llama, meaning.semantics, contract)
    vocab_map, status, problems = read_vocab_map(checkpoint, dims, meaning.draft_vocab_size, options.d2t, contract)
    buffers = buffers_of(checkpoint)
    head = Head(
        layout=name,
        source=checkpoint.source,
        dims=dims,
        semantics=semantics,
        aux=meaning.aux,
        vocab_map=vocab_map,
        vocab_status=status,
        tensors=tensors,
        buffers={name: ref.dtype for name, ref in buffers.items()},
        metadata=checkpoint.metadata,
        config=checkpoint.config,
        max_position_embeddings=meaning.llama.max_position_embeddings,
        token_ids=dict(meaning.llama.token_ids),
        target_name=meaning.target_name,
        target_architectures=list(meaning.target_architectures),
        speculative_tokens=meaning.speculative_tokens,
        mask_token_id=meaning.mask_token_id,
        fc_order=meaning.fc_order,
        side_files=side_file(checkpoint) if semantics.quantization is not None else {},
        one_list=meaning.listed if meaning.one_list else None,
        other_names=other_names(tensors, buffers, contract.tensor_prefix),
        assumptions=list(meaning.assumptions),
        problems=[*meaning.problems, *problems],
    )
    refuse_own(head, options.drop)
    _note_head_dim(head, meaning.llama)
    _note_dtype(head)
    _check_aux_count(head)
    _check_embedding(head)
    _check_lm_head(head, meaning.draft_vocab_size)
    _check_mask_token(head)
    return head


def torch_dtype(head: Head) -> str:
    """The dtype a config states: that of most weights, quantized ones not counted."""
    most = head.dtype
    if most not in FLOATS or head.semantics.quantization is not None:
        scales = scales_among(head.tensors)
        floats = [ref for name, ref in head.tensors.items() if ref.dtype in FLOATS and name not in scales]
        most = main_dtype(floats) if floats else "BF16"
    return TORCH_NAME[most]


def _note_head_dim(head: Head, stated: LlamaConfig) -> None:
    """Warn of a head_dim that only the tensors tell, where a config that states none means another."""
    own, usual = head.dims.head_dim, stated.usual_head_dim
    if stated.head_dim is not None or head.dims.mla is not None or own == usual:
        return
    message = (
        f"config.json states no head_dim, and the attention heads in the tensors are {own} wide, not hidden_size / "
        f"num_attention_heads, which is {usual}"
    )
    head.problems.append(Problem("warning", "config-no-head-dim", message, "eagle3hub convert writes head_dim"))


_DTYPES = ("torch_dtype", "dtype")
"""The keys of a config that state the dtype of the weights."""


def _note_dtype(head: Head) -> None:
    """Note a dtype in the config that is not the one of the weights."""
    right, nested = torch_dtype(head), head.config.get("transformer_layer_config")
    for place in (head.config, nested if isinstance(nested, dict) else {}):
        for key in _DTYPES:
            stated = place.get(key)
            if isinstance(stated, str) and _plain(stated) not in ("auto", right):
                message = f"config.json says {key}: {stated:.40}, and the weights are {right}"
                head.problems.append(Problem("info", "config-dtype", message, f"eagle3hub convert writes {right}"))
                return


def _plain(dtype: str) -> str:
    return dtype.removeprefix("torch.")


def _check_aux_count(head: Head) -> None:
    d = head.dims
    if not head.semantics.uses_aux:
        if d.hidden_size != d.target_hidden_size:
            raise ConfigError(
                f"the head has no fc, and its hidden size is {d.hidden_size} where its target's is "
                f"{d.target_hidden_size}: it could not read the target's hidden state",
                hint="correct target_hidden_size or use_aux_hidden_state in config.json",
                code="config-no-aux",
            )
        return
    count, width = aux_count(head), head.dims.target_hidden_size
    inputs = inputs_of(head, "fc")
    if inputs is None:
        return
    if count * width != inputs or (head.aux is not None and len(head.aux) != count):
        named = f"{len(head.aux)} aux layers" if head.aux is not None else "a whole number of aux layers"
        raise ConfigError(f"fc.weight takes {inputs} inputs, which is not {named} of {width}", code="config-aux-count")


def _check_embedding(head: Head) -> None:
    d = head.dims
    if d.hidden_size != d.target_hidden_size and "embed_tokens.weight" not in head.tensors:
        head.problems.append(
            Problem(
                "error",
                "tensor-embedding",
                f"the head's hidden size is {d.hidden_size} and its target's {d.target_hidden_size}, so the target's "
                "embeddings do not fit it, but embed_tokens.weight is missing: vLLM would run on uninitialised ones",
                "export the head with its embeddings",
            )
        )


TIED = "config-tied"


def _check_lm_head(head: Head, stated: int | None) -> None:
    """Warn of what SGLang takes for an lm_head that the folder does not hold: embeddings, or random numbers."""
    if "lm_head.weight" in head.tensors:
        return
    others = [p for p in head.problems if p.code != TIED]
    if len(others) < len(head.problems):
        message = (
            "the head has no lm_head, so it takes the target's, but config.json says tie_word_embeddings: true: "
            "SGLang would take the target's embeddings for it"
        )
        head.problems = [*others, Problem("warning", TIED, message, "eagle3hub convert writes false")]
        return
    if stated is None:
        return
    head.problems.append(
        Problem(
            "warning",
            "tensor-no-lm-head",
            f"the head has no lm_head, so it takes the target's, but config.json says draft_vocab_size: {stated}: "
            "SGLang would make an lm_head of that size with random numbers",
            "eagle3hub convert writes draft_vocab_size: null, with which every engine takes the target's",
        )
    )


def _check_mask_token(head: Head) -> None:
    vocab = head.dims.vocab_size
    if head.semantics.parallel_drafting and not 0 <= (head.mask_token_id or 0) < vocab:
        raise ConfigError(
            f"config.json: mask_token_id is {head.mask_token_id}, but the vocabulary has {vocab} tokens",
            hint=Hint("give the right one with --mask-token-id", "--mask-token-id"),
            code="config-mask-token",
        )


_BY_TENSORS = ("fc_bias", "quantization", "quantized_as", "attention", "joins_embedding")
"""Fields of `Semantics` that only the tensors tell."""


def same_meaning(meaning: Interpretation, head: Head) -> bool:
    """Whether a config describes the head exactly, so that it may be written back unchanged."""
    if meaning.aux_fault is not None:
        return False
    c, d, s = meaning.llama, head.dims, head.semantics
    width = d.intermediate_size if d.intermediate_size == c.intermediate_size_mlp else c.intermediate_size
    sizes = (c.hidden_size, c.target_hidden_size, width, c.num_attention_heads, c.vocab_size)
    same_dims = (*sizes, meaning.draft_vocab_size or d.draft_vocab_size) == (
        *(d.hidden_size, d.target_hidden_size, d.intermediate_size, d.num_attention_heads, d.vocab_size),
        d.draft_vocab_size,
    )
    if d.mla is None:
        same_dims = same_dims and (c.num_key_value_heads, c.head_dim or c.usual_head_dim) == (
            d.num_key_value_heads,
            d.head_dim,
        )
    else:
        same_dims = same_dims and c.mla == d.mla
    if meaning.aux is None:
        same_aux = head.has_default_aux
    else:
        same_aux = head.aux is not None and head.aux.taps == meaning.aux.taps and meaning.fc_order == head.fc_order
    same_token = meaning.mask_token_id in (None, head.mask_token_id)
    told_by_tensors = {name: getattr(s, name) for name in _BY_TENSORS}
    semantics = replace(meaning.semantics, **told_by_tensors)
    return same_dims and same_aux and same_token and semantics == s


def earlier_files(head: Head, name: str, interpret: Interpret) -> Carried | None:
    """How the head was stored in layout ``name`` earlier, if that still describes it; None for its own layout."""
    carried = head.carried.get(name)
    if carried is None or head.layout == name:
        return None
    try:
        meaning = interpret(carried.config)
    except InputError:
        return None
    doubtful = any(p.code == OPEN_FEEDBACK for p in meaning.problems)
    if doubtful or not same_meaning(meaning, head):
        return None
    return replace(
        carried,
        config={
            **carried.config,
            **_agreeing_dtypes(carried.config, {"dtype": torch_dtype(head)}),
            **usual_act(carried.config),
        },
    )


_MEANINGFUL = frozenset(
    {
        *("norm_before_residual", "norm_before_fc", "fc_norm", "use_aux_norm", "norm_output", "attention_bias"),
        *("rope_theta", "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "use_sliding_window"),
        *("target_hidden_size", AUX_COUNT, *MASK_TOKENS, "quantization_config", AUX_IDS),
    }
)
_NESTED = ("eagle_config", "transformer_layer_config")


def rewritten(head: Head, fresh: Mapping[str, object], interpret: Interpret) -> dict[str, Any]:
    """A config of the head's own layout: every field of the source unchanged, plus the fields it lacks.

    If an override or an edit has changed the head, so that the source's fields no longer describe it, the fields that
    carry meaning are replaced and all others stay. A JSON null counts as missing.
    """
    config = _completed(head.config, fresh)
    try:
        if same_meaning(interpret(config), head):
            return config
    except InputError:
        pass
    return _overlaid(head.config, fresh)


def _completed(source: Mapping[str, object], fresh: Mapping[str, object]) -> dict[str, object]:
    out = dict(source)
    for key, value in _without_twins(source, fresh).items():
        have = out.get(key)
        if have is None:
            out[key] = value
        elif isinstance(have, dict) and isinstance(value, dict) and key == "eagle_config":
            out[key] = _completed(have, value)
        elif isinstance(have, dict) and isinstance(value, dict) and key == "transformer_layer_config":
            out[key] = windowed_alike(have, value) | _agreeing_dtypes(have, fresh) | usual_act(have)
    return out | _agreeing_dtypes(source, fresh)


def _overlaid(source: Mapping[str, object], fresh: Mapping[str, object]) -> dict[str, object]:
    out = {k: v for k, v in source.items() if k in fresh or k not in _MEANINGFUL}
    for key, value in _without_twins(source, fresh).items():
        have = out.get(key)
        if key in _NESTED and isinstance(have, dict) and isinstance(value, dict):
            out[key] = _overlaid(have, value)
        else:
            out[key] = value
    return out | _agreeing_dtypes(source, fresh)


def _agreeing_dtypes(source: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The dtype of the weights under each of its keys where the source has another."""
    right = next((fresh[key] for key in _DTYPES if key in fresh), None)
    stated = {key: source[key] for key in _DTYPES if isinstance(source.get(key), str)}
    return {} if right is None else {key: right for key, dtype in stated.items() if _plain(dtype) != right}


def _without_twins(source: Mapping[str, object], fresh: Mapping[str, object]) -> dict[str, object]:
    """The fresh fields without the dtype under the key (old or new) that the source does not use."""
    twin = {"torch_dtype": "dtype", "dtype": "torch_dtype"}
    stated = {key for key in twin if source.get(key) is not None}
    return {k: v for k, v in fresh.items() if k not in twin or k in stated or twin[k] not in stated}


def taps_of(meaning: Taps) -> dict[str, Any]:
    """The fields of `Interpretation` that come from the aux layers."""
    return {
        "aux": meaning.aux,
        "fc_order": meaning.fc_order,
        "listed": meaning.listed,
        "one_list": meaning.one_list,
        "aux_fault": meaning.fault,
    }
