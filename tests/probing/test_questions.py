"""The catalogue of a probe: every question can be answered, and its answers can be told apart."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from eagle3hub.engines.preflight.contracts import AuxReading, ContractTerms, RopeReading, common_rules
from eagle3hub.layouts import open_head
from eagle3hub.probing.heads import TAPS, target_embeddings
from eagle3hub.probing.questions import BASES, Question, questions
from eagle3hub.probing.run import CLOSE, compute, given_for
from eagle3hub.reference.model import load_draft

LAYOUTS = {
    "two-layers": "modelopt",
    "qk-norms": None,
    "four-taps-qk-norms": None,
    "p-eagle": None,
    "nested": "speculators",
    "nested-qk-norms": "speculators",
    "nested-p-eagle": "speculators",
}
"""Heads that the universal layout cannot hold, with the layout that reads them; None is what detection finds."""
UNREADABLE = {"two-layers-of-megatron", "two-layers-with-both-norms", "window", "int8"}
"""Heads that no layout, or not the reference, takes from these files."""


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], close: float | None = None) -> bool:
    near = close or CLOSE
    return all(torch.allclose(ours[part], theirs[part], rtol=near, atol=near) for part in ours)


@pytest.mark.parametrize("question", questions().values(), ids=lambda q: q.name)
def test_answers_can_be_told_apart(question: Question):
    if not question.comparable:
        assert not question.instead
        return
    made = question.made()
    given = given_for(made)
    computed = {"trained": compute(made.truth, given)}
    computed |= {name: compute(change(made).truth, given) for name, change in question.instead.items()}
    for name, logits in computed.items():
        assert [other for other, theirs in computed.items() if same(logits, theirs, question.close)] == [name]


@pytest.mark.parametrize("question", questions().values(), ids=lambda q: q.name)
def test_a_question_asks_what_there_is(question: Question):
    assert re.fullmatch(r"[a-z0-9-]+", question.name)
    assert question.base in BASES
    parts = {f.name for kind in (ContractTerms, AuxReading, RopeReading) for f in dataclasses.fields(kind)} | {
        "aux_of"
    }
    for asked in question.asks:
        what, _, name = asked.partition(".")
        assert what in ("rules", "terms")
        assert name in common_rules() if what == "rules" else set(name.split(".")[:1]) <= parts, asked
        assert what == "rules" or question.value is not None


@pytest.mark.parametrize("base", sorted(set(BASES) - UNREADABLE))
def test_the_files_of_a_head_say_what_it_was_trained_to_compute(base: str, tmp_path: Path):
    made = questions()[base].made()
    head = open_head(made.write(tmp_path / "head"), layout=LAYOUTS.get(base, "universal"))
    assert not [p for p in head.problems if p.severity == "error"]
    given = given_for(made)
    assert same(compute(load_draft(head, target_embeddings()), given), compute(made.truth, given))
    if made.taps is not None:
        assert head.aux is not None
        assert tuple(head.aux.boundary) == made.taps
    assert made.taps in (None, TAPS) or len(made.taps) != len(TAPS)
