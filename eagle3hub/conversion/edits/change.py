"""The record of an edit, and helpers that edits share."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eagle3hub.head import Head
from eagle3hub.head.vocab import VocabMap, order_fault
from eagle3hub.layouts import get_reader
from eagle3hub.layouts.tensors import BUFFERS, read_integers, read_mask

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


def with_ordered_map(head: Head, vocab: VocabMap | None) -> Head:
    """Return `with_map`, with a problem if the map is not in the order that its layout's trainer keeps."""
    head = with_map(head, vocab)
    if vocab is None or not get_reader(head.layout).contract.sorted_rows:
        return head
    fault = order_fault(vocab, sorted_rows=True, trainer_sorts=True)
    if fault is None:
        return head
    return replace(head, vocab_status=fault.code.removeprefix("vocab-"), problems=[*head.problems, fault])


def edited_configs(head: Head, edit: Mapping[str, Callable[[Any], Any]]) -> Head:
    """Return the head with fields edited in its own config and in those of earlier layouts, at any depth.

    Codecs write an earlier config back unchanged, so an edit must change the fact there too. Missing and null fields
    stay as they are.
    """
    carried = {name: replace(c, config=_edited(c.config, edit)) for name, c in head.carried.items()}
    return replace(head, config=_edited(head.config, edit), carried=carried)


def _edited(config: Mapping[str, Any], edit: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        if key in edit and value is not None:
            out[key] = edit[key](value)
        else:
            out[key] = _edited(value, edit) if isinstance(value, dict) else value
    return out


def raw_buffers(head: Head) -> tuple[array[int] | None, bytes | None]:
    """Return the source's d2t as integers and t2d as bytes, right or wrong; None if absent or of an unusable dtype."""
    tensors = {} if head.opened is None else head.opened.tensors
    d2t, t2d = (tensors.get(head.other_names.get(name, name)) for name in BUFFERS)
    return None if d2t is None else read_integers(d2t), None if t2d is None else read_mask(t2d)
