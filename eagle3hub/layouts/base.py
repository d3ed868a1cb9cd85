"""What every codec shares: the features a head may have, the contract of a layout, refusals and their alternatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.errors import InputError, Refusal, UsageError
from eagle3hub.head import Assumption, Head

# Everything a head may have that not every layout can hold, one entry per feature.


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


# What a layout codec is, and what a layout can express.
#
# A codec turns a folder into a `Head` and a `Head` into the files of a folder. What it cannot express is data
# (`Contract`), so that refusals and documentation come from one place and a pair of layouts needs no code.


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a config of this layout must say and that a head may not know.

    Attributes:
        what: its name in text. option: the option that gives it. code: of the refusal where it is missing.
        when: the case in which the option is needed, in words; empty for always.
    """

    what: str
    option: str
    code: str
    when: str = ""

    @property
    def how(self) -> str:
        """The option, and when it is needed."""
        return self.option + (f", {self.when}" if self.when else "")


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything there is to know about one layout. Messages, tables, schemas and cards are made from it.

    Attributes:
        title: the layout's name in text. full_title: its name on a card, the maker's included; empty: the same.
        engines: engines that read the layout as it is, by eagle3hub's names for them.
        other_readers: who reads it besides engines, in words.
        tensor_prefix: spelling of ``layers.0.`` in what is written today.
        forms: spellings of tensor names that are read: ``layers`` (``layers.{i}.``), ``midlayer`` (one layer),
            ``midlayers`` (``midlayer.{i}.``), ``research`` (no prefix at all).
        expresses: names of the `FEATURES` it has a place for.
        vocab_dtype: dtype it stores d2t in. has_t2d: whether it stores the mask. identity_map: whether a head over
            the full vocabulary carries an identity map (zero offsets, all-true mask).
        metadata: what its writer puts into the safetensors header.
        aux_ids: where it writes aux layer ids, in words, or None.
        single_file: whether its own reader opens one weights file and knows no index.
        trainer_sorts: whether its own trainer keeps the rows of lm_head in ascending order of token ids.
        needs: what must be given by hand where the source does not say it.
        cannot: reason by feature, where there is more to say than "has no place for it".
        reads, writes: producers and versions whose folders are read, and the one whose folders are written, in words.
    """

    title: str
    tensor_prefix: str
    forms: frozenset[str]
    expresses: frozenset[str]
    vocab_dtype: str
    has_t2d: bool
    identity_map: bool
    metadata: Mapping[str, str] | None
    aux_ids: str | None
    full_title: str = ""
    engines: tuple[str, ...] = ()
    other_readers: str = ""
    single_file: bool = False
    trainer_sorts: bool = True
    needs: tuple[Need, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: str = ""

    @property
    def sorted_rows(self) -> bool:
        """Whether every head of this layout has its rows of lm_head in ascending order of token ids."""
        return "unsorted_vocabulary" not in self.expresses

    @property
    def needs_draft_tokens(self) -> bool:
        """Whether its config must say how many tokens to draft (K)."""
        return any(need.option == "--speculative-tokens" for need in self.needs)

    @property
    def card_title(self) -> str:
        """The layout's name on a card."""
        return self.full_title or self.title


@dataclass(frozen=True, slots=True)
class Match:
    """How well a layout fits a folder: a score from 0 to 1, and what speaks for it.

    ``certain``: the folder says outright which layout it is in, whatever else speaks for another.
    """

    score: float
    evidence: tuple[str, ...]
    certain: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """What matches are compared by."""
        return self.certain, self.score


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user may say of a source that the source does not say, or says wrongly.

    Attributes:
        aux_layers: the layers that feed fc, numbered by ``aux_convention``: ``after`` counts from 0 the layer whose
            output is tapped, ``boundary`` counts the layers that have run (one more).
        num_target_layers: number of decoder layers of the target, from which the default aux layers follow.
        norm_output: which hidden state the next draft step receives, ``pre`` or ``post`` the head's final norm.
        norm_before_residual: whether the residual of the first layer is taken after hidden_norm.
        mask_token_id: the token a P-EAGLE head puts at positions not drafted yet.
        rope_theta: the RoPE base the head was trained with, where its config names another one or none.
        drop: names (as on disk) of tensors that are no part of the head and shall be left out.
        d2t: the offsets of a draft vocabulary whose map the source lacks or has wrong.
        allow_suspicious: read a head whose weights look random or untrained all the same.
    """

    aux_layers: tuple[int, ...] | None = None
    aux_convention: Literal["after", "boundary"] = "after"
    num_target_layers: int | None = None
    norm_output: Literal["pre", "post"] | None = None
    norm_before_residual: bool | None = None
    mask_token_id: int | None = None
    rope_theta: float | None = None
    drop: tuple[str, ...] = ()
    d2t: Sequence[int] | None = None
    allow_suspicious: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what makes no sense for any head."""
        if self.rope_theta is not None and not 0 < self.rope_theta < 1e300:
            raise UsageError(
                f"--rope-theta {self.rope_theta:g}: it must be a positive number", code="usage-rope-theta"
            )


AS_FOUND = ReadOptions()
"""Nothing is said of the source: it is read as it is."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a user may add when writing.

    Attributes:
        speculative_tokens: K to recommend in the config (speculators requires it).
        target_name: what the user calls the target, in place of what the source calls it.
    """

    speculative_tokens: int | None = None
    target_name: str | None = None


@dataclass(frozen=True, slots=True)
class Spelled:
    """A head in one layout's spelling, ready to be written.

    ``origin`` maps each tensor on disk to the canonical name it came from (None for computed buffers).
    """

    config: dict[str, Any]
    tensors: list[OutTensor]
    metadata: dict[str, str] | None
    origin: dict[str, str | None]
    assumptions: list[Assumption] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


class Layout(Protocol):
    """A codec for one trainer's layout."""

    name: str
    contract: Contract

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Whether the folder looks like this layout, from header and config alone."""

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder. Raises InputError where nothing sensible can be said of it."""

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head in this layout's spelling. Raises Refusal where something would be lost."""


LAYOUTS: dict[str, Layout] = {}
"""Every layout by its name, in the order of help and tables. `eagle3hub.layouts` enters them."""


def refuse_inexpressible(head: Head, name: str, contract: Contract) -> None:
    """Raise Refusal for the first feature of the head that the layout has no place for."""
    for feature in FEATURES:
        if feature.present(head) and feature.name not in contract.expresses:
            reason = contract.cannot.get(feature.name, f"{contract.title} has no place for it")
            raise Refusal(
                f"the head has {feature.says}, and {reason}",
                hint=partial(way_out, head, name, feature.name),
                code=f"refused-{feature.name.replace('_', '-')}",
            )


def assumed_depth(head: Head, reader: str) -> list[Assumption]:
    """That aux layers which ``reader`` is not told are its default ones, where nothing says how deep the target is."""
    if head.num_target_layers is not None or head.aux is None or not head.aux.is_default:
        return []
    layers, depth = head.aux.after_layer, head.aux.default_depth
    why = f"{reader} is told no aux layers and takes its default: {layers} only if the target has {depth} layers"
    return [Assumption("num_target_layers", depth, why, f"give --target or --num-target-layers {depth}")]


def way_out(head: Head, asked: str, feature: str | None = None, remedy: str | None = None) -> str:
    """What helps a head that layout ``asked`` refused, for a feature or a reason of its own: a remedy, other layouts.

    Only layouts are named that would take the head with all it has, with what they must be told besides. Where there
    is none, it is said what keeps the head from those that have a place for the feature. ``remedy`` stands in place of
    those that are known for the feature.
    """
    remedies = [f"{a.settle} if the source says it wrongly" for a in head.assumptions if a.field == feature]
    remedies += [remedy] if remedy else [f.remedy for f in FEATURES if f.name == feature and f.remedy]
    able: list[str] = []
    nearly: list[str] = []
    for name, layout in LAYOUTS.items():
        refusal = None if name == asked else _refusal_of(head, layout)
        asks = "" if refusal is None else _option_for(refusal, layout)
        if refusal is not None and not asks:
            nearly += [f"--to {name}: {refusal.message}"] * (feature in layout.contract.expresses)
        elif name != asked:
            able.append(f"--to {name}" + (f" (with {asks})" if asks else ""))
    if able:
        return "; ".join([*remedies, f"{' or '.join(able)} can hold it"])
    none = "no layout of this version can hold it" + (" with all the head has" if nearly else "")
    return "; ".join([*remedies, none, *nearly])


def _option_for(refusal: InputError, layout: Layout) -> str:
    """The option that a refusal asks for; empty where it means that the layout cannot hold the head."""
    return next((need.option for need in layout.contract.needs if need.code == refusal.code), "")


def _refusal_of(head: Head, layout: Layout) -> InputError | None:
    try:
        layout.write(head, WriteOptions(speculative_tokens=head.speculative_tokens or 1))
    except InputError as e:
        return e
    return None
