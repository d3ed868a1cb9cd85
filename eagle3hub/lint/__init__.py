"""Lint the model card of a draft head: one of ours or anybody else's.

`parse_card` turns the text into a `Card`. Each rule is a small function of the card, registered with its code,
severity and explanation. A rule never fails, and it reports nothing that the card alone cannot decide.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eagle3hub.lint import citations, conditions, content, figures, frontmatter, recipes, served
from eagle3hub.lint.model import RULES, Card, Finding, Rule, run_rule
from eagle3hub.lint.parse import parse_card

if TYPE_CHECKING:
    from eagle3hub.card.served import Served

__all__ = ["MODULES", "RULES", "Finding", "Rule", "lint_card", "lint_text"]

MODULES = (citations, conditions, content, figures, frontmatter, recipes, served)
"""The modules that register rules."""


def lint_text(
    text: str,
    name: str = "README.md",
    files: Collection[str] | None = None,
    *,
    folders: Sequence[Served] = (),
    repo: str | None = None,
) -> list[Finding]:
    """Return every finding in a card's text, sorted by line and code.

    Args:
        name: the name of the file in messages.
        files: the paths in the card's repository; None if they are not known, and then links are not checked.
        folders: the heads that lie beside the card, opened. Commands that serve them are checked with the
            preflight.
        repo: the id of the repository that holds these heads; None if it is not known.
    """
    return lint_card(replace(parse_card(text, name, files), served=tuple(folders), repo=repo))


def lint_card(card: Card) -> list[Finding]:
    """Return every finding in a card that is parsed already, sorted by line and code."""
    found = [finding for rule in RULES.values() for finding in run_rule(rule, card)]
    return sorted(found, key=lambda f: (f.line, f.code, f.message))
