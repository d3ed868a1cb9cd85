"""C3: words that mean several things, used for numbers that mean one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from eagle3hub.card.lint import claims
from eagle3hub.card.lint.model import Card
from eagle3hub.card.lint.registry import Found, rule

_RATE = r"accept\w*[ _-]rate"
_DEFINED = (
    r"accepted\s*/\s*(?:drafted|proposed)|of (?:the |all )?(?:drafted|draft|proposed|speculative) tokens|"
    r"drafted tokens accepted|\bmarginal|\bconditional|per[- ]position|\bmin\(1|tokens? per (?:verification )?step"
)


@rule(
    "C301",
    "error",
    "“Acceptance rate” above 1 is tokens per step",
    why="Engines and papers call the share of drafted tokens, the chance of one position and the tokens per step all "
    "“acceptance rate”. A value above 1 is the last of these, the acceptance length τ, target's own token included.",
    fix="Call it acceptance length τ (tokens emitted per verification step).",
)
def length_called_rate(card: Card) -> Iterator[Found]:
    """Tables of “rates” above 1, and sentences that define the rate as tokens per step."""
    seen: set[int] = set()
    for length in claims.lengths(card):
        if re.search(_RATE, length.header, re.I) and length.table.line not in seen:
            seen.add(length.table.line)
            values = [x.number.value for x in claims.lengths(card) if x.table is length.table]
            message = f"“{length.header}” of {min(values):.2f} to {max(values):.2f}: no rate is above 1"
            yield Found(length.table.line, message)
    per_step = r"tokens? (?:\w+ ){0,4}(?:in|per) (?:each |a |every )?(?:step|round)"
    defined = rf"{per_step}[^.]{{0,30}}\b(?:called|is the|=) {_RATE}"
    for hit in card.search(rf"{defined}|{_RATE} (?:is|means|=|\() ?(?:the )?(?:average )?(?:number of )?tokens per"):
        yield Found(hit.line, "tokens per step are called acceptance rate here")


@rule(
    "C302",
    "warning",
    "Rates by position are neither marginal nor conditional",
    why="A rate of position i among all rounds (marginal, what vLLM prints) and among the rounds that got there "
    "(conditional, the papers' n-α) give very different acceptance lengths.",
    fix="Name them: marginal (share of all rounds) or conditional (given that all tokens before were accepted).",
)
def unnamed_rates(card: Card) -> Iterator[Found]:
    """Series of rates whose kind no word around them tells."""
    for s in claims.series(card):
        if s.kind is None:
            lengths = []
            for kind in ("conditional", "marginal"):
                total, product = 1.0, 1.0
                for n in s.rates:
                    product *= n.share
                    total += n.share if kind == "marginal" else product
                lengths.append(f"{total:.2f} if {kind}")
            yield Found(s.line, f"{len(s.rates)} rates by position: τ would be {', '.join(lengths)}")


@rule(
    "C303",
    "warning",
    "“Acceptance rate” without a definition",
    why="Per drafted token, per position, per step or per request: each gives another number for the same run.",
    fix="Give the formula, for example accepted / drafted tokens, pooled over all rounds.",
)
def undefined_rate(card: Card) -> Iterator[Found]:
    """Tables and sentences with a rate that nothing on the card defines."""
    if card.says(_DEFINED):
        return
    of_positions = {s.line for s in claims.series(card)}
    for _, table, i in claims.columns(card, "rate"):
        if table.line not in of_positions and all(n.share <= 1 for _, n in table.column(i)):
            yield Found(table.line, f"“{table.header[i]}” is not defined anywhere on the card")
    number = r"(?:0?\.\d+|\d+(?:\.\d+)?\s?%)"
    for hit in card.search(rf"{_RATE}s?(?: \w+){{0,4}}[ :=~]+{number}|{number} (?:\w+ ){{0,2}}{_RATE}", tables=False):
        if hit.line not in of_positions:
            yield Found(hit.line, f"“{hit.match[0].strip()}”: of what, among what?")


@rule(
    "C304",
    "warning",
    "Training accuracy is presented as acceptance",
    why="acc_0, acc_1 … of a training log are teacher-forced agreements of the arg-max at each unrolled step, over "
    "all positions. They stand for a conditional rate at best and were not measured by an engine.",
    fix="Measure acceptance on an engine, and call these numbers training-time accuracy.",
)
def training_accuracy(card: Card) -> Iterator[Found]:
    """Series whose positions carry the names of a training log."""
    for s in claims.series(card):
        if s.is_training_accuracy and not re.search(r"accuracy|training", s.name, re.I):
            yield Found(s.line, f"acc_0 … acc_{len(s.rates) - 1} under “{s.name}”")


@rule(
    "C305",
    "warning",
    "The method's name is training-time test",
    why="EAGLE-3's TTT is training-time test: the test-time rollout is played during training. Test-time training is "
    "another method, which changes weights at inference.",
    fix="Write training-time test.",
)
def training_time_test(card: Card) -> Iterator[Found]:
    """The swapped words on a card about EAGLE-3."""
    if card.says(r"eagle"):
        for hit in card.search(r"test[- ]time[- ]training"):
            yield Found(hit.line, f"“{hit.match[0]}” is not what EAGLE-3 does")
