"""Verdicts of a preflight, and the reasons they rest on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Effect = Literal["right", "unknown", "silently_wrong", "refuses"]
EFFECTS: tuple[Effect, ...] = ("right", "unknown", "silently_wrong", "refuses")
"""From best to worst; a head that is refused does no silent harm, so a refusal outweighs the rest."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing an engine does with a head.

    Attributes:
        code: stable slug (``aux-layers``). effect: what it leads to.
        sentence: what happens; the engine is its subject.
        source: where in the engine (a file of the named version) this was read, or how it was executed.
        hint: what would mend it, or None.
    """

    code: str
    effect: Effect
    sentence: str
    source: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one engine version will do with a head.

    ``kind``: ``right`` (loads, and computes what the head was trained to), ``silently_wrong`` (loads and serves, but
    not that: acceptance suffers), ``refuses`` (stops at start-up or at the first request), ``unknown`` (it depends on
    something not at hand). Reasons come worst first.
    """

    engine: str
    version: str
    title: str
    kind: Effect
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """The verdict as an entry of ``engines`` in ``--json`` output."""
        return {
            "engine": self.engine,
            "version": self.version,
            "title": self.title,
            "verdict": self.kind,
            "reasons": [r.to_json() for r in self.reasons],
        }


def weigh(engine: str, version: str, title: str, reasons: Iterable[Reason]) -> Verdict:
    """The verdict that follows from ``reasons``: the worst effect decides."""
    ordered = sorted(reasons, key=lambda r: -EFFECTS.index(r.effect))
    return Verdict(engine, version, title, ordered[0].effect if ordered else "right", tuple(ordered))
