"""Estimate acceptance length and its intervals from per-prompt counters."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total

# Student's t distribution, in the closed form for integer degrees of freedom.


def t_cdf(t: float, df: int) -> float:
    """Return P(T <= t) of Student's t with ``df`` degrees of freedom (an integer of 1 or more), in closed form.

    It is the finite trigonometric series for integer degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4).
    """
    if df < 1:
        raise ValueError(f"degrees of freedom must be 1 or more, not {df}")
    theta = math.atan(t / math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cos if odd else 1.0
    series = term if df > 1 else 0.0
    for k in range(2 + odd, df, 2):
        term *= cos * cos * (k - 1) / k
        series += term
    inside = 2 / math.pi * (theta + sin * series) if odd else sin * series
    return (1 + inside) / 2


@cache
def t_quantile(p: float, df: int) -> float:
    """Return the t with P(T <= t) = p, for 0.5 <= p < 1, by bisection to full precision."""
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


def t_quantile_between(p: float, df: float) -> float:
    """Return `t_quantile` for any ``df`` of 1 or more; between whole numbers it is linear in 1 / df."""
    below = math.floor(df)
    if below == df:
        return t_quantile(p, below)
    share = (1 / below - 1 / df) / (1 / below - 1 / (below + 1))
    return (1 - share) * t_quantile(p, below) + share * t_quantile(p, below + 1)


# 95 % intervals over prompts that stay inside the range of the value.
#
# For a share in [0, 1] (a rate, or (tau - 1) / K) each prompt is left out in turn, and the spread of the logits of the
# remaining shares gives the interval: the jackknife of a transformed ratio (Miller, "The jackknife: a review",
# Biometrika 61, 1974), with the transform that survey statistics uses for shares (Korn & Graubard, "Analysis of Health
# Surveys", 1999). The quantile is Student's. Its degrees of freedom are matched to the kurtosis of the spread, so they
# are fewer if few prompts cause it (O'Neill, "Some useful moment results in sampling problems", The American
# Statistician 68, 2014).
#
# A width of 0 would claim a certainty that a sample cannot give. So the variance is never below that of independent
# rounds: a design effect below 1 counts as 1 (Korn & Graubard, Survey Methodology 24, 1998). If nothing or everything
# was accepted, the variance is that of an empirical logit, with half a round added on each side (Gart & Zweifel,
# Biometrika 54, 1967).
#
# ``benchmarks/coverage.py`` measures how often these intervals, and those of other methods, contain the truth.


Interval = tuple[float, float]

MIN_PROMPTS = 8
"""Fewest prompts with a round for which there is an interval.

In simulation (``benchmarks/coverage.py``, docs/coverage.md), from 8 prompts on, the interval of tau contains the truth
in 93 % of samples or more, in every population tried. With 4 prompts it fails in some populations, and half of the
intervals are wider than 0.6 of the range.
"""

_NEAR_EDGE = 0.1
"""Rounds added on both sides, so that the remaining prompts may all have accepted nothing or everything."""

_AT_EDGE = 0.5
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and its 95 % interval; both are None with fewer than `MIN_PROMPTS` prompts."""

    value: float
    standard_error: float | None
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt's part of a share: of ``trials``, each worth 0 to ``most``, it got ``total``.

    ``squares`` is the sum of the squares of the trials' values.
    """

    total: int
    trials: int
    squares: int
    most: int = 1

    @classmethod
    def of_rounds(cls, counts: Counts) -> Unit:
        """Count the drafts that rounds accepted, of K each.

        ``accepted_per_position`` gives the sum of squares, too.
        """
        per_position = counts.accepted_per_position
        squares = sum((2 * i + 1) * accepted for i, accepted in enumerate(per_position))
        return cls(counts.accepted, counts.rounds, squares, len(per_position))

    @classmethod
    def of_successes(cls, successes: int, trials: int) -> Unit:
        """Count trials that succeed or fail."""
        return cls(successes, trials, successes)


def too_few(prompts: int) -> str:
    """Say why there is no interval over ``prompts`` prompts, as the end of a sentence."""
    have = "1 prompt with rounds is" if prompts == 1 else f"{prompts} prompts with rounds are"
    return f"{have} too few for an interval; {MIN_PROMPTS} or more are needed"


def share(units: Iterable[Unit]) -> Estimate:
    """Estimate the sum of totals over the sum of trials, per ``most``; the share and its interval are in [0, 1].

    Units without a trial are left out; at least one unit needs a trial. All have the same ``most``.
    """
    kept = [unit for unit in units if unit.trials]
    most = kept[0].most
    trials, total = sum(u.trials for u in kept), sum(u.total for u in kept)
    value = total / (trials * most) if most else 0.0
    if len(kept) < MIN_PROMPTS or not most:
        return Estimate(value, None, None)
    edge, variance, df = _spread(kept, trials, total, most)
    centre = _logit(total / most, trials, edge)
    half = t_quantile_between(0.975, df) * math.sqrt(variance)
    low = 0.0 if total == 0 else min(_share_of(centre - half), value)
    high = 1.0 if total == trials * most else max(_share_of(centre + half), value)
    middle = _share_of(centre)
    return Estimate(value, math.sqrt(variance) * middle * (1 - middle), (low, high))


def _spread(kept: Sequence[Unit], trials: int, total: int, most: int) -> tuple[float, float, float]:
    """Return what to add on both sides of the share, the variance of its logit then, and the degrees of freedom."""
    gained, n = total / most, len(kept)
    if total in (0, trials * most):
        return _AT_EDGE, 1 / (gained + _AT_EDGE) + 1 / (trials - gained + _AT_EDGE), n - 1
    centre = _logit(gained, trials, _NEAR_EDGE)
    moved = [_logit((total - u.total) / most, trials - u.trials, _NEAR_EDGE) - centre for u in kept]
    between = (n - 1) / n * math.fsum(d * d for d in moved)
    # as if rounds were independent, and one of them might have accepted one more
    squares = max(sum(u.squares for u in kept) - total * total / trials, 1.0) / most**2
    effective = gained * (trials - gained) / squares
    yes = effective * gained / trials
    within = 1 / (yes + _AT_EDGE) + 1 / (effective - yes + _AT_EDGE)
    if between <= within:
        return _NEAR_EDGE, within, n - 1
    return _NEAR_EDGE, between, _degrees_of_freedom(moved, caution=2, fewest=2)


def _degrees_of_freedom(deviations: Sequence[float], *, caution: int, fewest: float) -> float:
    """Return the degrees of freedom of the variance of ``deviations``: n - 1, or fewer if their kurtosis is high.

    They are 2n / (kurtosis - (n - 3) / (n - 1)); n - 1 if the kurtosis is that of a normal distribution or less. A
    sample shows too small a kurtosis, for a normal distribution by (n - 1) / (n + 1). This is corrected ``caution``
    times: the simulation shows that once is too little if prompts differ much, and more than once costs little if they
    do not.
    """
    n = len(deviations)
    second, fourth = math.fsum(d**2 for d in deviations), math.fsum(d**4 for d in deviations)
    kurtosis = n * fourth / second**2 * ((n + 1) / (n - 1)) ** caution
    if kurtosis <= 3:
        return n - 1
    return max(2 * n / (kurtosis - (n - 3) / (n - 1)), fewest)


def rate(pairs: Iterable[Sequence[int]]) -> Estimate:
    """Estimate the share of trials that succeeded, from each prompt's successes and trials.

    A rate of 0 or 1 has no interval: if only few prompts ever accept a position, the sampled prompts say little about
    the others.
    """
    found = share(Unit.of_successes(successes, trials) for successes, trials in pairs)
    return found if 0 < found.value < 1 else Estimate(found.value, None, None)


def difference(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]], value: float, bounds: Interval) -> Estimate:
    """Return the interval of ``value``, the ratio of sums over ``a`` less that over ``b``, paired by prompt.

    It is the jackknife of the difference, in which effects that a prompt has on both cancel. No transform makes it
    symmetric, so its kurtosis is corrected with more ``caution`` than a share's. It is cut to ``bounds``. There is no
    interval with fewer than `MIN_PROMPTS` pairs, or if the pairs show no spread, since that does not tell how large
    the spread really is.
    """
    n = len(a)
    tokens_a, rounds_a = sum(t for t, _ in a), sum(s for _, s in a)
    tokens_b, rounds_b = sum(t for t, _ in b), sum(s for _, s in b)
    alone = any(s == rounds_a for _, s in a) or any(s == rounds_b for _, s in b)
    if n < MIN_PROMPTS or alone:
        return Estimate(value, None, None)
    moved = [
        (tokens_a - ta) / (rounds_a - sa) - (tokens_b - tb) / (rounds_b - sb) - value
        for (ta, sa), (tb, sb) in zip(a, b, strict=True)
    ]
    if max(map(abs, moved)) < _NO_SPREAD:
        return Estimate(value, None, None)
    variance, df = jackknife(moved)
    error = math.sqrt(variance)
    half = t_quantile_between(0.975, df) * error
    return Estimate(value, error, (max(value - half, bounds[0]), min(value + half, bounds[1])))


def jackknife(moved: Sequence[float]) -> tuple[float, float]:
    """Return the variance of a value, and its degrees of freedom, from how far it moves as each unit is left out."""
    n = len(moved)
    variance = (n - 1) / n * math.fsum(d * d for d in moved)
    return variance, _degrees_of_freedom(moved, caution=3, fewest=1) if variance else n - 1.0


def _logit(gained: float, trials: int, edge: float) -> float:
    return math.log((gained + edge) / (trials - gained + edge))


def _share_of(logit: float) -> float:
    """Return the share that has this logit, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1 + grown)


# Ratio estimates with intervals, with prompts as the sampling unit, and the acceptance computed from them.


ESTIMATOR = "pooled, ratio estimator over prompts"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Acceptance over a set of prompts.

    When read from a file, it holds what the file states; `eagle3hub.validation.derive` checks whether that follows
    from the file's counters.

    Attributes:
        prompts: number of prompts with a round; the others do not count.
        rounds, drafted, accepted, accepted_per_position: the pooled counters.
        mean_acceptance_length: tau = 1 + accepted / rounds, tokens per round including the target's own.
        standard_error, ci95: of tau, with prompts as the sampling unit; the interval lies inside [1, K + 1]. Both are
            None with fewer than `MIN_PROMPTS` prompts.
        mean_acceptance_length_per_request: unweighted mean of the prompts' own tau (prompts without a round left out).
            It differs from tau wherever prompts differ in length; never compare one with the other.
        marginal_rates, conditional_rates: per draft position; a conditional rate after a position that was never
            accepted is None.
        marginal_ci95, conditional_ci95: their 95 % intervals, inside [0, 1]; None for a rate of 0 or 1, and if fewer
            than `MIN_PROMPTS` prompts reached the position.
        draft_acceptance_rate: accepted / drafted.
    """

    prompts: int
    rounds: int
    drafted: int
    accepted: int
    accepted_per_position: tuple[int, ...]
    mean_acceptance_length: float
    ci95: Interval | None
    standard_error: float | None
    mean_acceptance_length_per_request: float
    marginal_rates: tuple[float, ...]
    marginal_ci95: tuple[Interval | None, ...]
    conditional_rates: tuple[float | None, ...]
    conditional_ci95: tuple[Interval | None, ...]
    draft_acceptance_rate: float
    estimator: str = ESTIMATOR

    def to_json(self) -> dict[str, Any]:
        """Return the acceptance as the ``acceptance`` object of a report."""
        return {
            "prompts": self.prompts,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "accepted_per_position": list(self.accepted_per_position),
            "mean_acceptance_length": self.mean_acceptance_length,
            "ci95": interval_to_json(self.ci95),
            "standard_error": self.standard_error,
            "estimator": self.estimator,
            "mean_acceptance_length_per_request": self.mean_acceptance_length_per_request,
            "marginal_acceptance_rates": list(self.marginal_rates),
            "marginal_ci95": [interval_to_json(ends) for ends in self.marginal_ci95],
            "conditional_acceptance_rates": list(self.conditional_rates),
            "conditional_ci95": [interval_to_json(ends) for ends in self.conditional_ci95],
            "draft_acceptance_rate": self.draft_acceptance_rate,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Acceptance:
        """Read what `to_json` wrote; fields that an older report lacks stay empty."""
        return cls(
            prompts=data.get("prompts", 0),
            rounds=data["rounds"],
            drafted=data["drafted"],
            accepted=data["accepted"],
            accepted_per_position=tuple(data["accepted_per_position"]),
            mean_acceptance_length=data["mean_acceptance_length"],
            ci95=interval_from_json(data["ci95"]),
            standard_error=data["standard_error"],
            mean_acceptance_length_per_request=data["mean_acceptance_length_per_request"],
            marginal_rates=tuple(data["marginal_acceptance_rates"]),
            marginal_ci95=tuple(map(interval_from_json, data.get("marginal_ci95", ()))),
            conditional_rates=tuple(data["conditional_acceptance_rates"]),
            conditional_ci95=tuple(map(interval_from_json, data.get("conditional_ci95", ()))),
            draft_acceptance_rate=data["draft_acceptance_rate"],
            estimator=data["estimator"],
        )


@dataclass(frozen=True, slots=True)
class CategoryAcceptance:
    """Acceptance over the prompts of one category; the acceptance length is None if none of them had a round."""

    prompts: int
    rounds: int
    accepted: int
    mean_acceptance_length: float | None
    ci95: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return the acceptance as a value of the ``categories`` object of a report."""
        return {
            "prompts": self.prompts,
            "rounds": self.rounds,
            "accepted": self.accepted,
            "mean_acceptance_length": self.mean_acceptance_length,
            "ci95": interval_to_json(self.ci95),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CategoryAcceptance:
        """Read what `to_json` wrote."""
        return cls(
            data["prompts"],
            data["rounds"],
            data["accepted"],
            data["mean_acceptance_length"],
            interval_from_json(data.get("ci95")),
        )


def acceptance(prompts: Sequence[Counts]) -> Acceptance:
    """Pool acceptance over prompts, one `Counts` each; tau is the sum of emitted tokens over the sum of rounds.

    Raises InputError (``metrics-no-rounds``) if no round ran.
    """
    pooled = require_rounds(total(prompts))
    tau = acceptance_length(prompts)
    per_request = [c.emitted / c.rounds for c in prompts if c.rounds]
    positions = range(len(pooled.accepted_per_position))
    marginal = [rate((c.accepted_per_position[i], c.rounds) for c in prompts) for i in positions]
    conditional = [_conditional(prompts, i) for i in positions]
    return Acceptance(
        prompts=len(per_request),
        rounds=pooled.rounds,
        drafted=pooled.drafted,
        accepted=pooled.accepted,
        accepted_per_position=pooled.accepted_per_position,
        mean_acceptance_length=tau.value,
        ci95=tau.ci95,
        standard_error=tau.standard_error,
        mean_acceptance_length_per_request=math.fsum(per_request) / len(per_request),
        marginal_rates=tuple(e.value for e in marginal),
        conditional_rates=tuple(None if e is None else e.value for e in conditional),
        marginal_ci95=tuple(e.ci95 for e in marginal),
        conditional_ci95=tuple(None if e is None else e.ci95 for e in conditional),
        draft_acceptance_rate=pooled.accepted / pooled.drafted if pooled.drafted else 0.0,
    )


def acceptance_length(prompts: Sequence[Counts]) -> Estimate:
    """Estimate tau over prompts of which at least one has a round, with an interval inside [1, K + 1]."""
    pooled = total(prompts)
    most = len(pooled.accepted_per_position)
    found = share(map(Unit.of_rounds, prompts))
    value = pooled.emitted / pooled.rounds
    if found.ci95 is None or found.standard_error is None:
        return Estimate(value, None, None)
    low, high = found.ci95
    return Estimate(value, most * found.standard_error, (min(1 + most * low, value), max(1 + most * high, value)))


def acceptance_if_any(prompts: Sequence[Counts]) -> Acceptance | None:
    """Return `acceptance`, or None if no round ran."""
    return acceptance(prompts) if any(one.rounds for one in prompts) else None


def require_rounds(counts: Counts) -> Counts:
    """Return ``counts``; raises InputError (``metrics-no-rounds``) if they hold no round."""
    if counts.rounds == 0:
        raise InputError(
            "no round of speculative decoding was run, so there is no acceptance length",
            hint="ask for more tokens, or for prompts that the target does not answer with a single token",
            code="metrics-no-rounds",
        )
    return counts


def by_category(prompts: Iterable[tuple[str, Counts]]) -> dict[str, CategoryAcceptance]:
    """Return the acceptance of each category, pooled over its prompts, in order of first appearance."""
    groups: dict[str, list[Counts]] = {}
    for category, counts in prompts:
        groups.setdefault(category, []).append(counts)
    return {category: _category(counts) for category, counts in groups.items()}


def _category(counts: Sequence[Counts]) -> CategoryAcceptance:
    pooled = total(counts)
    tau = acceptance_length(counts) if pooled.rounds else None
    value, ci95 = (None, None) if tau is None else (tau.value, tau.ci95)
    return CategoryAcceptance(len(counts), pooled.rounds, pooled.accepted, value, ci95)


def _conditional(prompts: Sequence[Counts], position: int) -> Estimate | None:
    """Pool the prompts that reached draft position ``position`` (from 0); None if none did."""
    steps = [(c.rounds, *c.accepted_per_position)[position : position + 2] for c in prompts]
    if not any(before for before, _ in steps):
        return None
    return rate((after, before) for before, after in steps)


def interval_to_json(ends: Interval | None) -> list[float] | None:
    """Write an interval as JSON has it."""
    return None if ends is None else list(ends)


def interval_from_json(ends: Sequence[float] | None) -> Interval | None:
    """Read an interval from JSON."""
    return None if ends is None else (ends[0], ends[1])


# A cross-check of the intervals: resample the prompts.


def bootstrap(prompts: Sequence[Counts], *, repeats: int = 2000, seed: int = 0) -> Estimate:
    """Resample the prompts ``repeats`` times: pooled tau, its standard error, and the 2.5 % and 97.5 % quantiles.

    Error and interval are None with fewer than `MIN_PROMPTS` prompts that have a round; prompts without one are left
    out. The same seed gives the same numbers. Raises InputError (``metrics-no-rounds``).
    """
    if repeats < 40:
        raise ValueError(f"the 2.5 % quantile takes 40 resamples or more, not {repeats}")
    pooled = require_rounds(total(prompts))
    tau = pooled.emitted / pooled.rounds
    units = [(c.emitted, c.rounds) for c in prompts if c.rounds]
    if len(units) < MIN_PROMPTS:
        return Estimate(tau, None, None)
    draw = random.Random(seed)
    found = []
    for _ in range(repeats):
        tokens, rounds = map(sum, zip(*draw.choices(units, k=len(units)), strict=True))
        found.append(tokens / rounds)
    found.sort()
    mean = math.fsum(found) / repeats
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in found) / (repeats - 1))
    return Estimate(tau, error, (_quantile(found, 0.025), _quantile(found, 0.975)))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
