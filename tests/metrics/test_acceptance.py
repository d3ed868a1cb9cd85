from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, acceptance, by_category, t_cdf, t_quantile, total


def counts(rounds: int, *per_position: int) -> Counts:
    return Counts(rounds, rounds * len(per_position), sum(per_position), per_position)


@pytest.mark.parametrize(
    ("df", "quantile"),
    [
        (1, 12.706205),
        (2, 4.302653),
        (3, 3.182446),
        (4, 2.776445),
        (5, 2.570582),
        (9, 2.262157),
        (10, 2.228139),
        (15, 2.131450),
        (30, 2.042272),
        (79, 1.990450),
        (100, 1.983972),
        (1000, 1.962339),
    ],
)
def test_t_quantile_agrees_with_the_printed_tables(df: int, quantile: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(quantile, abs=2e-6)


@pytest.mark.parametrize("df", [1, 2, 3, 7, 12])
def test_t_cdf_agrees_with_the_integral_of_the_density(df: int) -> None:
    scale = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    steps, end = 20000, 1.7
    width = end / steps
    area = sum(scale * (1 + ((i + 0.5) * width) ** 2 / df) ** (-(df + 1) / 2) * width for i in range(steps))
    assert t_cdf(end, df) == pytest.approx(0.5 + area, abs=1e-8)
    assert t_cdf(-end, df) == pytest.approx(0.5 - area, abs=1e-8)


@pytest.mark.parametrize(("p", "df"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_t_quantile_refuses_what_it_cannot_answer(p: float, df: int) -> None:
    with pytest.raises(ValueError, match="must"):
        t_quantile(p, df)


def test_the_example_heads_published_counters() -> None:
    found = acceptance([counts(622, 206, 58, 18)])
    assert found.mean_acceptance_length == pytest.approx(1.45338, abs=1e-5)
    assert found.ci95 is None
    assert found.standard_error is None
    assert found.marginal_rates == pytest.approx((0.33119, 0.09325, 0.02894), abs=1e-5)
    assert found.conditional_rates == pytest.approx((0.33119, 0.28155, 0.31034), abs=1e-5)
    assert found.draft_acceptance_rate == pytest.approx(282 / 1866)
    assert 1 + sum(found.marginal_rates) == pytest.approx(found.mean_acceptance_length)


def test_ratio_estimator_by_hand() -> None:
    # T = 15, 30; S = 10, 15: tau = 45/25 = 1.8; residuals -3, 3: SE = sqrt(2 * 18) / 25 = 0.24
    found = acceptance([counts(10, 5), counts(15, 15)])
    assert found.mean_acceptance_length == 1.8
    assert found.standard_error == pytest.approx(0.24)
    assert found.ci95 == pytest.approx((1.8 - 12.706205 * 0.24, 1.8 + 12.706205 * 0.24), abs=1e-5)
    assert found.mean_acceptance_length_per_request == pytest.approx((1.5 + 2.0) / 2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(7)
    covered, repeats, prompts = 0, 400, 40
    for _ in range(repeats):
        sample = []
        for _ in range(prompts):
            chance, rounds = rng.choice((0.3, 0.7)), rng.randint(20, 80)
            sample.append(counts(rounds, sum(rng.random() < chance for _ in range(rounds))))
        interval = acceptance(sample).ci95
        assert interval is not None
        covered += interval[0] <= 1.5 <= interval[1]
    assert 0.91 <= covered / repeats <= 0.985


def test_prompts_without_a_round_say_nothing() -> None:
    found = acceptance([counts(10, 5), counts(0, 0), counts(8, 2)])
    assert found == acceptance([counts(10, 5), counts(8, 2)])
    assert acceptance([counts(10, 5), counts(0, 0)]).ci95 is None


def test_no_round_at_all_is_an_error() -> None:
    with pytest.raises(InputError) as error:
        acceptance([counts(0, 0, 0)])
    assert error.value.code == "metrics-no-rounds"


def test_a_position_never_reached_has_no_conditional_rate() -> None:
    found = acceptance([counts(5, 0, 0)])
    assert found.conditional_rates == (0.0, None)
    assert found.mean_acceptance_length == 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((10, 30, 9, (3, 5, 1)), "rises"),
        ((10, 30, 31, (11, 10, 10)), "accepted but only 30"),
        ((10, 30, 8, (5, 2, 0)), "8 tokens accepted, but 7"),
        ((10, 31, 6, (5, 1, 0)), "31 tokens drafted"),
        ((10, 30, 12, (12, 0, 0)), "12 times in 10 rounds"),
        ((-1, 0, 0, ()), "negative"),
        ((10, 30, 4, (5, -1, 0)), "negative"),
    ],
)
def test_counters_that_no_run_can_produce_are_refused(
    arguments: tuple[int, int, int, tuple[int, ...]], says: str
) -> None:
    with pytest.raises(InputError, match=says) as error:
        Counts(*arguments)
    assert error.value.code == "metrics-counters"


def test_counters_of_different_depth_are_not_pooled() -> None:
    with pytest.raises(InputError):
        total([counts(3, 1), counts(3, 1, 1)])
    with pytest.raises(InputError):
        total([])


def test_categories_keep_their_order_and_add_up() -> None:
    found = by_category([("b", counts(4, 2)), ("a", counts(0, 0)), ("b", counts(6, 1))])
    assert list(found) == ["b", "a"]
    interval = found["b"].pop("ci95")
    assert found["b"] == {"prompts": 2, "rounds": 10, "accepted": 3, "mean_acceptance_length": 1.3}
    # by hand: residuals +-0.8, SE = sqrt(2 * 1.28) / 10 = 0.16, t of 1 degree of freedom 12.7062
    assert interval == pytest.approx([1.3 - 12.7062 * 0.16, 1.3 + 12.7062 * 0.16], abs=1e-5)
    assert found["a"]["mean_acceptance_length"] is None
    assert found["a"]["ci95"] is None


def test_each_rate_has_an_interval_by_hand() -> None:
    found = acceptance([counts(10, 6, 3), counts(10, 4, 0)])
    assert found.marginal_rates == (0.5, 0.15)
    assert found.conditional_rates == (0.5, 0.3)
    # m_2: residuals 3 - 1.5 and 0 - 1.5; SE = sqrt(2 * 4.5) / 20 = 0.15; cut at 0 and 1
    assert found.marginal_ci95[1] == (0.0, 1.0)
    # m_1: residuals +-1; SE = sqrt(2 * 2) / 20 = 0.1
    assert found.marginal_ci95[0] == (0.0, 1.0)
    many = acceptance([counts(10, 6, 3), counts(10, 4, 0)] * 8)
    # 16 prompts: SE(m_1) = sqrt(16/15 * 16) / 160, t of 15 degrees of freedom 2.13145
    assert many.marginal_ci95[0] == pytest.approx((0.5 - 0.055033, 0.5 + 0.055033), abs=1e-6)
    # c_2 = 24/80: residuals 3 - 1.8 and 0 - 1.2 eight times each: SE = sqrt(16/15 * 8 * 2.88) / 80 = 0.061968
    assert many.conditional_ci95[1] == pytest.approx((0.3 - 0.132081, 0.3 + 0.132081), abs=1e-5)


def test_a_conditional_rate_has_no_interval_from_the_one_prompt_that_reached_it() -> None:
    found = acceptance([counts(10, 6, 3), counts(10, 0, 0)])
    assert found.conditional_rates == (0.3, 0.5)
    assert found.conditional_ci95[0] is not None
    assert found.conditional_ci95[1] is None


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), min_size=2, max_size=12))
def test_whatever_the_rounds_the_numbers_agree_with_them(prompts: list[list[int]]) -> None:
    k = 4
    sample = [counts(len(rounds), *(sum(a >= i for a in rounds) for i in range(1, k + 1))) for rounds in prompts]
    found = acceptance(sample)
    every = [a for rounds in prompts for a in rounds]
    assert found.mean_acceptance_length == pytest.approx(sum(a + 1 for a in every) / len(every))
    assert 1 <= found.mean_acceptance_length <= k + 1
    assert found.ci95 is not None
    assert found.ci95[0] <= found.mean_acceptance_length <= found.ci95[1]
    survived = 1.0
    for marginal, conditional in zip(found.marginal_rates, found.conditional_rates, strict=True):
        survived *= conditional or 0.0
        assert marginal == pytest.approx(survived)
