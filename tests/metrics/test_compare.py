from __future__ import annotations

import json

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, acceptance, bootstrap, paired, t_quantile


def counts(rounds: int, *per_position: int) -> Counts:
    return Counts(rounds, rounds * len(per_position), sum(per_position), per_position)


def test_by_hand() -> None:
    found = paired([counts(10, 5), counts(10, 7)], [counts(10, 4), counts(10, 4)])
    assert (found.tau, found.base_tau, found.prompts) == (1.6, 1.4, 2)
    assert found.difference == pytest.approx(0.2)
    assert found.relative == pytest.approx(100 * 0.2 / 1.4)
    # residuals of a: 15 - 16 and 17 - 16, over 10 rounds each; of b none: SE = sqrt(0.02 / 2)
    assert found.standard_error == pytest.approx(0.1)
    assert found.ci95 == pytest.approx((0.2 - 12.706205 * 0.1, 0.2 + 12.706205 * 0.1))
    assert (found.identical, found.first_difference) == (0, 0)


def test_prompts_of_unequal_length_by_hand() -> None:
    a, b = [counts(10, 5), counts(30, 9), counts(20, 16)], [counts(12, 3), counts(30, 9), counts(24, 12)]
    found = paired(a, b)
    assert (found.tau, found.base_tau) == (90 / 60, 90 / 66)
    base = 90 / 66
    d = [
        0 / 20 - (15 - 12 * base) / 22,
        (39 - 45) / 20 - (39 - 30 * base) / 22,
        (36 - 30) / 20 - (36 - 24 * base) / 22,
    ]
    assert found.standard_error == pytest.approx((sum(x * x for x in d) / 6) ** 0.5)
    assert (found.identical, found.first_difference) == (1, 0)
    assert found.ci95 is not None
    assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * t_quantile(0.975, 2) * (found.standard_error or 0))
    back = paired(b, a)
    assert back.difference == -found.difference
    assert back.standard_error == pytest.approx(found.standard_error)


def test_equal_runs_differ_by_nothing() -> None:
    run = [counts(10, 5), counts(10, 7), counts(0, 0)]
    found = paired(run, run)
    assert (found.difference, found.standard_error, found.ci95) == (0, 0, (0, 0))
    assert (found.identical, found.first_difference, found.prompts) == (3, None, 2)
    assert json.loads(json.dumps(found.to_json()))["identical"] == 3


def test_one_prompt_has_no_interval() -> None:
    found = paired([counts(10, 5)], [counts(10, 4)])
    assert found.ci95 is None
    assert found.standard_error is None
    assert found.to_json()["ci95"] is None


def test_against_a_constant_it_is_the_interval_of_the_one() -> None:
    a = [counts(10, 5), counts(30, 9), counts(20, 16)]
    found, alone = paired(a, [counts(1, 0)] * 3), acceptance(a)
    assert found.standard_error == pytest.approx(alone.standard_error)


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
    sample = [counts(10, 5), counts(30, 9), counts(20, 16), counts(12, 3)]
    found = bootstrap(sample, repeats=200, seed=1)
    assert found == bootstrap([*sample, counts(0, 0)], repeats=200, seed=1)
    assert found != bootstrap(sample, repeats=200, seed=2)
    assert bootstrap(sample[:1]).ci95 is None
    with pytest.raises(ValueError, match="40"):
        bootstrap(sample, repeats=39)
    with pytest.raises(InputError):
        bootstrap([counts(0, 0)])


def test_the_bootstrap_by_hand() -> None:
    """Two prompts of tau 1 and 2 with equal rounds: resamples give 1, 1.5 and 2 with chances 1/4, 1/2 and 1/4."""
    found = bootstrap([counts(10, 0), counts(10, 10)], repeats=20_000, seed=0)
    assert found.ci95 == (1.0, 2.0)
    assert found.standard_error == pytest.approx(0.125**0.5, rel=0.02)
