"""What a layout codec is, and what a layout can express.

A codec turns a folder into a `Head` and a `Head` into the files of a folder. What it cannot express is data
(`Contract`), so that refusals and documentation come from one place and a pair of layouts needs no code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.errors import Refusal
from eagle3hub.head import Assumption, Head


@dataclass(frozen=True, slots=True)
class Feature:
    """Something a head may have that not every layout can hold.

    ``present`` tells whether a head has it; ``says`` names it in the middle of a sentence.
    """

    name: str
    says: str
    present: Callable[[Head], bool]


FEATURES: tuple[Feature, ...] = (
    Feature("norm_before_residual", "norm_before_residual: true", lambda h: h.semantics.norm_before_residual),
    Feature("norm_before_fc", "norm_before_fc: true (input_norm.weight)", lambda h: h.semantics.norm_before_fc),
    Feature("fc_norm", "fc_norm: true (one norm per aux hidden state)", lambda h: h.semantics.fc_norm),
    Feature("post_norm_feedback", "post-norm feedback (norm_output)", lambda h: h.semantics.feedback == "post_norm"),
    Feature("sliding_window", "a sliding attention window", lambda h: h.semantics.sliding_window is not None),
    Feature("hidden_act", "an activation other than silu", lambda h: h.semantics.hidden_act != "silu"),
    Feature("rope_scaling", "RoPE scaling", lambda h: h.semantics.rope.scaling is not None),
    Feature("embed_tokens", "its own embed_tokens.weight", lambda h: "embed_tokens.weight" in h.tensors),
    Feature(
        "target_width",
        "a target of another hidden size",
        lambda h: h.dims.hidden_size != h.dims.target_hidden_size,
    ),
    Feature(
        "aux_ids", "aux layers other than the default triple", lambda h: h.aux is not None and not h.aux.is_default
    ),
    Feature("aux_count", "a number of aux hidden states other than 3", lambda h: aux_count(h) != 3),
    Feature("full_vocabulary", "the target's full vocabulary", lambda h: h.dims.draft_vocab_size == h.dims.vocab_size),
    Feature(
        "unsorted_vocabulary",
        "a draft vocabulary that is not in ascending order of target ids",
        lambda h: h.vocab_map is not None and not h.vocab_map.is_sorted,
    ),
)


@dataclass(frozen=True, slots=True)
class Contract:
    """What one layout can express.

    Attributes:
        title: how the layout is called in text.
        tensor_prefix: spelling of ``layers.0.`` on disk.
        expresses: names of the `FEATURES` it has a place for.
        vocab_dtype: dtype it stores d2t in. has_t2d: whether it stores the mask. identity_map: whether a head over
            the full vocabulary carries an identity map (zero offsets, all-true mask).
        metadata: what its writer puts into the safetensors header.
        aux_ids: where it writes aux layer ids, in words, or None.
        needs: what must be given by hand, option by option, in words.
        cannot: reason by feature, where there is more to say than "has no place for it".
    """

    title: str
    tensor_prefix: str
    expresses: frozenset[str]
    vocab_dtype: str
    has_t2d: bool
    identity_map: bool
    metadata: Mapping[str, str] | None
    aux_ids: str | None
    needs: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """How well a layout fits a folder: a score from 0 to 1, and what speaks for it."""

    score: float
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user may say of a source that the source does not say, or says wrongly.

    Attributes:
        aux_layers: the layers that feed fc, numbered by ``aux_convention``: ``after`` counts from 0 the layer whose
            output is tapped, ``boundary`` counts the layers that have run (one more).
        num_target_layers: number of decoder layers of the target, from which the default aux layers follow.
        norm_output: which hidden state the next draft step receives, ``pre`` or ``post`` the head's final norm.
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
    mask_token_id: int | None = None
    rope_theta: float | None = None
    drop: tuple[str, ...] = ()
    d2t: Sequence[int] | None = None
    allow_suspicious: bool = False


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a user may add when writing.

    Attributes:
        speculative_tokens: K to recommend in the config (speculators requires it).
    """

    speculative_tokens: int | None = None


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


class Layout(Protocol):
    """A codec for one trainer's layout."""

    name: str
    contract: Contract

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Whether the folder looks like this layout, from header and config alone."""

    def read(self, checkpoint: Checkpoint, options: ReadOptions = ReadOptions()) -> Head:
        """The head in the folder. Raises InputError where nothing sensible can be said of it."""

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head in this layout's spelling. Raises Refusal where something would be lost."""


def aux_count(head: Head) -> int:
    """How many aux hidden states feed fc, read off its width."""
    return head.tensors["fc.weight"].shape[1] // head.dims.target_hidden_size


def refuse_inexpressible(head: Head, name: str, contract: Contract) -> None:
    """Raise Refusal for the first feature of the head that the layout has no place for."""
    for feature in FEATURES:
        if feature.present(head) and feature.name not in contract.expresses:
            reason = contract.cannot.get(feature.name, f"{contract.title} has no place for it")
            raise Refusal(
                f"the head has {feature.says}, and {reason}",
                hint=_who_can(feature.name, name),
                code=f"refused-{feature.name.replace('_', '-')}",
            )


def _who_can(feature: str, asked: str) -> str:
    from eagle3hub.layouts import LAYOUTS

    able = [n for n, layout in LAYOUTS.items() if feature in layout.contract.expresses and n != asked]
    return f"--to {' or --to '.join(able)} can hold it" if able else "no layout of this version can hold it"
