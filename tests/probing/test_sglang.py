"""SGLang is asked, with the stand-in for its kernels; what is held of it is what it answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engines.sglang_cpu.environment import interpreter
from support.versions import SGLANG

from eagle3hub.engines.preflight import contract, only_read
from eagle3hub.engines.preflight.probed import Answer, Probed, probed
from eagle3hub.probing.contract import differences, probed_contract, surprises
from eagle3hub.probing.questions import questions
from eagle3hub.probing.run import Probe, ask
from eagle3hub.system.progress import silent

ALONE = ("",)


@pytest.fixture(scope="module")
def held() -> Probed:
    found = probed("sglang", SGLANG)
    assert found is not None
    return found


def probe_of(found: Probed, **changed: Answer) -> Probe:
    answers = {**found.answers, **{name.replace("_", "-"): answer for name, answer in changed.items()}}
    return Probe("sglang", found.version, "cpu", dict(found.environment), {"": answers}, {})


@pytest.mark.slow
def test_the_held_contract_is_what_its_answers_say(held: Probed):
    asked = {name for name, question in questions().items() if "sglang" in (question.engines or ("sglang",))}
    assert set(held.answers) <= asked
    again = probed_contract(probe_of(held), held.date, ALONE)
    assert (again.rules, again.terms) == (held.rules, held.terms)
    assert differences(again, ALONE) == []
    assert surprises(held, ALONE) == []


def test_what_stood_in_for_its_kernels_is_said(held: Probed):
    assert "stand-in" in held.environment["kernels"]


def test_most_rules_of_sglang_were_executed():
    rules, left = only_read(contract("sglang", SGLANG))
    assert rules - len(left) >= 0.85 * rules, left


@pytest.mark.slow
def test_another_numbering_of_a_family_is_told_of(held: Probed):
    two = "deepseek-v2-with-ids-that-begin-with-2"
    shifted = replace(held.answers[two], taps=(3, 6, 10))
    again = probed_contract(probe_of(held, **{two.replace("-", "_"): shifted}), held.date, ALONE)
    (said,) = differences(again, ALONE)
    assert said.startswith("aux_of.deepseek_v2: held to be places")
    assert "after-if-first-is-1" in said.partition("found to be")[0]


@pytest.mark.slow
@pytest.mark.engine
def test_probing_gives_what_is_held(held: Probed, tmp_path_factory: pytest.TempPathFactory):
    python = interpreter(tmp_path_factory.mktemp("sglang"))
    probe = ask("sglang", "SGLang", python, device="cpu", progress=silent)
    found = probe.answers[""]
    for name, was in held.answers.items():
        answer = found[name]
        assert (name, answer.outcome, answer.taps) == (name, was.outcome, was.taps)
        # a parameter that nothing fills holds what the memory held: zeros by luck, and then an alternative fits
        assert answer.matched == was.matched or (was.not_loaded and None in (answer.matched, was.matched)), name
    again = probed_contract(probe, held.date, ALONE)
    assert {code: rule.effect for code, rule in again.rules.items()} == {c: r.effect for c, r in held.rules.items()}
    assert again.terms == held.terms
