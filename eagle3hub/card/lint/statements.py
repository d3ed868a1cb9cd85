"""C8: claims without support, and data sets that are not what the card says."""

from __future__ import annotations

import re
from collections.abc import Iterator

from eagle3hub.card.lint import claims
from eagle3hub.card.lint.model import Card
from eagle3hub.card.lint.registry import Found, rule

_FACTOR = r"(?P<{0}>\d+(?:\.\d+)?(?:\s*(?:-|–|to)\s*\d+(?:\.\d+)?)?\s?[x×])(?!\w)"
_SPEED = (
    rf"{_FACTOR.format('a')}(?:[^.|,;]|\.\d){{0,50}}?\b(?:speed|throughput|faster|accelerat\w+|latency|inference)"
    rf"|\b(?:speed\w*|throughput|faster|accelerat\w+)(?:[^.|,;]|\.\d){{0,50}}?{_FACTOR.format('b')}"
)
_BASELINE = (
    r"baseline|vanilla|auto-?regressive|without (?:a |the )?(?:draft|specul|eagle)|no[- ]spec|\bAR\b|w/o|target alone"
)
_SIZES = {
    r"MT[- ]?Bench": (160, "80 questions of two turns"),
    r"HumanEval": (164, "164 problems"),
    r"MATH[- ]?500": (500, "500 problems"),
    r"GSM8K": (8792, "8,792 problems, 1,319 of them for testing"),
    r"Spec[- ]?Bench": (480, "480 questions"),
    r"MMStar": (1500, "1,500 questions"),
    r"C[- ]?Eval": (13948, "13,948 questions"),
}


@rule(
    "C801",
    "warning",
    "Speed-up without a measurement",
    why="A factor without table, engine, batch and baseline is advertising; other people's factors belong to their "
    "heads, targets and machines.",
    fix="Show throughput with and without the head, with its conditions, or leave the factor out.",
)
def unsupported(card: Card) -> Iterator[Found]:
    """Factors on a card that has no throughput table, or none with a baseline."""
    tables = [t for wanted in ("throughput", "speedup") for _, t, _ in claims.columns(card, wanted)]
    if any(re.search(_BASELINE, t.text, re.I) for t in tables) or (tables and card.says(_BASELINE)):
        return
    for hit in card.search(_SPEED, tables=False):
        factor = hit.match["a"] or hit.match["b"]
        end = "no table has a baseline" if tables else "the card has no measurement of speed"
        yield Found(hit.line, f"“{factor}”: {end}")


@rule(
    "C802",
    "error",
    "MT-Bench's judgments are taken for its questions",
    why="Acceptance is measured on MT-Bench's 80 questions of two turns. The 3,300 expert votes are another data set: "
    "people's judgments of models' answers.",
    fix="Write: MT-Bench, 80 questions of two turns in 8 categories.",
)
def judgments(card: Card) -> Iterator[Found]:
    """Votes, judgments or 3,300 sequences on a card about MT-Bench."""
    if card.says(r"MT[- ]?Bench"):
        votes = r"(?:expert|human)(?: \w+)? (?:preference )?(?:votes|judg\w+|annotations)|preference votes"
        for hit in card.search(rf"\b3[,.]?3(?:00|K)\b[^.]{{0,100}}|{votes}"):
            if re.search(rf"{votes}|sequence|dialog|conversation", hit.match[0], re.I):
                yield Found(hit.line, f"“{hit.match[0].strip()}” describes MT-Bench's human judgments")


@rule(
    "C803",
    "error",
    "More items than the data set has",
    why="The number of prompts cannot be more than there are, so something else was measured.",
    fix="Name the set that was used, its split and the number of prompts.",
)
def too_many(card: Card) -> Iterator[Found]:
    """Numbers of items right beside a data set's name that exceed its size."""
    items = r"(?:prompts|questions|problems|samples|examples|conversations|dialogues|sequences|tasks)"
    for name, (size, what) in _SIZES.items():
        number = r"(?P<{0}>\d[\d,]*)"
        beside = rf"{name}\W{{1,3}}(?:\w+ )?{number.format('a')} (?:\w+ )?{items}|{number.format('b')} {name} {items}"
        for hit in card.search(beside, outside=claims.TRAINING):
            if int((hit.match["a"] or hit.match["b"]).replace(",", "")) > size:
                yield Found(hit.line, f"“{hit.match[0]}”: the set has {what}")


@rule(
    "C804",
    "warning",
    "Modalities contradict each other",
    why="A text-only head advertised as image-to-text fails on the first picture.",
    fix="Name the modalities the head was trained and measured with.",
)
def modality(card: Card) -> Iterator[Found]:
    """Text input in one place, image-to-text in another."""
    if card.says(r"\binput (?:type|modalit)\w*(?:\(s\))?\W+text\b(?!\W{0,3}(?:and |\+ |/ ?)?image)"):
        for hit in card.search(r"image[- ](?:text[- ])?to[- ]text"):
            yield Found(hit.line, f"“{hit.match[0]}”, but the input is text")
