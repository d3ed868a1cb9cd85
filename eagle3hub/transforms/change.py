"""What a transform of a head is recorded as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eagle3hub.head import Head
from eagle3hub.layouts import get_layout
from eagle3hub.vocab import VocabMap, order_fault


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was asked for and makes the result differ from the source.

    Attributes:
        name: the option, in the form ``option`` or ``option:value``.
        what: one sentence: what was done.
        evidence: what shows that it is right, or who said so.
        tensors: the tensors it touches, by their name in the source (canonical where they are new).
        lossless: whether every number survives (rows in another order do, a narrower dtype does not).
    """

    name: str
    what: str
    evidence: str
    tensors: list[str] = field(default_factory=list)
    lossless: bool = True

    def to_json(self) -> dict[str, Any]:
        """The change as an entry of ``repairs`` in the provenance file and in ``--json`` output."""
        return {
            "name": self.name,
            "what": self.what,
            "evidence": self.evidence,
            "tensors": self.tensors,
            "lossless": self.lossless,
        }


def with_map(head: Head, vocab: VocabMap | None) -> Head:
    """The head with another vocabulary map (None for the full vocabulary); complaints about the old one are gone."""
    problems = [p for p in head.problems if not p.code.startswith("vocab-")]
    return replace(head, vocab_map=vocab, vocab_status="full" if vocab is None else "ok", problems=problems)


def with_ordered_map(head: Head, vocab: VocabMap | None) -> Head:
    """`with_map`, for a map that is held against the order its layout's trainer keeps: a fault becomes a problem."""
    head = with_map(head, vocab)
    if vocab is None or not get_layout(head.layout).contract.sorted_rows:
        return head
    fault = order_fault(vocab, layout=head.layout, sorted_rows=True)
    if fault is None:
        return head
    return replace(head, vocab_status=fault.code.removeprefix("vocab-"), problems=[*head.problems, fault])


def edited_configs(head: Head, edit: Mapping[str, Callable[[Any], Any]]) -> Head:
    """The head with fields of its own config and of every earlier spelling edited, wherever they occur.

    Only fields that are there and not null are touched (also inside nested objects): a codec writes a config it has
    seen before back as it was, so a fact that has changed must change there too.
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
