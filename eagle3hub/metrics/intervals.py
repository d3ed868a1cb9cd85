"""95 % intervals over prompts that stay inside the range of what they are of.

For a share in [0, 1] (a rate, or (tau - 1) / K) the prompts are left out one after another, and the spread of the
logits of what remains gives the interval: the jackknife of a transformed ratio (Miller, "The jackknife: a review",
Biometrika 61, 1974), with the transform that survey statistics uses for shares (Korn & Graubard, "Analysis of Health
Surveys", 1999). The quantile is Student's, with fewer degrees of freedom where few prompts carry the spread: they are
matched to its kurtosis (O'Neill, "Some useful moment results in sampling problems", The American Statistician 68,
2014).

A width of 0 would be no certainty, and there is none. The variance is never below that of independent rounds: a design
effect below 1 counts as 1 (Korn & Graubard, Survey Methodology 24, 1998). Where nothing or everything was accepted it
is that of an empirical logit, with half a round on each side (Gart & Zweifel, Biometrika 54, 1967).

``benchmarks/coverage.py`` measures how often these intervals hold the truth, beside other methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eagle3hub.metrics.counters import Counts
from eagle3hub.metrics.student import t_quantile_between

Interval = tuple[float, float]

MIN_PROMPTS = 8
"""From so many prompts with a round on there is an interval, and below it none.

In simulation (``benchmarks/coverage.py``, docs/coverage.md) the interval of tau holds the truth in 93 % of samples
or more from 8 prompts on, in every population tried. At 4 not in every one, and half of them are wider than 0.6 of
the range.
"""

_NEAR_EDGE = 0.1
"""Rounds added on both sides, so that the prompts left over may all have accepted nothing or everything."""

_AT_EDGE = 0.5
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and its 95 % interval; both None from fewer than `MIN_PROMPTS` prompts."""

    value: float
    standard_error: float | None
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What one prompt says of a share: of ``trials``, each worth 0 to ``most``, it got ``total``.

    ``squares`` is the sum of the squares of what the trials got.
    """

    total: int
    trials: int
    squares: int
    most: int = 1

    @classmethod
    def of_rounds(cls, counts: Counts) -> Unit:
        """The drafts that rounds accepted, of K each. ``accepted_per_position`` holds the sum of squares, too."""
        per_position = counts.accepted_per_position
        squares = sum((2 * i + 1) * accepted for i, accepted in enumerate(per_position))
        return cls(counts.accepted, counts.rounds, squares, len(per_position))

    @classmethod
    def of_successes(cls, successes: int, trials: int) -> Unit:
        """Trials that succeed or do not."""
        return cls(successes, trials, successes)


def too_few(prompts: int) -> str:
    """Why there is no interval over ``prompts`` prompts, as the end of a sentence."""
    have = "1 prompt with rounds is" if prompts == 1 else f"{prompts} prompts with rounds are"
    return f"{have} too few for an interval; {MIN_PROMPTS} or more are needed"


def share(units: Iterable[Unit]) -> Estimate:
    """Sum of totals over sum of trials, per ``most``: in [0, 1], and so is its interval.

    Units without a trial say nothing and are left out; there must be a trial. All have the same ``most``.
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
    """What to add on both sides of the share, the variance of its logit then, and the degrees of freedom."""
    gained, n = total / most, len(kept)
    if total in (0, trials * most):
        return _AT_EDGE, 1 / (gained + _AT_EDGE) + 1 / (trials - gained + _AT_EDGE), n - 1
    centre = _logit(gained, trials, _NEAR_EDGE)
    moved = [_logit((total - u.total) / most, trials - u.trials, _NEAR_EDGE) - centre for u in kept]
    between = (n - 1) / n * math.fsum(d * d for d in moved)
    # as if rounds were independent, and one of them might have got one more
    squares = max(sum(u.squares for u in kept) - total * total / trials, 1.0) / most**2
    effective = gained * (trials - gained) / squares
    yes = effective * gained / trials
    within = 1 / (yes + _AT_EDGE) + 1 / (effective - yes + _AT_EDGE)
    if between <= within:
        return _NEAR_EDGE, within, n - 1
    return _NEAR_EDGE, between, _degrees_of_freedom(moved, caution=2, fewest=2)


def _degrees_of_freedom(deviations: Sequence[float], *, caution: int, fewest: float) -> float:
    """Those of the variance of ``deviations``: n - 1 where their kurtosis is a normal one's or less, else fewer.

    2n / (kurtosis - (n - 3) / (n - 1)). A sample shows too small a kurtosis, a normal one's by (n - 1) / (n + 1);
    this is undone ``caution`` times: the simulation asks for more than once where prompts differ much, and it costs
    little where they do not.
    """
    n = len(deviations)
    second, fourth = math.fsum(d**2 for d in deviations), math.fsum(d**4 for d in deviations)
    kurtosis = n * fourth / second**2 * ((n + 1) / (n - 1)) ** caution
    if kurtosis <= 3:
        return n - 1
    return max(2 * n / (kurtosis - (n - 3) / (n - 1)), fewest)


def rate(pairs: Iterable[Sequence[int]]) -> Estimate:
    """The share of trials that succeeded, from successes and trials of each prompt.

    A rate of 0 or 1 has no interval: where a position is seldom accepted, and by few prompts, those that were drawn
    say little of those that were not.
    """
    found = share(Unit.of_successes(successes, trials) for successes, trials in pairs)
    return found if 0 < found.value < 1 else Estimate(found.value, None, None)


def difference(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]], value: float, bounds: Interval) -> Estimate:
    """The interval of ``value``, the ratio of sums over ``a`` less that over ``b``, pairs of one prompt in each.

    The jackknife of the difference: what a prompt does to both alike cancels. No transform makes it symmetric, so its
    kurtosis is met with more caution than a share's. It is cut to ``bounds``. There is none from fewer than
    `MIN_PROMPTS` pairs, or where they show no spread at all: that says nothing about how large it is.
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
    error = math.sqrt((n - 1) / n * math.fsum(d * d for d in moved))
    half = t_quantile_between(0.975, _degrees_of_freedom(moved, caution=3, fewest=1)) * error
    return Estimate(value, error, (max(value - half, bounds[0]), min(value + half, bounds[1])))


def _logit(gained: float, trials: int, edge: float) -> float:
    return math.log((gained + edge) / (trials - gained + edge))


def _share_of(logit: float) -> float:
    """The share with this logit, without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1 + grown)
