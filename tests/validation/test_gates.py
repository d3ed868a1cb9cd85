from __future__ import annotations

import json
from dataclasses import replace

import pytest
from validation.measured import COUNTERS, counts, measurement, shifted

from eagle3hub.metrics import Acceptance, acceptance, total
from eagle3hub.validation.gates import Gate, against_reference, agreement, collapse, floor, own_gates
from eagle3hub.validation.measurement import Measurement, Reference

RUN = measurement()
# 30 prompts of about 100 rounds; they differ much more than two runs over one of them
MANY = [(100 + i % 7, 16 + 2 * i, 6, 2) for i in range(30)]


def moved(trend: int, sway: int = 0) -> Measurement:
    """``MANY`` with so many more first drafts accepted in each prompt (1 is 0.01 of tau), and up and down in turn."""
    rows = [(r, a + trend + sway * (-1) ** i, b, c) for i, (r, a, b, c) in enumerate(MANY)]
    return measurement(rows, dtype="bfloat16")


BASE = moved(0)
TAU = acceptance(BASE.counts).mean_acceptance_length


def spread(middle: int, step: int = 1, prompts: int = 16) -> Acceptance:
    """Prompts of 100 rounds and 1 draft each, which accept about ``middle`` in a hundred."""
    return acceptance([counts(100, middle + step * (i % 5 - 2)) for i in range(prompts)])


@pytest.mark.parametrize(
    ("middle", "step", "verdict"),
    [
        (3, 1, "fail"),
        (8, 1, "fail"),
        (10, 1, "inconclusive"),  # the point lies on the line
        (9, 4, "inconclusive"),  # below it, and the interval reaches above
        (11, 4, "inconclusive"),
        (12, 1, "pass"),
        (50, 3, "pass"),
    ],
)
def test_the_collapse_line_is_held_by_the_interval(middle: int, step: int, verdict: str) -> None:
    measured = spread(middle, step)
    gate = collapse(measured)
    assert gate.verdict == verdict, gate.reason
    assert gate.evidence is not None
    low, high = gate.evidence["ci95"]
    assert verdict == ("pass" if low > 1.1 else "fail" if high <= 1.1 else "inconclusive")
    assert f"95 % interval {low:.3f} to {high:.3f}" in gate.reason
    assert (gate.evidence["line"], gate.evidence["prompts"], gate.evidence["rounds"]) == (1.1, 16, 1600)
    json.dumps(gate.to_json())


def test_on_the_line_is_collapsed_and_at_the_bar_is_enough() -> None:
    measured = spread(20)
    for end, (collapsed, at_bar) in ((1.1, ("fail", "inconclusive")), (1.2, ("inconclusive", "inconclusive"))):
        held = replace(measured, ci95=(1.0, end))
        assert (collapse(held).verdict, floor(held, 1.1).verdict) == (collapsed, at_bar)
    held = replace(measured, ci95=(1.1, 1.3))
    assert (collapse(held).verdict, floor(held, 1.1).verdict) == ("inconclusive", "pass")
    assert floor(replace(measured, ci95=(1.0, 1.0999)), 1.1).verdict == "fail"


def test_the_floor_is_held_by_the_interval() -> None:
    good = spread(50, 3)
    assert [floor(good, bar).verdict for bar in (1.3, 1.5, 1.7)] == ["pass", "inconclusive", "fail"]
    evidence = floor(good, 1.3).evidence
    assert evidence is not None
    assert evidence["line"] == 1.3
    assert evidence["ci95"] == list(good.ci95 or ())


@pytest.mark.parametrize("accepted", [0, 5, 50, 100])
@pytest.mark.parametrize("prompts", [1, 3, 7])
def test_too_few_prompts_can_neither_pass_nor_fail_a_line(prompts: int, accepted: int) -> None:
    few = acceptance([counts(100, accepted)] * prompts)
    for gate in (collapse(few), floor(few, 1.3)):
        assert gate.verdict == "inconclusive"
        are = "1 prompt with rounds is" if prompts == 1 else f"{prompts} prompts with rounds are"
        assert gate.reason.endswith(f": {are} too few for an interval; 8 or more are needed")
        assert gate.evidence is not None
        assert gate.evidence["ci95"] is None


def test_few_rounds_of_one_prompt_are_no_collapse() -> None:
    assert collapse(acceptance([counts(11, 0, 0, 0)])).verdict == "inconclusive"
    assert collapse(acceptance([counts(1, 0, 0, 0)] * 16)).verdict == "inconclusive", "16 rounds are few, too"
    assert collapse(acceptance([counts(63, 0, 0, 0)] * 16)).verdict == "fail"


def test_the_lines_of_a_run_by_itself() -> None:
    good = spread(50)
    assert [gate.name for gate in own_gates(good, None)] == ["collapse"]
    assert [gate.name for gate in own_gates(good, 1.2)] == ["collapse", "floor"]
    assert own_gates(None, 1.2) == []


def test_equal_counters_pass_the_reference_outright() -> None:
    gate = against_reference(RUN, Reference(RUN, 0.0))
    assert gate == Gate("reference", "pass", "all 6 prompts have the counters of the reference exactly")
    one = measurement([(100, 40, 10)])
    assert (
        against_reference(one, Reference(one, 0.0)).reason
        == "the one prompt has the counters of the reference exactly"
    )


@pytest.mark.parametrize(
    ("run", "tolerance", "verdict"),
    [
        (moved(-1, 1), 0.05, "pass"),  # 0.6 % below, the interval narrow because the prompts are the same
        (moved(8), 0.05, "pass"),
        (moved(-7, 3), 0.05, "inconclusive"),  # 4.5 % below: the line of 5 % lies inside the interval
        (moved(-10), 0.05, "fail"),
        (moved(-7, 3), 0.1, "pass"),
        (moved(-7, 3), 0.01, "fail"),
    ],
)
def test_the_same_prompts_are_compared_in_pairs(run: Measurement, tolerance: float, verdict: str) -> None:
    gate = against_reference(run, Reference(BASE, tolerance))
    assert gate.verdict == verdict, gate.reason
    assert gate.evidence is not None
    low, high = gate.evidence["ci95"]
    line = gate.evidence["line"]
    assert line == pytest.approx(-tolerance * TAU)
    assert verdict == ("pass" if low >= line else "fail" if high < line else "inconclusive")
    assert f"{gate.evidence['difference']:+.3f}" in gate.reason
    json.dumps(gate.to_json())


@pytest.mark.parametrize(
    ("trend", "tolerance", "verdict"),
    [(0, 0.02, "inconclusive"), (0, 0.05, "pass"), (-9, 0.05, "inconclusive"), (-10, 0.0, "fail"), (8, 0.0, "pass")],
)
def test_other_prompts_are_held_by_the_runs_own_interval(trend: int, tolerance: float, verdict: str) -> None:
    run = replace(moved(trend), prompts="mine", prompts_sha256="00" * 32)
    gate = against_reference(run, Reference(BASE, tolerance))
    assert gate.verdict == verdict, gate.reason
    share = {0.0: 100, 0.02: 98, 0.05: 95}[tolerance]
    assert f"({share} % of the reference's {TAU:.3f}, which is of other prompts)" in gate.reason
    interval = acceptance(run.counts).ci95
    assert interval is not None
    line = TAU * (1 - tolerance)
    assert verdict == ("pass" if interval[0] >= line else "fail" if interval[1] < line else "inconclusive")


def test_pairing_settles_what_the_interval_alone_cannot() -> None:
    near, kept = moved(-1, 1), Reference(BASE, 0.02)
    assert against_reference(near, kept).verdict == "pass"
    assert against_reference(replace(near, prompts_sha256="00" * 32), kept).verdict == "inconclusive"


@pytest.mark.parametrize(
    "change",
    [
        {"draft_tokens": 5},
        {"temperature": 1.0},
        {"max_new_tokens": 128},
        {"dtype": "bfloat16"},
        {"drafting": "probabilistic"},
        {"chat_template": "none"},
        {"system_prompt": "Be brief."},
        {"target_digest": "sha256:" + "00" * 32},
        {"target_digest": None, "target": "org/Other"},
    ],
)
def test_a_setting_that_differs_is_named_and_settles_nothing(change: dict[str, object]) -> None:
    run = replace(RUN, conditions=replace(RUN.conditions, **change))  # type: ignore[arg-type]
    for gate in (against_reference(run, Reference(RUN)), agreement(run, RUN)):
        assert gate.verdict == "inconclusive"
        key = next(reversed(change))
        assert f"{key} is {change[key]}, not" in gate.reason


def test_one_target_under_two_names_is_one_target() -> None:
    run = replace(RUN, conditions=replace(RUN.conditions, target="a-folder"))
    assert agreement(run, RUN).verdict == "pass"
    assert agreement(replace(run, conditions=replace(run.conditions, target_digest=None)), RUN).verdict != "pass"


def test_in_float32_one_acceptance_more_is_a_failure_that_names_both_sides() -> None:
    """An off-by-one tap costs 3 % of tau and is invisible to any threshold; the rounds show it."""
    reference = replace(RUN, engine="reference")
    gate = agreement(shifted(RUN, 3, 43, 14, 5, 2), reference)
    assert gate.verdict == "fail"
    assert "1 of 6 prompts" in gate.reason
    assert (
        "prompt 4, 43 rounds, 129 drafts, accepted [14, 5, 2] on vllm, "
        "44 rounds, 132 drafts, accepted [13, 5, 2] on reference" in gate.reason
    )
    assert gate.evidence is not None
    assert gate.evidence["first"]["question_id"] == 4
    assert agreement(RUN, reference).verdict == "pass"


def test_same_tau_in_other_places_is_no_agreement() -> None:
    """Two prompts swapped: every pooled number is equal, no prompt's is."""
    swapped = shifted(shifted(RUN, 0, *COUNTERS[1]), 1, *COUNTERS[0])
    assert total(swapped.counts) == total(RUN.counts)
    assert agreement(swapped, RUN).verdict == "fail"


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (moved(0), "pass"),
        (moved(0, 1), "pass"),  # sways from prompt to prompt, no trend
        (moved(1, 1), "pass"),  # a trend of 0.6 %, surely above 0, and within 2 %
        (moved(0, 10), "inconclusive"),
        (moved(3, 1), "inconclusive"),
        (moved(8), "fail"),
        (moved(-10), "fail"),
    ],
)
def test_in_lower_precision_the_paired_interval_decides(run: Measurement, verdict: str) -> None:
    gate = agreement(run, BASE)
    assert gate.verdict == verdict, gate.reason
    hot = [replace(m, conditions=replace(m.conditions, dtype="float32", temperature=1.0)) for m in (run, BASE)]
    assert agreement(*hot).verdict == verdict


def test_other_prompts_cannot_agree() -> None:
    assert agreement(replace(RUN, prompts_sha256="00" * 32), RUN).verdict == "inconclusive"
    assert agreement(replace(RUN, question_ids=(*range(2, 8),)), RUN).verdict == "inconclusive"


def test_few_prompts_or_no_round_are_not_evidence() -> None:
    few = measurement(COUNTERS, dtype="bfloat16")
    other = shifted(few, 0, 50, 8, 1, 0)
    for gate in (agreement(other, few), against_reference(other, Reference(few))):
        assert gate.verdict == "inconclusive"
        assert "6 prompts with rounds are too few" in gate.reason
    elsewhere = replace(other, prompts_sha256="00" * 32)
    assert against_reference(elsewhere, Reference(few)).verdict == "inconclusive"
    idle = measurement([(0, 0, 0, 0)] * 6, dtype="bfloat16")
    assert agreement(idle, few).verdict == "fail"
    assert against_reference(idle, Reference(few)).reason == "vllm ran no round of speculative decoding"


@pytest.mark.parametrize("prompts", [1, 7, 8, 30])
def test_equal_counters_are_exact_in_float32_and_may_be_chance_elsewhere(prompts: int) -> None:
    exact = measurement(MANY[:prompts])
    lower, hot = (measurement(MANY[:prompts], **change) for change in ({"dtype": "bfloat16"}, {"temperature": 1.0}))
    assert agreement(exact, exact).verdict == "pass"
    assert against_reference(exact, Reference(exact)).verdict == "pass"
    enough = "pass" if prompts >= 8 else "inconclusive"
    for run in (lower, hot):
        assert agreement(run, run).verdict == enough
        gate = against_reference(run, Reference(run))
        assert gate.verdict == enough
        assert "the counters of the reference exactly" in gate.reason
        assert ("too few" in gate.reason) == (prompts < 8)


def test_runs_that_differ_alike_in_every_prompt_have_no_interval() -> None:
    """A difference without any spread over the pairs: a width of 0 would be no certainty."""
    ours = measurement([(100, 40, 6, 2)] * 16, dtype="bfloat16")
    theirs = measurement([(100, 41, 6, 2)] * 16, dtype="bfloat16")
    for gate in (agreement(ours, theirs), against_reference(ours, Reference(theirs))):
        assert gate.verdict == "inconclusive"
        assert "no spread" in gate.reason
