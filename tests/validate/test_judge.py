from __future__ import annotations

from dataclasses import replace

import pytest

from eagle3hub.engines.base import EngineRun, LoadReport, PromptResult
from eagle3hub.metrics import Acceptance, Counts, acceptance
from eagle3hub.validation.gates import Gate
from eagle3hub.validation.judge import Lossless, compare, judge, unexpected

LOADED = LoadReport(checked=True, ignored=("t2d",), aux_boundaries=(2, 15, 27))
TAPS = [2, 15, 27]


def counts(rounds: int, accepted: int) -> Counts:
    return Counts(rounds, rounds, accepted, (accepted,))


GOOD = acceptance([counts(100, 50), counts(100, 55), counts(100, 45)])  # 1.5, interval about 1.38 to 1.62


def run(*outputs: list[int]) -> EngineRun:
    prompts = tuple(PromptResult(5, tuple(tokens), None, 1.0) for tokens in outputs)
    return EngineRun(prompts, None, "1", {}, 1.0, 1.0)


def verdict(**changed: object) -> tuple[str, str]:
    arguments: dict[str, object] = {
        "load": LOADED,
        "expected_taps": TAPS,
        "lossless": Lossless(3, 3, ()),
        "dtype": "float32",
        "acceptance": GOOD,
        "min_acceptance_length": None,
    }
    return judge(**{**arguments, **changed})  # type: ignore[arg-type]


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


@pytest.mark.parametrize(("accepted", "expected"), [(10, "fail"), (11, "pass"), (0, "fail")])
def test_the_collapse_line(accepted: int, expected: str) -> None:
    assert verdict(acceptance=acceptance([counts(100, accepted), counts(100, accepted)]))[0] == expected


def test_no_round_is_a_failure() -> None:
    assert verdict(acceptance=None) == ("fail", "the engine ran no round of speculative decoding")


@pytest.mark.parametrize(
    ("bar", "expected"), [(1.3, "pass"), (1.45, "inconclusive"), (1.6, "inconclusive"), (1.7, "fail")]
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


def test_one_prompt_cannot_clear_a_bar() -> None:
    alone: Acceptance = acceptance([counts(100, 90)])
    assert verdict(acceptance=alone, min_acceptance_length=1.2)[0] == "inconclusive"
    assert verdict(acceptance=alone)[0] == "pass"


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


def test_a_collapsed_head_is_not_also_measured_against_the_bar() -> None:
    flat = acceptance([counts(100, 5), counts(100, 6)])
    found, reason = verdict(acceptance=flat, min_acceptance_length=1.05)
    assert found == "fail"
    assert "collapse" in reason
    assert "bar" not in reason


def test_no_gate_makes_up_for_a_missing_acceptance() -> None:
    assert verdict(acceptance=None, gates=[gate("pass", "as before")])[0] == "fail"
