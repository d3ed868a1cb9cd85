"""The record of an edit, and helpers that edits share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eagle3hub.head import Head
from eagle3hub.head.vocab import VocabMap

ON_COMMAND_LINE = "given on the command line"
"""The evidence for what a user states."""


@dataclass(frozen=True, slots=True)
class Change:
    """The record of one edit or override, which makes the result differ from the source.

    Attributes:
        name: the option, in the form ``option`` or ``option:value``.
        what: one sentence that says what was done.
        evidence: what proves it right, or where it was stated.
        tensors: the tensors it touches, by their name in the source (canonical where they are new).
        lossless: whether every number survives (true for rows in another order, false for a narrower dtype).
    """

    name: str
    what: str
    evidence: str
    tensors: list[str] = field(default_factory=list)
    lossless: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the change as an entry of ``repairs`` in the provenance file and in ``--json`` output."""
        return {
            "name": self.name,
            "what": self.what,
            "evidence": self.evidence,
            "tensors": self.tensors,
            "lossless": self.lossless,
        }


def with_map(head: Head, vocab: VocabMap | None) -> Head:
    """Return the head with another vocabulary map, without the problems of the old one.

    ``vocab`` is None for the full vocabulary.
    """
    problems = [p for p in head.problems if not p.code.startswith("vocab-")]
    return replace(head, vocab_map=vocab, vocab_status="full" if vocab is None else "ok", problems=problems)


def edited_configs(head: Head, edit: Mapping[str, Callable[[Any], Any]]) -> Head:
    """Return the head with fields edited in its own config and in those of earlier layouts, at any depth.

    Codecs write an earlier config back unchanged, so an edit must change the fact there too. Missing and null fields
    stay as they are.
    """
    carried = {name: replace(c, config=_edited(c.config, edit)) for name, c in head.carried.items()}
    return replace(head, config=_edited(head.config, edit), carried=carried)


def _edited(config: Mapping[str, object], edit: Mapping[str, Callable[[Any], Any]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in config.items():
        if key in edit and value is not None:
            out[key] = edit[key](value)
        else:
            out[key] = _edited(value, edit) if isinstance(value, dict) else value
    return out
