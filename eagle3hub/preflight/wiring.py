"""Which hidden states of the target an engine feeds to the head, against those the head was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from eagle3hub.preflight.case import Case, Finding, lookup
from eagle3hub.preflight.contracts import AuxReading, Numbering

FINAL_STATE = (-1,)
"""What an engine is told to capture to feed a head the target's final hidden state."""


def wiring_findings(case: Case) -> Iterator[Finding]:
    """Findings on aux layers: which are captured, how many, in what order, and whether that depends on the target."""
    truth = case.truth
    if not truth.uses_aux:
        if case.capture != FINAL_STATE:
            yield Finding("final-norm")
        return
    if truth.num_aux == 1 and truth.hidden_size == truth.target_hidden_size:
        yield Finding("single-feature")
    distinct = truth.boundaries is not None and len(set(truth.boundaries)) == len(truth.boundaries)
    descends = truth.boundaries is not None and distinct and any(a > b for a, b in pairwise(truth.boundaries))
    if descends and not case.contract.aux.as_listed:
        yield Finding("aux-order", {"ids": list(truth.boundaries or ())})
        return
    yield from _captured(case)


def _captured(case: Case) -> Iterator[Finding]:
    kind = case.target.model_type if case.target is not None else None
    terms = case.contract
    if case.capture is not None:
        yield from _compared(case, "what it is told", tuple(i + 1 for i in case.capture))
        return
    for key, _ in terms.aux.places:
        if lookup(case.fields, key) == [] and "aux-empty" in terms.rules:
            yield Finding("aux-empty", {"place": key})
            return
    general = _reading(case, terms.aux_by_target.get(kind or "", terms.aux))
    if general is None:
        yield from _without_target(case)
        return
    place, captured = general
    if case.target is None:
        others = [_reading(case, special) for special in terms.aux_by_target.values()]
        if any(other is None or other[1] != captured for other in others):
            yield Finding("aux-numbering", {"place": place})
            return
    yield from _compared(case, place, captured)


def _reading(case: Case, aux: AuxReading) -> tuple[str, tuple[int, ...]] | None:
    """The place that decides and the boundary ids read from it; None for the default of an unknown target."""
    layers = None if case.target is None else case.target.num_hidden_layers
    for key, numbering in aux.places:
        listed = lookup(case.fields, key)
        if isinstance(listed, list) and listed and all(type(i) is int for i in listed):
            return key, _boundaries(listed, numbering, layers)
    if layers is None:
        return None
    first, middle, last = aux.default
    return "its default", (first, layers // 2 + middle, layers + last)


def _boundaries(listed: Sequence[int], numbering: Numbering, layers: int | None) -> tuple[int, ...]:
    after = (
        numbering == "after"
        or (numbering == "after-if-first-is-1" and listed[0] == 1)
        or (numbering == "boundary-if-last-layer" and max(listed) != layers)
    )
    return tuple(i + 1 for i in listed) if after else tuple(listed)


def _without_target(case: Case) -> Iterator[Finding]:
    """The engine takes its default of a target we do not know."""
    truth = case.truth
    if truth.boundaries is None:
        if truth.num_aux == 3:
            yield Finding("aux-agree", {"place": "its default", "layers": "2, L//2, L-3 of L"})
        return
    first, middle, last = case.contract.aux.default
    layers = truth.boundaries[-1] - last
    facts = {"wanted": _shown(truth.boundaries), "after": _after(truth.boundaries)}
    if truth.boundaries == (first, layers // 2 + middle, layers + last):
        yield Finding("aux-target", {"layers": layers, **facts})
    else:
        shown = f"{first}, L//2{middle or ''}, L{last}"
        yield Finding("aux-layers", {"place": "its default", "captured": shown, "how": "", **facts})


def _compared(case: Case, place: str, captured: tuple[int, ...]) -> Iterator[Finding]:
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
            yield Finding("aux-range", {**facts, "layers": layers})
            return
    if len(taken) != truth.num_aux:
        yield Finding("aux-count", {**facts, "count": len(taken), "width": truth.num_aux})
    elif taken != wanted:
        yield Finding("aux-layers", facts)
    else:
        yield Finding("aux-agree", {"place": place, "layers": _shown(taken)})


def _reaches_last(case: Case) -> bool:
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
