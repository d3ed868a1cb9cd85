"""Small cards, two for each rule: one with the fault that it must find, one without."""

from __future__ import annotations

from dataclasses import dataclass, field

from eagle3hub.card.served import Served

FRONT = """\
---
base_model: owner/target
license: apache-2.0
language: [en]
pipeline_tag: text-generation
tags: [eagle3, speculative-decoding]
---
"""


@dataclass(frozen=True)
class Case:
    """``bad`` must give a finding of ``code`` that says ``says``, on the line with ``at``; ``good`` must give none."""

    code: str
    bad: str
    at: str
    good: str
    says: str = ""
    front: str = FRONT
    good_front: str = ""
    files: frozenset[str] | None = None
    severity: str = ""
    served: tuple[Served, ...] = ()
    name: str = field(default="", kw_only=True)

    @property
    def bad_text(self) -> str:
        return self.front + self.bad

    @property
    def good_text(self) -> str:
        return (self.good_front or self.front) + self.good
