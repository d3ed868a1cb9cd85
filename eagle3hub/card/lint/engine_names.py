"""C510: flags, variables, keys and names in examples, held against the engines by `eagle3hub.engines.check`.

The one place where the linter meets the engines' data. The rule is registered only where that module exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from eagle3hub.card.lint.model import Card
from eagle3hub.card.lint.registry import Found, rule

_CHECKS = "eagle3hub.engines.check"
_SAID = {
    "trtllm-final-state": r"(?:final|last)\b[^.]{0,40}\bhidden state|hidden state[^.]{0,60}\b(?:final|last)\b",
    "sglang-jax-version": r"sglang-jax 0\.[1-9]",
}
"""Findings that a card settles by saying so, and how it says it."""


def engine_names(card: Card) -> Iterator[Found]:
    """What `check_markdown` finds in the card's examples, the metadata block left blank: line, severity, remedy."""
    above = "\n" * (card.text.count("\n") - card.body.count("\n"))
    findings: list[Any] = import_module(_CHECKS).check_markdown(above + card.body)
    for f in findings:
        said = f.code in _SAID and card.says(_SAID[f.code])
        yield Found(f.line, f"{f.what.rstrip('.')} ({f.engine}: {f.code})", f.instead, "info" if said else f.severity)


if find_spec(_CHECKS) is not None:
    rule(
        "C510",
        "error",
        "The engine does not take this as written",
        why="Flags are renamed and removed, and names that never existed are copied from card to card; the example "
        "fails, or starts and does something else.",
        fix="Write what the engine's current version takes.",
    )(engine_names)
