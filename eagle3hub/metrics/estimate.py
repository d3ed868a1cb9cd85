"""Ratio estimates with intervals, prompts being the sampling unit, and the acceptance they make up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.intervals import Estimate, Interval, Unit, rate, share

ESTIMATOR = "pooled, ratio estimator over prompts"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Acceptance over a set of prompts.

    Attributes:
        counts: the pooled counters.
        prompts: those with a round; the others say nothing.
        mean_acceptance_length: tau = 1 + accepted / rounds, tokens per round including the target's own.
        standard_error, ci95: of tau, with prompts as the sampling unit, the interval inside [1, K + 1]; None from
            fewer than `MIN_PROMPTS` prompts (see `intervals`).
        mean_acceptance_length_per_request: unweighted mean of the prompts' own tau (prompts without a round
            left out). It differs from tau wherever prompts differ in length; never compare one with the other.
        marginal_rates, conditional_rates: per draft position; a conditional rate after a position that was
            never accepted is None.
        marginal_ci95, conditional_ci95: their 95 % intervals, inside [0, 1]; None for a rate of 0 or 1, and where
            fewer than `MIN_PROMPTS` prompts reached the position.
        draft_acceptance_rate: accepted / drafted.
    """

    counts: Counts
    prompts: int
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
            "prompts": self.prompts,
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
    """Acceptance pooled over prompts, one `Counts` each; tau is the sum of emitted tokens over that of rounds.

    Raises InputError (``metrics-no-rounds``) when no round was run.
    """
    pooled = require_rounds(total(prompts))
    tau = acceptance_length(prompts)
    per_request = [c.emitted / c.rounds for c in prompts if c.rounds]
    positions = range(len(pooled.accepted_per_position))
    marginal = [rate((c.accepted_per_position[i], c.rounds) for c in prompts) for i in positions]
    conditional = [_conditional(prompts, i) for i in positions]
    return Acceptance(
        counts=pooled,
        prompts=len(per_request),
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


def acceptance_length(prompts: Sequence[Counts]) -> Estimate:
    """Tau over prompts of which one has a round, with an interval inside [1, K + 1]."""
    pooled = total(prompts)
    most = len(pooled.accepted_per_position)
    found = share(map(Unit.of_rounds, prompts))
    value = pooled.emitted / pooled.rounds
    if found.ci95 is None or found.standard_error is None:
        return Estimate(value, None, None)
    low, high = found.ci95
    return Estimate(value, most * found.standard_error, (min(1 + most * low, value), max(1 + most * high, value)))


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

    ``mean_acceptance_length`` is None for a category without a round, its interval also for one of fewer than
    `MIN_PROMPTS` prompts with a round.
    """
    groups: dict[str, list[Counts]] = {}
    for category, counts in prompts:
        groups.setdefault(category, []).append(counts)
    return {category: _category(counts) for category, counts in groups.items()}


def _category(counts: Sequence[Counts]) -> dict[str, Any]:
    pooled = total(counts)
    tau = acceptance_length(counts) if pooled.rounds else None
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
    if not any(before for before, _ in steps):
        return None
    return rate((after, before) for before, after in steps)


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
