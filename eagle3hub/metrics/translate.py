"""Translate one way of stating acceptance into another, for chain drafting of K tokens a round.

Marginal rates m_1..m_K (position i accepted, over all rounds), conditional rates c_1..c_K (given that position
i - 1 was), acceptance length tau = 1 + sum m_i in [1, K + 1]. Rates are fractions, never percentages. Rates by
position of a tree (top-k above 1) do not translate.

Every function raises InputError for impossible numbers: ``metrics-rate`` (outside 0 to 1), ``metrics-rising``
(marginal rates that rise), ``metrics-tau`` (outside 1 to K + 1), ``metrics-draft-tokens`` (K below 1),
``metrics-histogram``, ``metrics-length``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from eagle3hub.errors import InputError


def tau_of_marginal(rates: Sequence[float]) -> float:
    """Return the acceptance length: 1 + the sum of the marginal rates."""
    return 1 + math.fsum(check_marginal(rates))


def conditional_of_marginal(rates: Sequence[float]) -> tuple[float | None, ...]:
    """Return c_i = m_i / m_(i-1) with m_0 = 1; None after a position that was never accepted."""
    return tuple(after / before if before else None for before, after in pairwise((1.0, *check_marginal(rates))))


def marginal_of_conditional(rates: Sequence[float | None]) -> tuple[float, ...]:
    """Return m_i = c_1 * … * c_i; a conditional rate of None (position never reached) gives 0."""
    known = [_rate(0.0 if c is None else c, f"the conditional rate of position {i}") for i, c in enumerate(rates, 1)]
    _draft_tokens(len(known))
    return tuple(accumulate(known, lambda reached, c: reached * c))


def draft_rate_of_tau(tau: float, draft_tokens: int) -> float:
    """Return accepted over drafted tokens: (tau - 1) / K."""
    return (_tau(tau, draft_tokens) - 1) / draft_tokens


def tau_of_draft_rate(rate: float, draft_tokens: int) -> float:
    """Return the acceptance length from accepted over drafted tokens: 1 + K * rate."""
    return 1 + _draft_tokens(draft_tokens) * _rate(rate, "the draft acceptance rate")


def marginal_of_histogram(rounds: Sequence[float]) -> tuple[float, ...]:
    """Return m_i = P(a >= i) from the rounds (or their shares) that accepted exactly 0, 1, …, K drafts."""
    size = math.fsum(rounds)
    if len(rounds) < 2 or not math.isfinite(size) or not size > 0 or any(n < 0 for n in rounds):
        raise InputError(
            f"a histogram of accepted drafts counts the rounds that accepted 0, 1, … K of them, not {list(rounds)}",
            code="metrics-histogram",
        )
    return tuple(math.fsum(rounds[i:]) / size for i in range(1, len(rounds)))


def histogram_of_marginal(rates: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of the rounds that accept exactly 0, 1, …, K drafts: m_i - m_(i+1)."""
    return tuple(a - b for a, b in pairwise((1.0, *check_marginal(rates), 0.0)))


def tau_of_alpha(alpha: float, draft_tokens: int) -> float:
    """Return the acceptance length if alpha is every position's conditional rate: (1 - alpha^(K+1)) / (1 - alpha)."""
    alpha = _rate(alpha, "alpha")
    return math.fsum(alpha**i for i in range(_draft_tokens(draft_tokens) + 1))


def alpha_of_tau(tau: float, draft_tokens: int) -> float:
    """Return the constant conditional rate that gives ``tau`` at K, by bisection to full precision."""
    _tau(tau, draft_tokens)
    low, high = 0.0, 1.0
    if tau >= tau_of_alpha(high, draft_tokens):
        return high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if tau_of_alpha(middle, draft_tokens) < tau else (low, middle)
    return high if tau_of_alpha(low, draft_tokens) < tau else low


def marginal_of_tau(tau: float, draft_tokens: int) -> tuple[float, ...]:
    """Return the marginal rates that a constant conditional rate gives.

    A tau alone does not say how acceptance falls with depth.
    """
    alpha = alpha_of_tau(tau, draft_tokens)
    return tuple(alpha**i for i in range(1, draft_tokens + 1))


def rounds_of_tokens(tokens: float, tau: float) -> float:
    """Return how many rounds it takes to emit this many tokens, without the one from prefill: N / tau."""
    return _length(tokens, "the number of tokens") / _length(tau, "tau", 1.0)


def tokens_of_rounds(rounds: float, tau: float) -> float:
    """Return how many tokens this many rounds emit: R * tau."""
    return _length(rounds, "the number of rounds") * _length(tau, "tau", 1.0)


def without_prefill_token(length: float, rounds: float) -> float:
    """Return the tau of one request from completion tokens / rounds, which counts the prefill token: length - 1 / R.

    Exact if the response's end cut off no accepted token.
    """
    return _length(length, "the acceptance length", 1.0) - 1 / _length(rounds, "the number of rounds", 1.0)


def with_prefill_token(tau: float, rounds: float) -> float:
    """Return completion tokens / rounds of one request from its tau: tau + 1 / R."""
    return _length(tau, "tau", 1.0) + 1 / _length(rounds, "the number of rounds", 1.0)


def relative_percent(value: float, base: float) -> float:
    """Return by how many percent ``value`` differs from ``base``, a number above 0."""
    if not base > 0:
        raise InputError(f"there is no percentage of {base:g}", code="metrics-length")
    return 100 * (value - base) / base


def check_marginal(rates: Sequence[float]) -> tuple[float, ...]:
    """Return ``rates`` as a tuple, if they can be the marginal rates of positions 1..K, K >= 1."""
    _draft_tokens(len(rates))
    known = tuple(_rate(m, f"the marginal rate of position {i}") for i, m in enumerate(rates, 1))
    for position, (before, after) in enumerate(pairwise(known), 2):
        if after > before:
            raise InputError(
                f"marginal acceptance cannot rise with the position, but position {position} has {after:g} "
                f"after {before:g}",
                hint="rates that rise are conditional ones, or come from a tree",
                code="metrics-rising",
            )
    return known


def _rate(value: float, what: str) -> float:
    if not 0 <= value <= 1:
        hint = "give a fraction, not a percentage" if 1 < value <= 100 else None
        raise InputError(f"{what} lies between 0 and 1, not {value:g}", hint=hint, code="metrics-rate")
    return value


def _tau(value: float, draft_tokens: int) -> float:
    if not 1 <= value <= _draft_tokens(draft_tokens) + 1:
        raise InputError(
            f"with {draft_tokens} draft tokens the acceptance length lies between 1 and {draft_tokens + 1}, "
            f"not {value:g}",
            hint="tau counts the target's own token of each round; a mean of accepted drafts is tau - 1",
            code="metrics-tau",
        )
    return value


def _draft_tokens(value: int) -> int:
    if value < 1:
        raise InputError(f"a round drafts 1 token or more, not {value}", code="metrics-draft-tokens")
    return value


def _length(value: float, what: str, least: float = 0.0) -> float:
    if not least <= value < math.inf:
        raise InputError(f"{what} is {least:g} or more, not {value:g}", code="metrics-length")
    return value
