"""Ratio estimates with intervals, prompts being the sampling unit, and the acceptance they make up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.student import t_quantile

ESTIMATOR = "pooled, ratio estimator over prompts"

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and its 95 % t interval; both None from fewer than two prompts.

    A width of zero says that the prompts did not differ, not that more prompts could not.
    """

    value: float
    standard_error: float | None
    ci95: Interval | None


def t_interval(value: float, standard_error: float, units: int) -> Interval:
    """The 95 % interval of an estimate from ``units`` independent units, 2 or more."""
    half = t_quantile(0.975, units - 1) * standard_error
    return value - half, value + half


def ratio(pairs: Iterable[tuple[float, float]]) -> Estimate:
    """The ratio of sums, sum T / sum S, of one (T, S) per prompt; sum S must not be 0.

    SE^2 = n/(n-1) * sum (T_j - ratio * S_j)^2 / (sum S)^2: what varies inside a prompt is correlated, prompts are not.
    A prompt with S = 0 says nothing and is left out of n.
    """
    units = [(t, s) for t, s in pairs if s]
    n = len(units)
    size = math.fsum(s for _, s in units)
    value = math.fsum(t for t, _ in units) / size
    if n < 2:
        return Estimate(value, None, None)
    error = math.sqrt(n / (n - 1) * math.fsum((t - value * s) ** 2 for t, s in units)) / size
    return Estimate(value, error, t_interval(value, error, n))


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
        marginal_ci95, conditional_ci95: their 95 % intervals, cut to [0, 1]; None where fewer than two prompts
            reached the position.
        draft_acceptance_rate: accepted / drafted.
    """

    counts: Counts
    mean_acceptance_length: float
    standard_error: float | None
    ci95: Interval | None
    mean_acceptance_length_per_request: float
    marginal_rates: tuple[float, ...]
    conditional_rates: tuple[float | None, ...]
    marginal_ci95: tuple[Interval | None, ...]
    conditional_ci95: tuple[Interval | None, ...]
    draft_acceptance_rate: float

    def to_json(self) -> dict[str, Any]:
        """The ``acceptance`` object of a report."""
        return {
            "rounds": self.counts.rounds,
            "drafted": self.counts.drafted,
            "accepted": self.counts.accepted,
            "accepted_per_position": list(self.counts.accepted_per_position),
            "mean_acceptance_length": self.mean_acceptance_length,
            "ci95": _listed(self.ci95),
            "standard_error": self.standard_error,
            "estimator": ESTIMATOR,
            "mean_acceptance_length_per_request": self.mean_acceptance_length_per_request,
            "marginal_acceptance_rates": list(self.marginal_rates),
            "marginal_ci95": [_listed(interval) for interval in self.marginal_ci95],
            "conditional_acceptance_rates": list(self.conditional_rates),
            "conditional_ci95": [_listed(interval) for interval in self.conditional_ci95],
            "draft_acceptance_rate": self.draft_acceptance_rate,
        }


def acceptance(prompts: Sequence[Counts]) -> Acceptance:
    """Acceptance pooled over prompts, one `Counts` each; tau is `ratio` of emitted tokens and rounds.

    Raises InputError (``metrics-no-rounds``) when no round was run.
    """
    pooled = require_rounds(total(prompts))
    tau = ratio([(c.emitted, c.rounds) for c in prompts])
    per_request = [c.emitted / c.rounds for c in prompts if c.rounds]
    positions = range(len(pooled.accepted_per_position))
    marginal = [_rate([(c.accepted_per_position[i], c.rounds) for c in prompts]) for i in positions]
    conditional = [_conditional(prompts, i) for i in positions]
    return Acceptance(
        counts=pooled,
        mean_acceptance_length=tau.value,
        standard_error=tau.standard_error,
        ci95=tau.ci95,
        mean_acceptance_length_per_request=math.fsum(per_request) / len(per_request),
        marginal_rates=tuple(e.value for e in marginal),
        conditional_rates=tuple(None if e is None else e.value for e in conditional),
        marginal_ci95=tuple(e.ci95 for e in marginal),
        conditional_ci95=tuple(None if e is None else e.ci95 for e in conditional),
        draft_acceptance_rate=pooled.accepted / pooled.drafted if pooled.drafted else 0.0,
    )


def acceptance_if_any(prompts: Sequence[Counts]) -> Acceptance | None:
    """`acceptance`, or None when no round was run."""
    return acceptance(prompts) if any(one.rounds for one in prompts) else None


def require_rounds(counts: Counts) -> Counts:
    """``counts``, or InputError (``metrics-no-rounds``) if they hold no round."""
    if counts.rounds == 0:
        raise InputError(
            "no round of speculative decoding was run, so there is no acceptance length",
            hint="ask for more tokens, or for prompts that the target does not answer with a single token",
            code="metrics-no-rounds",
        )
    return counts


def by_category(prompts: Iterable[tuple[str, Counts]]) -> dict[str, dict[str, Any]]:
    """The ``categories`` object of a report: pooled counters of each category, in order of first appearance.

    ``mean_acceptance_length`` is None for a category without a round, its interval also for one of a single prompt.
    """
    groups: dict[str, list[Counts]] = {}
    for category, counts in prompts:
        groups.setdefault(category, []).append(counts)
    return {category: _category(counts) for category, counts in groups.items()}


def _category(counts: Sequence[Counts]) -> dict[str, Any]:
    pooled = total(counts)
    tau = ratio([(c.emitted, c.rounds) for c in counts]) if pooled.rounds else None
    return {
        "prompts": len(counts),
        "rounds": pooled.rounds,
        "accepted": pooled.accepted,
        "mean_acceptance_length": None if tau is None else tau.value,
        "ci95": None if tau is None else _listed(tau.ci95),
    }


def _conditional(prompts: Sequence[Counts], position: int) -> Estimate | None:
    """Of the prompts that reached draft position ``position`` (from 0); None if none did."""
    steps = [(c.rounds, *c.accepted_per_position)[position : position + 2] for c in prompts]
    return _rate([(after, before) for before, after in steps]) if any(before for before, _ in steps) else None


def _rate(pairs: Sequence[tuple[int, int]]) -> Estimate:
    found = ratio(pairs)
    if found.ci95 is None:
        return found
    low, high = found.ci95
    return Estimate(found.value, found.standard_error, (max(low, 0.0), min(high, 1.0)))


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
