"""A linter for model cards of draft heads: anybody's, ours included.

A card is parsed into a `Card`; every rule is a small function of it, registered with its code, severity and
explanation. Rules never fail and never guess aloud: what cannot be decided from the card is not reported.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from eagle3hub.lint import citations, conditions, content, figures, frontmatter, recipes, served
from eagle3hub.lint.model import RULES, Finding, Rule, run_rule
from eagle3hub.lint.parse import parse_card

if TYPE_CHECKING:
    from eagle3hub.card.served import Served

__all__ = ["MODULES", "RULES", "Finding", "Rule", "lint_card"]

MODULES = (citations, conditions, content, figures, frontmatter, recipes, served)
"""The modules that register rules."""


def lint_card(
    text: str,
    name: str = "README.md",
    files: Collection[str] | None = None,
    *,
    folders: Sequence[Served] = (),
    repo: str | None = None,
) -> list[Finding]:
    """Every finding in a card's text, by line and code.

    Args:
        name: what messages call the file.
        files: paths in the card's repository; None: not known, links are not checked.
        folders: the heads beside the card, opened; commands that serve them are held against the preflight.
        repo: id of the repository that they are of; None: not known.
    """
    card = replace(parse_card(text, name, files), served=tuple(folders), repo=repo)
    found = [finding for rule in RULES.values() for finding in run_rule(rule, card)]
    return sorted(found, key=lambda f: (f.line, f.code, f.message))
