from __future__ import annotations

import json

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import MIN_PROMPTS, Counts, bootstrap, paired


def counts(rounds: int, *per_position: int) -> Counts:
    return Counts(rounds, rounds * len(per_position), sum(per_position), per_position)


def test_by_hand() -> None:
    found = paired([counts(10, 5), counts(10, 7)] * 4, [counts(10, 4), counts(10, 4)] * 4)
    assert (found.tau, found.base_tau, found.prompts) == (1.6, 1.4, 8)
    assert found.difference == pytest.approx(0.2)
    assert found.relative == pytest.approx(100 * 0.2 / 1.4)
    # of a's 128 tokens in 80 rounds, 113 or 111 in 70 stay without a prompt; of b's nothing moves: +-1/70
    assert found.standard_error == pytest.approx((7 / 8 * 8 / 70**2) ** 0.5)
    # (kurtosis 1, and still below 3 when corrected)
    half = 2.364624 * (7 / 8 * 8 / 70**2) ** 0.5
    assert found.ci95 == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert (found.identical, found.first_difference) == (0, 0)


def test_prompts_of_unequal_length_by_hand() -> None:
    a = [counts(10, 5), counts(30, 9), counts(20, 16), counts(15, 9)] * 2
    b = [counts(12, 3), counts(30, 9), counts(24, 12), counts(15, 10)] * 2
    found = paired(a, b)
    assert (found.tau, found.base_tau) == (228 / 150, 230 / 162)
    moved = [
        (228 - (x.accepted + x.rounds)) / (150 - x.rounds)
        - (230 - (y.accepted + y.rounds)) / (162 - y.rounds)
        - found.difference
        for x, y in zip(a, b, strict=True)
    ]
    assert found.standard_error == pytest.approx((7 / 8 * sum(d * d for d in moved)) ** 0.5)
    assert (found.identical, found.first_difference) == (2, 0)
    back = paired(b, a)
    assert back.difference == -found.difference
    assert back.standard_error == pytest.approx(found.standard_error)
    assert found.ci95 is not None
    assert back.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))


def test_equal_runs_have_no_interval_that_would_say_they_cannot_differ() -> None:
    run = [counts(10, 5 + i % 3) for i in range(16)] + [counts(0, 0)]
    found = paired(run, run)
    assert (found.difference, found.standard_error, found.ci95) == (0, None, None)
    assert (found.identical, found.first_difference, found.prompts) == (17, None, 16)
    assert json.loads(json.dumps(found.to_json()))["identical"] == 17
    shifted = paired([counts(10, 6)] * 16, [counts(10, 5)] * 16)
    assert shifted.difference == pytest.approx(0.1)
    assert shifted.ci95 is None


@pytest.mark.parametrize("pairs", range(1, MIN_PROMPTS))
def test_few_pairs_have_no_interval(pairs: int) -> None:
    ours, theirs = [counts(10, 5 + i % 2) for i in range(8)], [counts(10, 4)] * 8
    found = paired([*ours[:pairs], counts(0, 0)], [*theirs[:pairs], counts(0, 0)])
    assert found.prompts == pairs
    assert found.ci95 is None
    assert found.standard_error is None
    assert found.to_json()["ci95"] is None
    assert paired(ours, theirs).ci95 is not None


def test_a_prompt_with_rounds_in_one_run_only_counts_as_a_pair() -> None:
    ours, theirs = [counts(10, 5 + i % 3) for i in range(8)], [counts(10, 4)] * 8
    for a, b in (([*ours, counts(10, 9)], [*theirs, counts(0, 0)]), ([*ours, counts(0, 0)], [*theirs, counts(10, 9)])):
        found = paired(a, b)
        assert found.prompts == 9
        assert found.difference == pytest.approx(found.tau - found.base_tau)
        moved = [
            ratio([x for j, x in enumerate(a) if j != i]) - ratio([y for j, y in enumerate(b) if j != i])
            for i in range(9)
        ]
        spread = 8 / 9 * sum((m - found.difference) ** 2 for m in moved)
        assert found.standard_error == pytest.approx(spread**0.5)


def ratio(sample: list[Counts]) -> float:
    rounds = sum(c.rounds for c in sample)
    return (sum(c.accepted for c in sample) + rounds) / rounds


def test_the_interval_stays_inside_what_two_lengths_can_differ_by() -> None:
    ours = [counts(9, 9, 9, 9)] * 15 + [counts(9, 0, 0, 0)]
    theirs = [counts(9, 0)] * 15 + [counts(9, 9)]
    found = paired(ours, theirs)
    assert found.ci95 is not None
    assert found.ci95[1] == 3  # K of the one; unbounded it would reach 4.0
    assert paired(theirs, ours).ci95 == pytest.approx((-3, -found.ci95[0]))


def test_a_run_that_never_varies_adds_nothing() -> None:
    a = [counts(10 + i, 5 + i % 4) for i in range(10)]
    once, twice = paired(a, [counts(1, 0)] * 10), paired(a, [counts(10, 4)] * 10)
    assert once.standard_error == pytest.approx(twice.standard_error)


def test_heads_of_different_depth_can_be_compared() -> None:
    found = paired([counts(10, 5, 2), counts(8, 5, 2)], [counts(10, 5), counts(8, 4)])
    assert found.difference == pytest.approx((18 + 14) / 18 - (18 + 9) / 18)
    assert found.identical == 0


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ([counts(1, 1)], [counts(1, 1), counts(1, 1)], "metrics-unpaired"),
        ([counts(0, 0)], [counts(1, 1)], "metrics-no-rounds"),
        ([counts(1, 1)], [counts(0, 0)], "metrics-no-rounds"),
        ([], [], "metrics-counters"),
    ],
)
def test_what_cannot_be_compared(a: list[Counts], b: list[Counts], code: str) -> None:
    with pytest.raises(InputError) as error:
        paired(a, b)
    assert error.value.code == code


def test_the_bootstrap_is_reproducible_and_ignores_prompts_without_a_round() -> None:
    sample = [counts(10, 5), counts(30, 9), counts(20, 16), counts(12, 3)] * 2
    found = bootstrap(sample, repeats=200, seed=1)
    assert found == bootstrap([*sample, counts(0, 0)], repeats=200, seed=1)
    assert found != bootstrap(sample, repeats=200, seed=2)
    assert bootstrap([*sample[:7], counts(0, 0)]).ci95 is None
    with pytest.raises(ValueError, match="40"):
        bootstrap(sample, repeats=39)
    with pytest.raises(InputError):
        bootstrap([counts(0, 0)])


def test_the_bootstrap_by_hand() -> None:
    """Eight prompts of equal rounds, half of tau 1 and half of 2: a resample's tau is 1 plus a binomial's share."""
    found = bootstrap([counts(10, 0), counts(10, 10)] * 4, repeats=20_000, seed=0)
    # P(1 or fewer of 8) = 9/256 = 0.035, P(none) = 0.004: the 2.5 % quantile is 1 of 8
    assert found.ci95 == (1.125, 1.875)
    assert found.standard_error == pytest.approx((0.25 / 8) ** 0.5, rel=0.02)
