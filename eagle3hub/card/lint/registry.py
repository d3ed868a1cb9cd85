"""Rules and what they find. A rule is a function of the card, registered with everything its documentation says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from eagle3hub.card.lint.model import Card
from eagle3hub.errors import Severity

FAMILIES = {
    "C0": "The file",
    "C1": "Citations",
    "C2": "Numbers",
    "C3": "Words",
    "C4": "Conditions of a measurement",
    "C5": "Recipes",
    "C6": "License and metadata",
    "C7": "Links and content",
    "C8": "Claims and data sets",
}
"""Title of each family, by the first two characters of its codes."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule yields: where, what, and a fix or a severity where they differ from the rule's own."""

    line: int
    message: str
    fix: str | None = None
    severity: Severity | None = None


Check = Callable[[Card], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable code, how bad a finding is, and what its documentation says."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    check: Check

    @property
    def family(self) -> str:
        """Title of the family the code belongs to."""
        return FAMILIES[self.code[:2]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``message`` says what is wrong here, ``why`` why it matters, ``fix`` what to do."""

    code: str
    severity: Severity
    line: int
    message: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """The finding as an entry of ``findings`` in ``card --check --json``."""
        return asdict(self)


RULES: dict[str, Rule] = {}
"""Every rule by its code. A code is never given to another rule."""


def rule(code: str, severity: Severity, title: str, *, why: str, fix: str) -> Callable[[Check], Check]:
    """Register a function as a rule. Raises ValueError for a code that is taken or of no family."""

    def register(check: Check) -> Check:
        if code in RULES or code[:2] not in FAMILIES or len(code) != 4:
            raise ValueError(f"{code} is taken, or is no code of a known family")
        RULES[code] = Rule(code, severity, title, why, fix, check)
        return check

    return register


def run(rule: Rule, card: Card) -> Iterable[Finding]:
    """What one rule finds in a card."""
    for found in rule.check(card):
        yield Finding(
            rule.code, found.severity or rule.severity, found.line, found.message, rule.why, found.fix or rule.fix
        )
