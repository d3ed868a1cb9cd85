from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3hub.errors import InputError
from eagle3hub.metrics import translate
from eagle3hub.metrics.translate import (
    alpha_of_tau,
    conditional_of_marginal,
    draft_rate_of_tau,
    histogram_of_marginal,
    marginal_of_conditional,
    marginal_of_histogram,
    marginal_of_tau,
    relative_percent,
    rounds_of_tokens,
    tau_of_alpha,
    tau_of_draft_rate,
    tau_of_marginal,
    tokens_of_rounds,
    with_prefill_token,
    without_prefill_token,
)

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=16)
NAN = float("nan")
# seven accuracies a card prints without saying which rate they are
SEVEN = (0.600, 0.567, 0.550, 0.538, 0.526, 0.515, 0.504)


def test_a_published_vllm_table() -> None:
    marginal = (0.71, 0.48, 0.34)
    assert tau_of_marginal(marginal) == pytest.approx(2.53)
    assert conditional_of_marginal(marginal) == pytest.approx((0.71, 0.676, 0.708), abs=5e-4)


def test_the_same_seven_numbers_read_both_ways() -> None:
    for depth, conditional, marginal in ((3, 2.13, 2.72), (5, 2.28, 3.78), (7, 2.32, 4.80)):
        assert tau_of_marginal(marginal_of_conditional(SEVEN[:depth])) == pytest.approx(conditional, abs=5e-3)
        assert tau_of_marginal(SEVEN[:depth]) == pytest.approx(marginal, abs=5e-3)


def test_published_differences() -> None:
    assert relative_percent(4.32, 4.25) == pytest.approx(1.6, abs=0.05)
    assert relative_percent(4.08, 3.77) == pytest.approx(8.2, abs=0.05)


def test_constant_rate() -> None:
    assert tau_of_alpha(0.5, 3) == 1.875
    assert tau_of_alpha(0.5, 3) == pytest.approx((1 - 0.5**4) / (1 - 0.5))
    assert (tau_of_alpha(0, 3), tau_of_alpha(1, 3)) == (1, 4)
    assert alpha_of_tau(1.875, 3) == pytest.approx(0.5, abs=1e-15)
    assert (alpha_of_tau(1, 3), alpha_of_tau(4, 3)) == (0, 1)
    assert marginal_of_tau(1.875, 3) == pytest.approx((0.5, 0.25, 0.125))


def test_draft_rate_and_histogram() -> None:
    assert draft_rate_of_tau(2.5, 3) == 0.5
    assert tau_of_draft_rate(0.5, 3) == 2.5
    assert histogram_of_marginal((0.75, 0.5, 0.25)) == (0.25, 0.25, 0.25, 0.25)
    assert marginal_of_histogram((1, 0, 2, 1)) == (0.75, 0.75, 0.25)


def test_rounds_and_tokens() -> None:
    assert rounds_of_tokens(250, 2.5) == 100
    assert tokens_of_rounds(100, 2.5) == 250
    # 40 rounds, 100 tokens from them, one from prefill: 101 / 40
    assert without_prefill_token(101 / 40, 40) == pytest.approx(2.5)
    assert with_prefill_token(2.5, 40) == pytest.approx(101 / 40)


def test_the_least_that_each_length_can_be() -> None:
    assert without_prefill_token(3, 1) == 2
    assert without_prefill_token(1, 2) == 0.5
    assert with_prefill_token(1, 1) == 2
    assert rounds_of_tokens(0.25, 1) == 0.25
    assert tokens_of_rounds(0.25, 1) == 0.25


def test_a_position_never_reached_has_no_conditional_rate() -> None:
    assert conditional_of_marginal((0.5, 0.0, 0.0)) == (0.5, 0.0, None)
    assert marginal_of_conditional((0.5, 0.0, None)) == (0.5, 0.0, 0.0)


@given(RATES)
def test_there_and_back(conditional: list[float]) -> None:
    marginal = marginal_of_conditional(conditional)
    assert marginal == pytest.approx(tuple(accumulate(conditional, lambda a, b: a * b)))
    assert marginal_of_conditional(conditional_of_marginal(marginal)) == pytest.approx(marginal)
    histogram = histogram_of_marginal(marginal)
    assert math.fsum(histogram) == pytest.approx(1)
    assert marginal_of_histogram(histogram) == pytest.approx(marginal, abs=1e-12)
    tau = tau_of_marginal(marginal)
    assert tau == pytest.approx(1 + math.fsum(a * share for a, share in enumerate(histogram)))
    assert tau_of_draft_rate(draft_rate_of_tau(tau, len(marginal)), len(marginal)) == pytest.approx(tau)


@given(st.floats(0, 1), st.integers(1, 16))
def test_the_inverse_of_a_constant_rate(alpha: float, draft_tokens: int) -> None:
    tau = tau_of_alpha(alpha, draft_tokens)
    assert tau_of_alpha(alpha_of_tau(tau, draft_tokens), draft_tokens) == pytest.approx(tau, abs=1e-12)
    assert tau_of_marginal(marginal_of_tau(tau, draft_tokens)) == pytest.approx(tau, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        (lambda: tau_of_marginal((0.5, 0.6)), "metrics-rising", "position 2 has 0.6 after 0.5"),
        (lambda: conditional_of_marginal((0.5, 0.6)), "metrics-rising", "cannot rise"),
        (lambda: histogram_of_marginal((0.5, 0.6)), "metrics-rising", "cannot rise"),
        (lambda: tau_of_marginal((71.0, 48.0)), "metrics-rate", "position 1 lies between 0 and 1, not 71"),
        (lambda: tau_of_marginal((NAN,)), "metrics-rate", "nan"),
        (lambda: tau_of_marginal(()), "metrics-draft-tokens", "not 0"),
        (lambda: marginal_of_conditional((0.5, -0.1)), "metrics-rate", "position 2"),
        (lambda: marginal_of_conditional(()), "metrics-draft-tokens", "not 0"),
        (lambda: draft_rate_of_tau(4.1, 3), "metrics-tau", "between 1 and 4, not 4.1"),
        (lambda: draft_rate_of_tau(0.9, 3), "metrics-tau", "not 0.9"),
        (lambda: draft_rate_of_tau(NAN, 3), "metrics-tau", "nan"),
        (lambda: draft_rate_of_tau(1, 0), "metrics-draft-tokens", "not 0"),
        (lambda: tau_of_draft_rate(1.2, 3), "metrics-rate", "draft acceptance rate"),
        (lambda: alpha_of_tau(5, 3), "metrics-tau", "not 5"),
        (lambda: marginal_of_tau(0, 3), "metrics-tau", "not 0"),
        (lambda: tau_of_alpha(1.5, 3), "metrics-rate", "alpha"),
        (lambda: tau_of_alpha(0.5, 0), "metrics-draft-tokens", "not 0"),
        (lambda: marginal_of_histogram((3,)), "metrics-histogram", "histogram"),
        (lambda: marginal_of_histogram((0, 0)), "metrics-histogram", "histogram"),
        (lambda: marginal_of_histogram((3, -1)), "metrics-histogram", "histogram"),
        (lambda: marginal_of_histogram((NAN, 1)), "metrics-histogram", "histogram"),
        (lambda: rounds_of_tokens(-1, 2), "metrics-length", "tokens"),
        (lambda: rounds_of_tokens(10, 0.5), "metrics-length", "tau"),
        (lambda: tokens_of_rounds(math.inf, 2), "metrics-length", "rounds"),
        (lambda: tokens_of_rounds(10, 0.9), "metrics-length", "tau"),
        (lambda: tokens_of_rounds(-0.5, 2), "metrics-length", "rounds"),
        (lambda: without_prefill_token(2, 0), "metrics-length", "rounds"),
        (lambda: without_prefill_token(2, 0.9), "metrics-length", "rounds"),
        (lambda: without_prefill_token(0.9, 2), "metrics-length", "acceptance length"),
        (lambda: with_prefill_token(2, 0.9), "metrics-length", "rounds"),
        (lambda: with_prefill_token(0.9, 2), "metrics-length", "tau"),
        (lambda: relative_percent(1, 0), "metrics-length", "percentage of 0"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], code: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        call()
    assert error.value.code == code


def test_a_percentage_is_told_so() -> None:
    with pytest.raises(InputError) as error:
        translate.tau_of_draft_rate(71, 3)
    assert error.value.hint == "give a fraction, not a percentage"
