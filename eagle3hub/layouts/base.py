"""What every codec shares: the features a head may have, the contract of a layout, refusals and their alternatives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Protocol

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.errors import Hint, InputError, Refusal, UsageError
from eagle3hub.head import Assumption, Head
from eagle3hub.head.quantization import inputs_of

# Features: what a head may have that not every layout can hold.


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a head may have that not every layout can hold.

    Attributes:
        title: heads its row in a table. says: names it in the middle of a sentence.
        present: tells whether a head has it. remedy: the option that removes it, if there is one.
        kept_at_home: whether every layout keeps it in a head that is in this layout already.
    """

    name: str
    title: str
    says: str
    present: Callable[[Head], bool]
    remedy: str | None = None
    kept_at_home: bool = False


_RESORT = Hint("--resort-vocab puts the rows of lm_head and the map into ascending order", "--resort-vocab")

FEATURES: tuple[Feature, ...] = (
    Feature(
        "mla",
        "MLA attention",
        "multi-head latent attention (MLA: kv_a_proj_with_mqa, kv_b_proj)",
        lambda h: h.semantics.attention == "mla",
    ),
    Feature(
        "quantization",
        "quantized weights of another layout",
        "quantized weights (packed values with scales)",
        lambda h: h.semantics.quantization is not None,
        kept_at_home=True,
    ),
    Feature(
        "no_aux",
        "final hidden state instead of aux layers",
        "use_aux_hidden_state: false (it reads the target's final, normed hidden state; no fc)",
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
        Hint(
            "give --target a folder with the target's weights: embeddings that equal the target's are then left out; "
            "--drop-embeddings leaves them out where they are the target's",
            "--drop-embeddings",
        ),
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
        "no_lm_head",
        "no lm_head of its own",
        "no lm_head.weight: it takes the target's",
        lambda h: "lm_head.weight" not in h.tensors,
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
    if not head.semantics.uses_aux:
        return 1
    inputs = inputs_of(head, "fc")
    if inputs is None:
        return len(head.aux) if head.aux is not None else 3
    return inputs // head.dims.target_hidden_size


# Codecs and their contracts.
#
# A codec turns a folder into a `Head` and a `Head` into the files of a folder. What it cannot express is data
# (`Contract`): refusals and documentation come from one place, and no pair of layouts needs code of its own.


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
        tensor_prefix: what is written today in place of ``layers.0.``.
        forms: names of tensors that are read: ``layers`` (``layers.{i}.``), ``midlayer`` (one layer), ``midlayers``
            (``midlayer.{i}.``), ``research`` (no prefix at all).
        expresses: names of the `FEATURES` it has a place for.
        vocab_dtype: dtype it stores d2t in. has_t2d: whether it stores the mask. identity_map: whether a head over
            the full vocabulary carries an identity map (zero offsets, all-true mask).
        metadata: what its writer puts into the safetensors header.
        aux_ids: where it writes aux layer ids, in words, or None.
        single_file: whether its own reader opens one weights file and knows no index.
        trainer_sorts: whether its own trainer keeps the rows of lm_head in ascending order of token ids.
        needs: what must be given by hand where the source does not say it.
        cannot: the reason for not holding a feature, where it is more than "has no place for it".
        held_for: features that it holds only in a folder made for some engines, with those engines.
        reads: producers and versions whose folders are read. writes: the version whose folders are written.
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
    held_for: Mapping[str, frozenset[str]] = field(default_factory=dict)
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

    def for_engines(self, engines: Collection[str]) -> Contract:
        """The contract of a folder that only these engines have to serve; none named means every engine it is for."""
        asked = frozenset(engines) or frozenset(self.engines)
        more = {feature for feature, able in self.held_for.items() if asked <= able}
        kept = {feature: why for feature, why in self.cannot.items() if feature not in more}
        return replace(self, expresses=self.expresses | more, cannot=kept)

    @property
    def card_title(self) -> str:
        """The layout's name on a card."""
        return self.full_title or self.title


@dataclass(frozen=True, slots=True)
class Match:
    """How well a layout fits a folder: a score from 0 to 1, and the evidence.

    ``certain``: the folder names its layout, which outweighs every other sign.
    """

    score: float
    evidence: tuple[str, ...]
    certain: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """The key that matches are compared by."""
        return self.certain, self.score


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Overrides: facts a user states about a source that lacks them or has them wrong.

    Attributes:
        aux_layers: the layers that feed fc, numbered by ``aux_convention``: ``after`` counts from 0 the layer whose
            output is tapped, ``boundary`` counts the layers that have run (one more).
        num_target_layers: number of decoder layers of the target, from which the default aux layers follow.
        norm_output: which hidden state the next draft step receives, ``pre`` or ``post`` the head's final norm.
        norm_before_residual: whether the residual of the first layer is taken after hidden_norm.
        mask_token_id: the token a P-EAGLE head puts at positions not drafted yet.
        rope_theta: the RoPE base the head was trained with, where its config names another one or none.
        drop: names (as on disk) of tensors to leave out because they are no part of the head.
        d2t: the offsets of a draft vocabulary whose map the source lacks or has wrong.
        allow_suspicious: read a head even if its weights look random or untrained.
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
                f"--rope-theta {self.rope_theta:.15g}: it must be a positive number", code="usage-rope-theta"
            )


AS_FOUND = ReadOptions()
"""No overrides: the source is read as it is."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a user may add when writing.

    Attributes:
        speculative_tokens: K to recommend in the config (speculators requires it).
        target_name: the user's name for the target, which replaces the source's.
    """

    speculative_tokens: int | None = None
    target_name: str | None = None


@dataclass(frozen=True, slots=True)
class LayoutFiles:
    """The files of a head in one layout, ready to be written.

    Attributes:
        config: of config.json. tensors, metadata: of the weights.
        origin: for each tensor on disk the canonical name it came from (None for computed buffers).
        assumptions, notes: what a user should know of these files.
        side_files: small files besides config and weights, by name.
    """

    config: dict[str, object]
    tensors: list[OutTensor]
    metadata: dict[str, str] | None
    origin: dict[str, str | None]
    assumptions: list[Assumption] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    side_files: dict[str, bytes] = field(default_factory=dict)


class Reader(Protocol):
    """A codec that reads one layout; ``inert``: keys of a config that its trainer ignores."""

    name: str
    contract: Contract
    inert: frozenset[str]

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Whether the folder looks like this layout, from header and config alone."""

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in a `prepared` checkpoint. Raises InputError where the folder cannot be read as one."""


class Layout(Reader, Protocol):
    """A codec for one trainer's layout, which reads and writes it."""

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The files of the head in this layout. Raises Refusal where something would be lost."""


UNKNOWN_TRAINER = "flat"
"""The name of the layout of flat folders that no sign of a trainer is in."""

LAYOUTS: dict[str, Layout] = {}
"""Every layout that is written, by its name, in the order of help and tables. `eagle3hub.layouts` enters them."""

READERS: dict[str, Reader] = {}
"""Every layout that is read: those of `LAYOUTS`, and those that are read only. `eagle3hub.layouts` enters them."""


def refuse_inexpressible(head: Head, name: str, contract: Contract) -> None:
    """Raise Refusal for the first feature of the head that the layout has no place for."""
    for feature in FEATURES:
        at_home = feature.kept_at_home and head.layout == name
        if feature.present(head) and feature.name not in contract.expresses and not at_home:
            reason = contract.cannot.get(feature.name, f"{contract.title} has no place for it")
            raise Refusal(
                f"the head has {feature.says}, and {reason}",
                hint=partial(alternatives, head, name, feature.name),
                code=f"refused-{feature.name.replace('_', '-')}",
            )


def assumed_depth(head: Head, reader: str) -> list[Assumption]:
    """The assumption that a reader's default aux layers are the head's, where the target's depth is unknown.

    ``reader``: the program that gets no list of layers and takes its default.
    """
    if head.num_target_layers is not None or head.aux is None or not head.aux.is_default:
        return []
    layers, depth = head.aux.after_layer, head.aux.default_depth
    why = f"{reader} is told no aux layers and takes its default: {layers} only if the target has {depth} layers"
    return [
        Assumption(
            "num_target_layers",
            depth,
            why,
            Hint(f"give --target or --num-target-layers {depth}", "--num-target-layers"),
        )
    ]


def alternatives(head: Head, asked: str, feature: str | None = None, remedy: str | None = None) -> str:
    """The hint of a refusal: remedies, and the layouts that can hold the head.

    A layout is named only if it takes the head with everything it has; options that it needs are added, and of a
    folder that no engine serves it is said so. If there is none, those are named that take it without embeddings of
    its own; if there is none of these either, the hint says why each layout that has a place for the feature refuses
    the head.

    Args:
        asked: the layout that refused the head. feature: the reason, if it is one of `FEATURES`.
        remedy: another remedy to name first.
    """
    remedies: list[str] = [
        Hint.join([a.settle, "if the source says it wrongly"], " ") for a in head.assumptions if a.field == feature
    ]
    remedies += [remedy] if remedy else [f.remedy for f in FEATURES if f.name == feature and f.remedy]
    ways = _ways(head, asked, feature)
    if ways.served or ways.unserved:
        return Hint.join([*remedies, *_said(ways)])
    without = _ways_without_embeddings(head, feature)
    if without.served or without.unserved:
        dropped = Hint("without its own embeddings (--drop-embeddings)", "--drop-embeddings")
        first, *more = _said(without)
        return Hint.join([*remedies, Hint.join([dropped, first], " "), *more])
    none = "no layout of this version can hold it" + (" with all the head has" if ways.refused else "")
    return Hint.join([*remedies, none, *ways.refused])


@dataclass(frozen=True, slots=True)
class _Ways:
    """Layouts that take a head, ready to be typed, and why others do not.

    ``served``: those whose folder some engine may serve. ``unserved``: the others. ``refused``: what each layout that
    has a place for the reason of the refusal says instead.
    """

    served: list[str] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def _said(ways: _Ways) -> list[str]:
    said: list[str] = [Hint.join([_or(ways.served), "can hold it"], " ")] if ways.served else []
    if ways.unserved:
        too = " too" if said else ""
        said.append(Hint.join([_or(ways.unserved), f"can hold it{too}, but no engine known here serves that"], " "))
    return said


def _or(ways: Sequence[str]) -> str:
    return Hint.join([Hint.join(ways[:-1], ", "), ways[-1]], " or ") if len(ways) > 1 else ways[0]


def _ways_without_embeddings(head: Head, feature: str | None) -> _Ways:
    """The layouts that take the head without its own embeddings; none where it has none, or needs them."""
    name, d = "embed_tokens.weight", head.dims
    own = head.opened is not None and name in head.tensors and head.tensors[name] in head.opened.tensors.values()
    if not own or d.hidden_size != d.target_hidden_size:
        return _Ways()
    return _ways(replace(head, tensors={k: ref for k, ref in head.tensors.items() if k != name}), "", feature)


def _ways(head: Head, asked: str, feature: str | None) -> _Ways:
    """The layouts that take the head, but for ``asked``, and why those with a place for the feature refuse it."""
    ways = _Ways()
    for name, layout in LAYOUTS.items():
        if name != asked:
            try:
                tried = _trials[0](head, layout)
            except InputError as refusal:
                ways.refused.extend([f"--to {name}: {refusal.message}"] * (feature in layout.contract.expresses))
            else:
                made = f" --engines {','.join(head.made_for)}" if layout.contract.held_for and head.made_for else ""
                asks = " and ".join(tried.asks)
                way = Hint(f"--to {name}{made} (with {asks})", *tried.asks) if asks else f"--to {name}{made}"
                (ways.served if tried.served else ways.unserved).append(way)
                continue
        ways.served.extend(_for_some_engines(head, name, layout))
    return ways


def _for_some_engines(head: Head, name: str, layout: Layout) -> list[str]:
    """The layout with the engines that it can hold the head for, if these are some but not all that it is for."""
    engines = [e for e in layout.contract.engines if not head.made_for or e in head.made_for]
    if not layout.contract.held_for or len(engines) < 2:
        return []
    able = [e for e in engines if _takes(replace(head, made_for=(e,)), layout)]
    if not able or len(able) == len(engines) or not _takes(replace(head, made_for=tuple(able)), layout):
        return []
    return [Hint(f"--to {name} --engines {','.join(able)}", "--engines")]


def option_for(refusal: InputError, layout: Layout) -> str:
    """The option that a refusal asks for; empty where it means that the layout cannot hold the head."""
    return next((need.option for need in layout.contract.needs if need.code == refusal.code), "")


@dataclass(frozen=True, slots=True)
class Tried:
    """A conversion that was tried, and that a layout takes.

    ``asks``: the options that it needs besides. ``served``: whether some engine may serve the folder.
    """

    asks: tuple[str, ...] = ()
    served: bool = True


Trial = Callable[[Head, Layout], Tried]
"""Tries a conversion without writing a file. Raises the InputError that the conversion would end with."""


def _by_codec(head: Head, layout: Layout) -> Tried:
    try:
        layout.write(head, WriteOptions(speculative_tokens=head.speculative_tokens or 1))
    except InputError as e:
        if not (asked := option_for(e, layout)):
            raise
        return Tried((asked,))
    return Tried()


_trials: list[Trial] = [_by_codec]


def try_by(trial: Trial) -> None:
    """Try what a hint names by ``trial``, which knows more of a conversion than the codecs do."""
    _trials[:] = [trial]


def _takes(head: Head, layout: Layout) -> bool:
    """Whether the layout takes the head as it is, without further options."""
    try:
        return not _trials[0](head, layout).asks
    except InputError:
        return False
