"""The catalogue of questions: small heads, each of which an engine treats in one of a few ways that can be told apart.

A question is a head that is right but for one thing. What the engine computes from it is compared with what the head
was trained to compute, and with named alternatives (``instead``) that say what the engine did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from eagle3hub.probing.heads import (
    DRAFT,
    HIDDEN,
    VOCAB,
    WIDE,
    Change,
    Probed,
    adds,
    both,
    drops,
    head,
    holds,
    mapped,
    omits,
    renames,
    states,
    states_eagle,
    target_lm_head,
    trained,
    unchanged,
    weighing,
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One head to be run.

    Attributes:
        name: stable slug. base: the head that it is a change of, a key of `BASES`; if an engine is not right about
            that one, its answer means nothing.
        change: what is done to it. instead: by name, what else an engine may compute; the name completes "the engine
        …".
        asks: what the answer decides: ``rules.CODE`` of ``engines/data/common/rules.toml``, or ``terms.FIELD`` of
            `eagle3hub.engines.preflight.contracts.ContractTerms`.
        value: for a term, what the engine has of it if it is right about this head.
        target: name of the target. settings: what the engine is told beside the files.
        comparable: whether the reference can compute what the head was trained for.
    """

    name: str
    base: str
    asks: tuple[str, ...]
    change: Change = unchanged
    instead: Mapping[str, Change] = field(default_factory=dict)
    value: Any = None
    target: str = "llama"
    settings: Mapping[str, Any] = field(default_factory=dict)
    comparable: bool = True

    def made(self) -> Probed:
        """Make the head."""
        return self.change(BASES[self.base][0]())


PARALLEL = {"parallel_drafting": True}
BASES: dict[str, tuple[Callable[[], Probed], Mapping[str, Any], str]] = {
    "plain": (head, {}, "llama"),
    "full-vocabulary": (lambda: head(full=True), {}, "llama"),
    "two-layers": (lambda: head(layers=2), {}, "llama"),
    "norm-before-residual-head": (lambda: head(norm_before_residual=True), {}, "llama"),
    "norm-before-fc-head": (lambda: head(norm_before_fc=True), {}, "llama"),
    "fc-norm-head": (lambda: head(fc_norm=True), {}, "llama"),
    "post-norm-feedback-head": (lambda: head(feedback="post_norm"), {}, "llama"),
    "biased": (lambda: head(attention_bias=True), {}, "llama"),
    "qk-norms": (lambda: head(qk_norm=True), {}, "llama"),
    "own-embeddings": (lambda: head(own_embeddings=True), {}, "llama"),
    "wide-target": (lambda: head(own_embeddings=True, target_hidden=WIDE), {}, "wide"),
    "four-taps": (lambda: head(taps=(2, 5, 7, 9)), {}, "llama"),
    "one-tap": (lambda: head(taps=(6,)), {}, "llama"),
    "final-state": (lambda: head(taps=None), {}, "llama"),
    "mla-head": (lambda: head(mla=True), {}, "llama"),
    "p-eagle": (lambda: head(parallel_drafting=True), PARALLEL, "llama"),
}
"""Heads by name, each with the settings and the target that it needs. Each is also a question of its own."""

_BASE_ASKS = {
    "norm-before-residual-head": ("rules.norm-before-residual",),
    "norm-before-fc-head": ("rules.norm-before-fc",),
    "fc-norm-head": ("rules.fc-norm",),
    "post-norm-feedback-head": ("rules.feedback",),
    "qk-norms": (),
    "final-state": ("rules.final-norm",),
}
_BASE_INSTEAD: dict[str, dict[str, Change]] = {
    "norm-before-residual-head": {"adds the un-normed state": trained(norm_before_residual=False)},
    "norm-before-fc-head": {"leaves out the norm before fc": trained(norm_before_fc=False)},
    "fc-norm-head": {"leaves out the norms of the aux hidden states": trained(fc_norm=False)},
    "post-norm-feedback-head": {"feeds back the un-normed state": trained(feedback="pre_norm")},
    "two-layers": {"computes one layer": trained(num_layers=1)},
    "biased": {"drops the biases": trained(attention_bias=False)},
    "qk-norms": {"drops the q/k norms": trained(qk_norm=False)},
    "p-eagle": {"drafts one token after the other": trained(parallel_drafting=False)},
}


@cache
def questions() -> Mapping[str, Question]:
    """Return every question by its name."""
    listed = [*_bases(), *_vocabulary(), *_names(), *_norms(), *_aux()]
    named = {question.name: question for question in listed}
    assert len(named) == len(listed), "two questions have one name"
    return named


def _ask(name: str, base: str, *asks: str, change: Change = unchanged, **more: Any) -> Question:
    """Return a question with the settings and the target of its base."""
    _, settings, target = BASES[base]
    own = dict(settings) | more.pop("settings", {})
    return Question(name=name, base=base, asks=asks, change=change, settings=own, **{"target": target, **more})


def _bases() -> Iterator[Question]:
    for name in BASES:
        yield _ask(name, name, *_BASE_ASKS.get(name, ()), instead=_BASE_INSTEAD.get(name, {}))


# Vocabulary


def _vocabulary() -> Iterator[Question]:
    by_draft_id = {"takes draft ids as target ids": mapped(torch.arange(DRAFT))}
    yield _ask("no-d2t", "plain", "rules.d2t-missing", change=drops("d2t"), instead=by_draft_id)
    ids = head().truth.target_ids
    assert ids is not None
    offsets = ids - torch.arange(len(ids))
    rounded = offsets.to(torch.bfloat16)
    yield _ask(
        "d2t-of-absolute-ids", "plain", "rules.d2t-wrong", change=holds(d2t=ids),
        instead={"adds draft ids to target ids": mapped(ids + torch.arange(DRAFT))},
    )  # fmt: skip
    yield _ask(
        "d2t-in-bfloat16", "plain", "rules.d2t-float", change=holds(d2t=rounded),
        instead={"casts rounded offsets": mapped(rounded.long() + torch.arange(DRAFT))},
    )  # fmt: skip
    yield _ask("d2t-in-int32", "plain", change=holds(d2t=offsets.to(torch.int32)))
    yield _ask("no-t2d", "plain", change=drops("t2d"))
    yield _ask(
        "d2t-of-a-full-vocabulary",
        "full-vocabulary",
        "rules.d2t-with-full-vocabulary",
        change=holds(d2t=torch.zeros(VOCAB, dtype=torch.int64)),
    )
    theirs = target_lm_head()
    yield _ask(
        "no-lm-head-of-a-reduced-vocabulary",
        "plain",
        "rules.no-lm-head-reduced",
        change=drops("lm_head.weight"),
        instead={"scores with the first rows of the target's lm_head": weighing(lm_head__weight=theirs[:DRAFT])},
    )
    yield _ask("no-draft-vocab-size", "plain", "rules.no-draft-vocab-size-reduced", change=omits("draft_vocab_size"))


# Names of tensors


def _names() -> Iterator[Question]:
    for prefix in ("midlayer.", "layers.0.", "midlayer.0."):
        spelled = prefix.replace("0", "{i}")
        yield _ask(
            f"names-{spelled.replace('{i}', 'i').strip('.').replace('.', '-')}",
            "plain",
            "terms.layer_names",
            change=renames("midlayer.", prefix),
            value=spelled,
        )
    kept = ("d2t", "t2d", "lm_head.weight")
    yield _ask(
        "names-that-begin-with-model", "plain", "terms.model_prefix", "rules.model-prefix",
        change=renames("", "model.", but=kept), value=True,
    )  # fmt: skip
    yield _ask("a-tensor-nobody-knows", "plain", "rules.tensor-unknown", change=adds(extra_norm__weight=(HIDDEN,)))
    yield _ask(
        "no-hidden-norm", "plain", "rules.tensor-missing", change=drops("hidden_norm.weight"),
        instead={"norms with ones": weighing(layers__0__hidden_norm__weight=1.0)},
    )  # fmt: skip


# Norms


def _norms() -> Iterator[Question]:
    for key in ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"):
        base = {"norm_output": "post-norm-feedback-head"}.get(key, f"{key.replace('_', '-')}-head")
        yield _ask(
            f"{key.replace('_', '-')}-at-top-level",
            base,
            f"terms.norms.{key}",
            change=states_eagle(norm_before_fc=None) if key == "never" else unchanged,
            value=key,
        )


# Aux layers


def _aux() -> Iterator[Question]:
    other = (3, 7, 11)
    yield _ask(
        "ids-at-top-level", "plain", "terms.aux.places",
        change=both(_listing(None, eagle_aux_hidden_state_layer_ids=list(other)), _tapping(other)),
        value=["eagle_aux_hidden_state_layer_ids", "boundary"],
    )  # fmt: skip


def _tapping(taps: tuple[int, ...]) -> Change:
    from dataclasses import replace

    return lambda made: replace(made, taps=taps)


def _listing(nested: Mapping[str, Any] | None, **top: Any) -> Change:
    """List aux layers in these keys alone."""
    bare = both(omits("eagle_aux_hidden_state_layer_ids", "eagle_config"), states(eagle_config=dict(nested or {})))
    return both(bare, states(**top)) if nested else both(bare, omits("eagle_config"), states(**top))
