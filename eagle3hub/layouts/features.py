"""Everything a head may have that not every layout can hold, one entry per feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eagle3hub.head import Head


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a head may have that not every layout can hold.

    ``present`` tells whether a head has it; ``says`` names it in the middle of a sentence; ``title`` heads its row in
    a table; ``remedy`` is what would take it away, where something would.
    """

    name: str
    title: str
    says: str
    present: Callable[[Head], bool]
    remedy: str | None = None


_RESORT = "--resort-vocab puts the rows of lm_head and the map into ascending order"

FEATURES: tuple[Feature, ...] = (
    Feature(
        "quantization",
        "quantized weights",
        "quantized weights (packed values with scales)",
        lambda h: h.semantics.quantization is not None,
    ),
    Feature(
        "no_aux",
        "final hidden state instead of aux layers",
        "use_aux_hidden_state: false (it reads one post-norm hidden state; no fc, no hidden_norm)",
        lambda h: not h.semantics.uses_aux,
    ),
    Feature(
        "parallel_drafting",
        "P-EAGLE (parallel drafting)",
        "parallel drafting (mask_hidden, P-EAGLE)",
        lambda h: h.semantics.parallel_drafting,
    ),
    Feature(
        "several_layers",
        "several decoder layers",
        "more than one decoder layer (layers.1.*)",
        lambda h: h.semantics.num_layers > 1,
    ),
    Feature(
        "attention_bias",
        "attention biases",
        "attention biases (self_attn.{q,k,v,o}_proj.bias)",
        lambda h: h.semantics.attention_bias,
    ),
    Feature("fc_bias", "bias of fc", "a bias on fc (fc.bias)", lambda h: h.semantics.fc_bias),
    Feature("qk_norm", "query and key norms", "query and key norms (q_norm, k_norm)", lambda h: h.semantics.qk_norm),
    Feature(
        "norm_before_residual",
        "norm_before_residual",
        "norm_before_residual: true",
        lambda h: h.semantics.norm_before_residual,
    ),
    Feature(
        "norm_before_fc",
        "norm_before_fc",
        "norm_before_fc: true (input_norm.weight)",
        lambda h: h.semantics.norm_before_fc,
    ),
    Feature("fc_norm", "fc_norm", "fc_norm: true (one norm per aux hidden state)", lambda h: h.semantics.fc_norm),
    Feature(
        "post_norm_feedback",
        "post-norm feedback",
        "post-norm feedback (norm_output)",
        lambda h: h.semantics.feedback == "post_norm",
    ),
    Feature(
        "sliding_window",
        "sliding attention window",
        "a sliding attention window",
        lambda h: h.semantics.sliding_window is not None,
    ),
    Feature(
        "hidden_act", "other activation", "an activation other than silu", lambda h: h.semantics.hidden_act != "silu"
    ),
    Feature("rope_scaling", "RoPE scaling", "RoPE scaling", lambda h: h.semantics.rope.scaling is not None),
    Feature(
        "embed_tokens",
        "own embeddings",
        "its own embed_tokens.weight",
        lambda h: "embed_tokens.weight" in h.tensors,
        "--drop-embeddings leaves them out where they are the target's",
    ),
    Feature(
        "target_width",
        "target of another hidden size",
        "a target of another hidden size",
        lambda h: h.dims.hidden_size != h.dims.target_hidden_size,
    ),
    Feature(
        "aux_ids",
        "other aux layers",
        "aux layers other than the default triple",
        lambda h: h.semantics.uses_aux and not h.has_default_aux,
    ),
    Feature(
        "aux_count",
        "other number of aux layers",
        "a number of aux hidden states other than 3",
        lambda h: h.semantics.uses_aux and aux_count(h) != 3,
    ),
    Feature(
        "full_vocabulary",
        "full vocabulary",
        "the target's full vocabulary",
        lambda h: h.dims.draft_vocab_size == h.dims.vocab_size,
    ),
    Feature(
        "permuted_vocabulary",
        "full vocabulary in another order",
        "a map that reorders the target's full vocabulary",
        lambda h: h.vocab_map is not None and h.dims.draft_vocab_size == h.dims.vocab_size,
        _RESORT,
    ),
    Feature(
        "unsorted_vocabulary",
        "unsorted vocabulary",
        "a draft vocabulary that is not in ascending order of target ids",
        lambda h: h.vocab_map is not None and not h.vocab_map.is_sorted,
        _RESORT,
    ),
)


def aux_count(head: Head) -> int:
    """How many hidden states of the target the head reads: blocks of fc, or 1 for a head without fc."""
    fc = head.tensors.get("fc.weight")
    if fc is None:
        return 1
    return (2 * fc.shape[1] if fc.dtype == "U8" else fc.shape[1]) // head.dims.target_hidden_size
