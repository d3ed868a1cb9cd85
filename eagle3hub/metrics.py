"""Acceptance of a draft head: counters per prompt, and what is derived from them.

A *round* drafts up to K tokens and accepts the first a of them, 0 <= a <= K; it emits a + 1 tokens, the last one
the target's own. A prompt's first token comes from prefill, belongs to no round and is not counted. Rates are
marginal (position i accepted, over all rounds) unless called conditional (given that position i - 1 was).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eagle3hub.errors import InputError

ESTIMATOR = "pooled, ratio estimator over prompts"


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one prompt, or of several summed.

    ``accepted_per_position[i]`` counts the rounds in which draft position i was accepted. Raises InputError
    (``metrics-counters``) for numbers no sequence of rounds can produce.
    """

    rounds: int
    drafted: int
    accepted: int
    accepted_per_position: tuple[int, ...]

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise InputError(
                f"the acceptance counters contradict each other: {fault}",
                hint="they come from the engine; report them with the engine's name and version",
                code="metrics-counters",
            )

    def _fault(self) -> str | None:
        per_position = self.accepted_per_position
        if min(self.rounds, self.drafted, self.accepted, *per_position, 0) < 0:
            return "one of them is negative"
        if self.accepted > self.drafted:
            return f"{self.accepted} tokens accepted but only {self.drafted} drafted"
        if self.accepted != sum(per_position):
            return f"{self.accepted} tokens accepted, but {sum(per_position)} over the positions {list(per_position)}"
        if self.drafted > self.rounds * len(per_position):
            return f"{self.drafted} tokens drafted in {self.rounds} rounds of at most {len(per_position)}"
        if per_position and per_position[0] > self.rounds:
            return f"position 1 was accepted {per_position[0]} times in {self.rounds} rounds"
        if any(a < b for a, b in pairwise(per_position)):
            return f"acceptance rises with the position: {list(per_position)}"
        return None

    @property
    def emitted(self) -> int:
        """Tokens the rounds produced: accepted drafts and one token of the target per round."""
        return self.accepted + self.rounds


def total(counts: Sequence[Counts]) -> Counts:
    """The sum of counters that all have the same number of draft positions; InputError if they do not."""
    positions = {len(c.accepted_per_position) for c in counts}
    if len(positions) != 1:
        raise InputError(
            f"counters of {sorted(positions)} draft positions cannot be pooled"
            if positions
            else "no counters to pool",
            code="metrics-counters",
        )
    per_position = tuple(map(sum, zip(*(c.accepted_per_position for c in counts), strict=True)))
    return Counts(
        sum(c.rounds for c in counts), sum(c.drafted for c in counts), sum(c.accepted for c in counts), per_position
    )


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Acceptance over a set of prompts.

    Attributes:
        counts: the pooled counters.
        mean_acceptance_length: tau = 1 + accepted / rounds, tokens per round including the target's own.
        standard_error, ci95: of tau, with prompts as the sampling unit; None for a single prompt.
        mean_acceptance_length_per_request: unweighted mean of the prompts' own tau (prompts without a round
            left out). It differs from tau wherever prompts differ in length; never compare one with the other.
        marginal_rates, conditional_rates: per draft position; a conditional rate after a position that was
            never accepted is None.
        draft_acceptance_rate: accepted / drafted.
    """

    counts: Counts
    mean_acceptance_length: float
    standard_error: float | None
    ci95: tuple[float, float] | None
    mean_acceptance_length_per_request: float
    marginal_rates: tuple[float, ...]
    conditional_rates: tuple[float | None, ...]
    draft_acceptance_rate: float

    def to_json(self) -> dict[str, Any]:
        """The ``acceptance`` object of a report."""
        return {
            "rounds": self.counts.rounds,
            "drafted": self.counts.drafted,
            "accepted": self.counts.accepted,
            "accepted_per_position": list(self.counts.accepted_per_position),
            "mean_acceptance_length": self.mean_acceptance_length,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "standard_error": self.standard_error,
            "estimator": ESTIMATOR,
            "mean_acceptance_length_per_request": self.mean_acceptance_length_per_request,
            "marginal_acceptance_rates": list(self.marginal_rates),
            "conditional_acceptance_rates": list(self.conditional_rates),
            "draft_acceptance_rate": self.draft_acceptance_rate,
        }


def acceptance(prompts: Sequence[Counts]) -> Acceptance:
    """Acceptance pooled over prompts, one `Counts` each.

    With T_j = emitted tokens and S_j = rounds of prompt j, tau = sum T / sum S and
    SE^2 = n/(n-1) * sum (T_j - tau S_j)^2 / (sum S)^2: rounds of one prompt are correlated, prompts are not.
    Raises InputError (``metrics-no-rounds``) when no round was run.
    """
    pooled = total(prompts)
    if pooled.rounds == 0:
        raise InputError(
            "no round of speculative decoding was run, so there is no acceptance length",
            hint="ask for more tokens, or for prompts that the target does not answer with a single token",
            code="metrics-no-rounds",
        )
    tau = pooled.emitted / pooled.rounds
    error = _ratio_standard_error([(c.emitted, c.rounds) for c in prompts], tau)
    interval = None
    if error is not None:
        half = t_quantile(0.975, len(prompts) - 1) * error
        interval = (tau - half, tau + half)
    per_request = [c.emitted / c.rounds for c in prompts if c.rounds]
    steps = (pooled.rounds, *pooled.accepted_per_position)
    return Acceptance(
        counts=pooled,
        mean_acceptance_length=tau,
        standard_error=error,
        ci95=interval,
        mean_acceptance_length_per_request=sum(per_request) / len(per_request),
        marginal_rates=tuple(a / pooled.rounds for a in pooled.accepted_per_position),
        conditional_rates=tuple(b / a if a else None for a, b in pairwise(steps)),
        draft_acceptance_rate=pooled.accepted / pooled.drafted if pooled.drafted else 0.0,
    )


def by_category(prompts: Iterable[tuple[str, Counts]]) -> dict[str, dict[str, Any]]:
    """The ``categories`` object of a report: pooled counters of each category, in order of first appearance.

    ``mean_acceptance_length`` is None for a category without a round.
    """
    groups: dict[str, list[Counts]] = {}
    for category, counts in prompts:
        groups.setdefault(category, []).append(counts)
    return {category: _category(counts) for category, counts in groups.items()}


def _category(counts: Sequence[Counts]) -> dict[str, Any]:
    pooled = total(counts)
    return {
        "prompts": len(counts),
        "rounds": pooled.rounds,
        "accepted": pooled.accepted,
        "mean_acceptance_length": pooled.emitted / pooled.rounds if pooled.rounds else None,
    }


def _ratio_standard_error(pairs: Sequence[tuple[int, int]], ratio: float) -> float | None:
    n = len(pairs)
    if n < 2:
        return None
    residual = math.fsum((t - ratio * s) ** 2 for t, s in pairs)
    return math.sqrt(n / (n - 1) * residual) / sum(s for _, s in pairs)


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t with ``df`` degrees of freedom (an integer of 1 or more), in closed form.

    The finite trigonometric series for integer degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    if df < 1:
        raise ValueError(f"degrees of freedom must be 1 or more, not {df}")
    theta = math.atan(t / math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cos if odd else 1.0
    series = term if df > 1 else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= cos * cos * (k - 1) / k
        series += term
    inside = 2 / math.pi * (theta + sin * series) if odd else sin * series
    return (1 + inside) / 2


def t_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p, for 0.5 <= p < 1, by bisection to full precision."""
    if not 0.5 <= p < 1:
        raise ValueError(f"p must lie in [0.5, 1), not {p}")
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, high * 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
