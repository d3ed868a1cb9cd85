"""What an edit of a head is recorded as, and what edits share."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eagle3hub.checkpoint.folder import open_checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.head import Head
from eagle3hub.head.vocab import VocabMap, order_fault
from eagle3hub.layouts import get_layout
from eagle3hub.layouts.tensors import read_mask

# What a transform of a head is recorded as.


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
    fault = order_fault(vocab, sorted_rows=True, trainer_sorts=True)
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


# The vocabulary buffers of a source as they are on disk, right or wrong.


INTEGERS = {"I32": "i", "I64": "q"}


def raw_buffers(head: Head) -> tuple[array[int] | None, bytes | None]:
    """d2t as integers and t2d as bytes; None for one that is absent or of no usable dtype."""
    tensors = open_checkpoint(head.source, headers_only=True).tensors
    d2t, t2d = (tensors.get(head.other_names.get(name, name)) for name in ("d2t", "t2d"))
    ids = integers(d2t) if d2t is not None and d2t.dtype in INTEGERS and len(d2t.shape) == 1 else None
    return ids, None if t2d is None else read_mask(t2d)


def integers(ref: TensorRef) -> array[int]:
    """The values of an I32 or I64 tensor."""
    values = array(INTEGERS[ref.dtype])
    values.frombytes(read_tensor(ref))
    if sys.byteorder == "big":
        values.byteswap()
    return values
