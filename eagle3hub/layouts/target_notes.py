"""Notes on a head beside its target: where its RoPE and its context are others than the target's."""

from __future__ import annotations

from collections.abc import Iterator

from eagle3hub.errors import Problem
from eagle3hub.head import Head
from eagle3hub.head.rope import ROPE_THETA, bound_by_context, in_words, of_whole_heads
from eagle3hub.head.target import TargetFacts


def target_notes(head: Head, target: TargetFacts) -> Iterator[Problem]:
    """Yield a note (severity ``info``) for each fact that differs; none of them is a fault.

    ``head`` as it was read, before anything of the target was filled in.
    """
    yield from _rope(head, target)
    yield from _context(head, target)


def _rope(head: Head, target: TargetFacts) -> Iterator[Problem]:
    own, theirs = head.semantics.rope, target.rope()
    if theirs is None:
        return
    base = ROPE_THETA if theirs.theta is None else theirs.theta
    if (own.theta, of_whole_heads(own.scaling or {})) == (base, theirs.scaling):
        return
    message = (
        f"the head's RoPE has {in_words(own.theta, own.scaling)}, its target's {in_words(base, theirs.scaling)}: "
        "engines rotate a draft by its own, right if it was trained so (some trainers always take base 10000)"
    )
    yield Problem("info", "target-rope", message)


def _context(head: Head, target: TargetFacts) -> Iterator[Problem]:
    own, theirs = head.max_position_embeddings, target.max_position_embeddings
    if own is None or theirs is None or own >= theirs:
        return
    scaling = head.semantics.rope.scaling
    if bound_by_context(scaling):
        how = "its RoPE scaling depends on it, so it must stay"
    elif scaling and scaling.get("rope_type") == "yarn":
        how = "vLLM 0.33 and later may serve the shorter one because of the YaRN scaling"
    else:
        how = "vLLM raises it to the target's"
    message = f"the head's context is {own} tokens, its target's {theirs}: SGLang refuses that; {how}"
    yield Problem("info", "target-context", message)
