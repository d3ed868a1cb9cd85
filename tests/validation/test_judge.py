from __future__ import annotations

from dataclasses import replace

import pytest

from eagle3hub.engines.base import EngineRun, LoadReport, PromptResult
from eagle3hub.metrics import Acceptance, Counts, acceptance
from eagle3hub.validation.gates import Gate, Judgement, Lossless, compare, judge, unexpected

LOADED = LoadReport(checked=True, ignored=("t2d",), aux_boundaries=(2, 15, 27))
TAPS = [2, 15, 27]


def counts(rounds: int, accepted: int) -> Counts:
    return Counts(rounds, rounds, accepted, (accepted,))


GOOD = acceptance([counts(100, 50), counts(100, 62), counts(100, 38)] * 4)  # 1.5, interval about 1.43 to 1.57


def run(*outputs: list[int]) -> EngineRun:
    prompts = tuple(PromptResult(5, tuple(tokens), None, 1.0) for tokens in outputs)
    return EngineRun(prompts, None, "1", {}, 1.0, 1.0)


def judged(**changed: object) -> Judgement:
    arguments: dict[str, object] = {
        "load": LOADED,
        "expected_taps": TAPS,
        "lossless": Lossless(3, 3, ()),
        "dtype": "float32",
        "acceptance": GOOD,
        "min_acceptance_length": None,
    }
    return judge(**{**arguments, **changed})  # type: ignore[arg-type]


def verdict(**changed: object) -> tuple[str, str]:
    found = judged(**changed)
    return found.verdict, found.reason


def test_a_good_run_passes() -> None:
    assert verdict()[0] == "pass"
    assert verdict(expected_taps=None, lossless=None)[0] == "pass"


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (replace(LOADED, not_loaded=("fc.weight",)), "fc.weight"),
        (replace(LOADED, ignored=("t2d", "layers.0.self_attn.q_proj.bias")), "ignores layers.0.self_attn.q_proj.bias"),
        (replace(LOADED, aux_boundaries=(1, 14, 26)), "[1, 14, 26]"),
    ],
)
def test_a_head_that_was_not_loaded_as_trained_fails_whatever_it_accepts(load: LoadReport, says: str) -> None:
    found, reason = verdict(load=load)
    assert found == "fail"
    assert says in reason


def test_several_faults_are_all_named() -> None:
    load = replace(LOADED, not_loaded=tuple(f"t{i}" for i in range(9)), aux_boundaries=(0, 1, 2))
    reason = verdict(load=load)[1]
    assert "t5 and 3 more" in reason
    assert "[0, 1, 2]" in reason


def test_a_load_nobody_watched_is_no_pass() -> None:
    assert verdict(load=LoadReport(checked=False))[0] == "inconclusive"


def test_harmless_leftovers() -> None:
    assert unexpected(["t2d", "layers.0.self_attn.rotary_emb.inv_freq", "d2t", "my_t2d_x"]) == ["d2t", "my_t2d_x"]


def test_a_changed_output_fails_in_float32_only() -> None:
    lossless = compare(["a", "b"], run([1, 2, 3], [4]), run([1, 2, 9], [4]))
    assert (lossless.identical, lossless.prompts) == (1, 2)
    assert (lossless.divergences[0].question_id, lossless.divergences[0].position) == ("a", 2)
    found, reason = verdict(lossless=lossless)
    assert found == "fail"
    assert "prompt a, new token 2" in reason
    assert verdict(lossless=lossless, dtype="bfloat16")[0] == "pass"


def test_an_output_that_stops_early_diverges_where_it_stops() -> None:
    lossless = compare([1], run([1, 2, 3]), run([1, 2]))
    assert lossless.divergences[0].position == 2


@pytest.mark.parametrize(("accepted", "expected"), [(10, "inconclusive"), (14, "pass"), (5, "fail"), (0, "fail")])
def test_the_collapse_line(accepted: int, expected: str) -> None:
    assert verdict(acceptance=acceptance([counts(100, accepted)] * 16))[0] == expected
    assert verdict(acceptance=acceptance([counts(100, accepted)] * 3))[0] == "inconclusive"


def test_no_round_is_a_failure() -> None:
    assert verdict(acceptance=None) == ("fail", "the engine ran no round of speculative decoding")


@pytest.mark.parametrize(
    ("bar", "expected"), [(1.3, "pass"), (1.45, "inconclusive"), (1.54, "inconclusive"), (1.7, "fail")]
)
def test_the_bar(bar: float, expected: str) -> None:
    found, reason = verdict(min_acceptance_length=bar)
    assert found == expected
    assert f"{bar:g}" in reason


def test_the_bar_at_the_very_ends_of_the_interval() -> None:
    assert GOOD.ci95 is not None
    low, high = GOOD.ci95
    assert verdict(min_acceptance_length=low)[0] == "pass"
    assert verdict(min_acceptance_length=high)[0] == "inconclusive"


def test_few_prompts_cannot_pass_and_no_rounds_of_them_fail() -> None:
    few: Acceptance = acceptance([counts(100, 90)] * 7)
    assert verdict(acceptance=few, min_acceptance_length=1.2)[0] == "inconclusive"
    found, reason = verdict(acceptance=few)
    assert found == "inconclusive"
    assert "7 prompts with rounds are too few for an interval; 8 or more are needed" in reason
    assert verdict(acceptance=acceptance([counts(11, 0)]))[0] == "inconclusive"
    # what needs no interval fails as ever
    assert verdict(acceptance=few, load=replace(LOADED, not_loaded=("fc.weight",)))[0] == "fail"
    assert verdict(acceptance=few, gates=[gate("fail", "other rounds")])[0] == "fail"


def test_equal_rounds_of_few_prompts_do_not_make_up_for_an_open_collapse_line() -> None:
    few = acceptance([counts(30, 20)])
    found = judged(acceptance=few, gates=[Gate("agreement", "pass", "1 of 1 alike")])
    assert found.verdict == "inconclusive"
    assert [(gate.name, gate.verdict) for gate in found.gates] == [("collapse", "inconclusive"), ("agreement", "pass")]


def test_every_line_a_verdict_rests_on_is_among_its_gates() -> None:
    found = judged(min_acceptance_length=1.7, gates=[gate("pass", "as before")])
    assert [(gate.name, gate.verdict) for gate in found.gates] == [
        ("collapse", "pass"),
        ("floor", "fail"),
        ("reference", "pass"),
    ]
    assert all(gate.evidence for gate in found.gates[:2])
    assert found.reason == found.gates[1].reason
    assert [gate.name for gate in judged().gates] == ["collapse"]
    assert judged().reason == f"all tensors loaded and {judged().gates[0].reason}"
    assert judged(acceptance=None, min_acceptance_length=1.7).gates == ()
    # kept where something else failed
    broken = judged(load=replace(LOADED, not_loaded=("fc.weight",)))
    assert [(gate.name, gate.verdict) for gate in broken.gates] == [("collapse", "pass")]


def gate(found: str, reason: str) -> Gate:
    return Gate("reference", found, reason)  # type: ignore[arg-type]


def test_further_gates_count_by_their_seriousness() -> None:
    low, open_, good = gate("fail", "too low"), gate("inconclusive", "too few"), gate("pass", "as before")
    assert verdict(gates=[good])[0] == "pass"
    assert verdict(gates=[good])[1].endswith("; as before")
    assert verdict(gates=[good, open_]) == ("inconclusive", "too few")
    assert verdict(gates=[open_, low, good]) == ("fail", "too low")


def test_what_failed_is_named_in_order_and_before_what_is_open() -> None:
    found, reason = verdict(
        load=replace(LOADED, checked=False, not_loaded=("fc.weight",)),
        min_acceptance_length=1.7,
        gates=[gate("inconclusive", "too few"), gate("fail", "too low")],
    )
    assert found == "fail"
    assert [reason.index(word) for word in ("fc.weight", "the bar of 1.7", "too low")] == sorted(
        reason.index(word) for word in ("fc.weight", "the bar of 1.7", "too low")
    )
    assert "too few" not in reason
    assert "watched" not in reason


def test_a_load_nobody_watched_does_not_hide_a_failure() -> None:
    assert verdict(load=LoadReport(checked=False), min_acceptance_length=1.7)[0] == "fail"
    found, reason = verdict(load=LoadReport(checked=False), min_acceptance_length=1.5)
    assert found == "inconclusive"
    assert "watched" in reason
    assert "the bar of 1.5" in reason


def test_a_collapsed_head_is_held_against_the_bar_as_well() -> None:
    flat = acceptance([counts(100, 5), counts(100, 6)] * 8)
    found = judged(acceptance=flat, min_acceptance_length=1.2)
    assert found.verdict == "fail"
    assert [gate.verdict for gate in found.gates] == ["fail", "fail"]
    assert "collapse" in found.reason
    assert "the bar of 1.2" in found.reason
    low = judged(acceptance=flat, min_acceptance_length=1.02)
    assert [gate.verdict for gate in low.gates] == ["fail", "pass"]
    assert low.verdict == "fail"


def test_no_gate_makes_up_for_a_missing_acceptance() -> None:
    assert verdict(acceptance=None, gates=[gate("pass", "as before")])[0] == "fail"
