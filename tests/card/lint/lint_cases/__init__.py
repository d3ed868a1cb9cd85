"""Own minimal cards, two for each rule: one it must find something in, one it must be silent on."""

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
    """``bad`` must give a finding of ``code`` on the line that holds ``at``, saying ``says``; ``good`` none of it."""

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
