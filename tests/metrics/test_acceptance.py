from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3hub.errors import InputError
from eagle3hub.metrics import MIN_PROMPTS, Counts, acceptance, by_category, t_cdf, t_quantile, too_few, total
from eagle3hub.metrics.estimate import Unit, t_quantile_between


def counts(rounds: int, *per_position: int) -> Counts:
    return Counts(rounds, rounds * len(per_position), sum(per_position), per_position)


def test_squares_of_what_rounds_accepted_are_known_from_the_positions() -> None:
    """Rounds that accepted 0, 1, 3 and 3 of three drafts: 0 + 1 + 9 + 9."""
    assert Unit.of_rounds(counts(4, 3, 2, 2)) == Unit(total=7, trials=4, squares=19, most=3)


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


def test_between_whole_degrees_of_freedom_the_quantile_lies_between_theirs() -> None:
    assert t_quantile_between(0.975, 5.0) == t_quantile(0.975, 5)
    # printed tables of fractional degrees of freedom: 2.5 has 3.558, close to a straight line over 1 / df
    assert t_quantile_between(0.975, 2.5) == pytest.approx(3.558, abs=0.08)
    ordered = [t_quantile_between(0.975, 2 + i / 10) for i in range(60)]
    assert ordered == sorted(ordered, reverse=True)


def test_the_example_heads_published_counters() -> None:
    found = acceptance([counts(622, 206, 58, 18)])
    assert found.mean_acceptance_length == pytest.approx(1.45338, abs=1e-5)
    assert found.ci95 is None
    assert found.standard_error is None
    assert found.marginal_rates == pytest.approx((0.33119, 0.09325, 0.02894), abs=1e-5)
    assert found.conditional_rates == pytest.approx((0.33119, 0.28155, 0.31034), abs=1e-5)
    assert found.draft_acceptance_rate == pytest.approx(282 / 1866)
    assert 1 + sum(found.marginal_rates) == pytest.approx(found.mean_acceptance_length)


def test_the_share_of_drafts_is_of_what_was_drafted_not_of_rounds_times_k() -> None:
    """An engine drafts fewer than K in rounds that end early: here 24 drafts in 10 rounds of K = 3, half accepted."""
    found = acceptance([Counts(10, 24, 12, (7, 4, 1))])
    assert found.draft_acceptance_rate == 0.5
    assert found.to_json()["draft_acceptance_rate"] == 0.5


def test_tau_by_hand() -> None:
    """Eight prompts: four accept half their drafts, four all of them. K = 1, so that tau - 1 is the share."""
    found = acceptance([counts(10, 5), counts(10, 10)] * 4)
    assert found.mean_acceptance_length == 1.75
    assert found.mean_acceptance_length_per_request == 1.75
    assert found.prompts == 8
    # logits with 0.1 on both sides: all 60 of 80; without a prompt of 5, 55 of 70; without one of 10, 50 of 70
    centre, without_low, without_high = (math.log((a + 0.1) / (b + 0.1)) for a, b in ((60, 20), (55, 15), (50, 20)))
    error = math.sqrt(7 / 8 * 4 * ((without_low - centre) ** 2 + (without_high - centre) ** 2))
    # a normal sample has more kurtosis than two values: 7 degrees of freedom, t = 2.364624
    ends = [centre - 2.364624 * error, centre + 2.364624 * error]
    assert found.ci95 == pytest.approx([1 + 1 / (1 + math.exp(-end)) for end in ends], abs=1e-6)
    middle = 1 / (1 + math.exp(-centre))
    assert found.standard_error == pytest.approx(error * middle * (1 - middle))


def test_few_prompts_carry_the_spread_and_have_few_degrees_of_freedom() -> None:
    """One prompt of eight accepts everything: the interval is much wider than seven degrees of freedom make it."""
    sample = [counts(20, 4)] * 7 + [counts(20, 20)]
    found = acceptance(sample)
    moved = [math.log(a / b) - math.log(48.1 / 112.1) for a, b in [(44.1, 96.1)] * 7 + [(28.1, 112.1)]]
    kurtosis = 8 * sum(d**4 for d in moved) / sum(d**2 for d in moved) ** 2 * (9 / 7) ** 2
    assert 2 * 8 / (kurtosis - 5 / 7) < 2  # and never below 2
    error = math.sqrt(7 / 8 * sum(d**2 for d in moved))
    ends = [math.log(48.1 / 112.1) + sign * 4.302653 * error for sign in (-1, 1)]
    assert found.ci95 == pytest.approx([1 + 1 / (1 + math.exp(-end)) for end in ends], abs=1e-6)


@pytest.mark.parametrize("prompts", range(1, MIN_PROMPTS))
def test_below_the_least_number_of_prompts_nothing_has_an_interval(prompts: int) -> None:
    few = [counts(50, 30 + i, 12, 4) for i in range(prompts)]
    found = acceptance([*few, counts(0, 0, 0, 0)])  # one without a round is none of them
    assert found.ci95 is found.standard_error is None
    assert {*found.marginal_ci95, *found.conditional_ci95} == {None}
    assert found.prompts == prompts
    assert by_category(("one", c) for c in few)["one"].ci95 is None
    enough = acceptance([*few, *[counts(50, 30, 12, 4)] * (MIN_PROMPTS - prompts)])
    assert None not in (enough.ci95, enough.standard_error, *enough.marginal_ci95, *enough.conditional_ci95)


def test_too_few_is_said_in_numbers() -> None:
    assert too_few(1) == "1 prompt with rounds is too few for an interval; 8 or more are needed"
    assert too_few(4) == "4 prompts with rounds are too few for an interval; 8 or more are needed"


@pytest.mark.parametrize("prompts", [8, 16, 80])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_nothing_accepted_and_everything_accepted_are_no_certainty(prompts: int, k: int) -> None:
    nothing = acceptance([counts(30, *[0] * k)] * prompts)
    everything = acceptance([counts(30, *[30] * k)] * prompts)
    assert nothing.ci95 is not None
    assert everything.ci95 is not None
    assert nothing.ci95[0] == 1 < 1.0005 < nothing.ci95[1]
    assert everything.ci95[0] < k + 1 - 0.0005 < everything.ci95[1] == k + 1
    assert nothing.standard_error == pytest.approx(everything.standard_error)
    assert nothing.standard_error
    # the exact binomial bound for independent rounds is the least it may be, and prompts are not so independent
    exact = 1 - 0.025 ** (1 / (30 * prompts))
    assert exact < (nothing.ci95[1] - 1) / k < 8 * exact
    assert {*nothing.marginal_ci95, *everything.marginal_ci95, *everything.conditional_ci95} == {None}


@pytest.mark.parametrize("per_position", [(3, 0, 0), (20, 0, 0), (20, 20, 0), (10, 5, 1)])
def test_prompts_that_are_all_alike_are_no_certainty(per_position: tuple[int, ...]) -> None:
    found = acceptance([counts(20, *per_position)] * 16)
    assert found.ci95 is not None
    tau = found.mean_acceptance_length
    assert found.ci95[0] < tau - 0.004
    assert found.ci95[1] > tau + 0.004
    assert f"{tau:.2f} ± {(found.ci95[1] - found.ci95[0]) / 2:.2f}" != f"{tau:.2f} ± 0.00"
    for rate, interval in zip(found.marginal_rates, found.marginal_ci95, strict=True):
        assert (interval is None) == (rate in (0, 1)), "a rate of 0 or 1 shows nothing that varies"
        if interval is not None:
            assert interval[0] <= rate <= interval[1]
            assert interval[1] - interval[0] > 0.01


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
    some = [counts(10 + i, 5) for i in range(8)]
    found = acceptance([counts(0, 0), *some, counts(0, 0)])
    assert found == acceptance(some)
    assert found.ci95 is not None
    assert acceptance([counts(0, 0), *some[1:]]).ci95 is None


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
    assert found["b"].to_json() == {
        "prompts": 2,
        "rounds": 10,
        "accepted": 3,
        "mean_acceptance_length": 1.3,
        "ci95": None,
    }
    assert found["a"].mean_acceptance_length is None
    assert found["a"].ci95 is None
    many = [counts(10, 3 + i % 3) for i in range(9)]
    assert by_category(("b", c) for c in many)["b"].ci95 == acceptance(many).ci95


def test_each_rate_has_an_interval_by_hand() -> None:
    found = acceptance([counts(10, 6, 3), counts(10, 4, 0)] * 4)
    assert found.marginal_rates == (0.5, 0.15)
    assert found.conditional_rates == (0.5, 0.3)
    # m_1: 40 of 80; without a prompt 34 or 36 of 70: less spread than independent rounds have, so theirs counts:
    # 80 rounds less one that is known by the others, half a round on each side
    error = math.sqrt(2 / (20 * 80 / 40 * 1 + 0.5))
    half = 2.364624 * error
    assert found.marginal_ci95[0] == pytest.approx((1 / (1 + math.exp(half)), 1 / (1 + math.exp(-half))), abs=1e-6)
    # m_2: 12 of 80; without a prompt 9 or 12 of 70, kurtosis 1
    moved = [math.log(a / b) - math.log(12.1 / 68.1) for a, b in ((9.1, 61.1), (12.1, 58.1))] * 4
    half = 2.364624 * math.sqrt(7 / 8 * sum(d * d for d in moved))
    centre = math.log(12.1 / 68.1)
    ends = [1 / (1 + math.exp(-centre - sign * half)) for sign in (-1, 1)]
    assert found.marginal_ci95[1] == pytest.approx(ends, abs=1e-6)
    # c_2: 12 of 40; without a prompt 9 of 34 or 12 of 36
    centre = math.log(12.1 / 28.1)
    moved = [math.log(a / b) - centre for a, b in ((9.1, 25.1), (12.1, 24.1))] * 4
    half = 2.364624 * math.sqrt(7 / 8 * sum(d * d for d in moved))
    ends = [1 / (1 + math.exp(-centre - sign * half)) for sign in (-1, 1)]
    assert found.conditional_ci95[1] == pytest.approx(ends, abs=1e-6)


def test_a_conditional_rate_has_no_interval_from_the_few_prompts_that_reached_it() -> None:
    found = acceptance([counts(10, 6, 3)] * 7 + [counts(10, 0, 0)] * 3)
    assert found.conditional_rates == (0.42, 0.5)
    assert found.conditional_ci95[0] is not None
    assert found.conditional_ci95[1] is None


def test_the_order_of_the_prompts_changes_nothing() -> None:
    sample = [counts(20 + i, 9 + i % 4, i % 5) for i in range(13)]
    assert acceptance(sample) == acceptance(sample[::-1])


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=30), min_size=2, max_size=24))
def test_whatever_the_rounds_the_numbers_agree_with_them(prompts: list[list[int]]) -> None:
    k = 4
    sample = [counts(len(rounds), *(sum(a >= i for a in rounds) for i in range(1, k + 1))) for rounds in prompts]
    found = acceptance(sample)
    every = [a for rounds in prompts for a in rounds]
    assert found.mean_acceptance_length == pytest.approx(sum(a + 1 for a in every) / len(every))
    assert 1 <= found.mean_acceptance_length <= k + 1
    assert (found.ci95 is not None) == (len(prompts) >= MIN_PROMPTS)
    if found.ci95 is not None:
        assert 1 <= found.ci95[0] <= found.mean_acceptance_length <= found.ci95[1] <= k + 1
        assert found.ci95[0] < found.ci95[1]
    rates = zip(
        (*found.marginal_rates, *found.conditional_rates), (*found.marginal_ci95, *found.conditional_ci95), strict=True
    )
    for rate, interval in rates:
        if interval is not None:
            assert rate is not None
            assert 0 <= interval[0] <= rate <= interval[1] <= 1
            assert interval[0] < interval[1]
    survived = 1.0
    for marginal, conditional in zip(found.marginal_rates, found.conditional_rates, strict=True):
        survived *= conditional or 0.0
        assert marginal == pytest.approx(survived)
