"""Compare two measurements, and turn acceptance into speed-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.estimate import (
    MIN_PROMPTS,
    Estimate,
    Interval,
    difference,
    interval_to_json,
    jackknife,
    require_rounds,
    t_quantile_between,
)
from eagle3hub.metrics.translate import relative_percent

_NO_SPREAD = 1e-24

# Compare two runs over the same prompts (two heads, or one head on two engines), prompt by prompt.


@dataclass(frozen=True, slots=True)
class Paired:
    """The difference a - b of two pooled acceptance lengths over the same prompts.

    Attributes:
        prompts: pairs in which at least one run had a round.
        tau, base_tau: acceptance length of a and of b.
        difference: tau - base_tau, in tokens per round.
        relative: the same in percent of base_tau.
        standard_error, ci95: of the difference, with prompts as the sampling unit; the interval stays inside the range
            that a difference of two lengths can have. None with fewer than `MIN_PROMPTS` pairs, or if no pair changes
            the difference.
        identical: prompts with the same counters in both.
        first_difference: index of the first prompt whose counters differ, or None.
    """

    prompts: int
    tau: float
    base_tau: float
    difference: float
    relative: float
    standard_error: float | None
    ci95: Interval | None
    identical: int
    first_difference: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "prompts": self.prompts,
            "mean_acceptance_length": self.tau,
            "base_mean_acceptance_length": self.base_tau,
            "difference": self.difference,
            "relative_percent": self.relative,
            "standard_error": self.standard_error,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "identical": self.identical,
            "first_difference": self.first_difference,
        }


def paired(a: Sequence[Counts], b: Sequence[Counts]) -> Paired:
    """Compare two runs over the same prompts in the same order.

    Both tau are ratio estimates over the same prompts. Leaving out a prompt therefore leaves it out of both, and
    effects that a prompt has on both cancel (see `estimate.difference`). Raises InputError (``metrics-unpaired``,
    ``metrics-no-rounds``).
    """
    if len(a) != len(b):
        raise InputError(
            f"runs over {len(a)} and {len(b)} prompts cannot be compared prompt by prompt", code="metrics-unpaired"
        )
    ours, theirs = require_rounds(total(a)), require_rounds(total(b))
    tau, base = ours.emitted / ours.rounds, theirs.emitted / theirs.rounds
    units = [(x, y) for x, y in zip(a, b, strict=True) if x.rounds or y.rounds]
    most, base_most = len(ours.accepted_per_position), len(theirs.accepted_per_position)
    found = difference(
        [(x.emitted, x.rounds) for x, _ in units],
        [(y.emitted, y.rounds) for _, y in units],
        tau - base,
        (-float(base_most), float(most)),
    )
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    return Paired(
        prompts=len(units),
        tau=tau,
        base_tau=base,
        difference=tau - base,
        relative=relative_percent(tau, base),
        standard_error=found.standard_error,
        ci95=found.ci95,
        identical=len(a) - len(different),
        first_difference=different[0] if different else None,
    )


def paired_rates(a: Sequence[Counts], b: Sequence[Counts]) -> list[Estimate]:
    """Return the difference a - b of the marginal acceptance rate of each draft position, as `paired` does of tau.

    Raises InputError (``metrics-unpaired``, ``metrics-no-rounds``).
    """
    require_rounds(total(a))
    require_rounds(total(b))
    if len(a) != len(b) or len({len(one.accepted_per_position) for one in (*a, *b)}) != 1:
        raise InputError(
            "runs over other prompts or with another number of draft tokens have no rates to compare",
            code="metrics-unpaired",
        )
    units = [(x, y) for x, y in zip(a, b, strict=True) if x.rounds or y.rounds]
    out = []
    for position in range(len(a[0].accepted_per_position)):
        ours = [(x.accepted_per_position[position], x.rounds) for x, _ in units]
        theirs = [(y.accepted_per_position[position], y.rounds) for _, y in units]
        value = _ratio(ours) - _ratio(theirs)
        out.append(difference(ours, theirs, value, (-1.0, 1.0)))
    return out


def _ratio(units: Sequence[tuple[int, int]]) -> float:
    return sum(count for count, _ in units) / sum(rounds for _, rounds in units)


# Measured speed-up: two servers answered the same prompts, in several runs.


Timed = tuple[int, float]
"""One answered request: new tokens, and seconds from sending it to its last token."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster a server answered than another: the ratio of two speeds, in tokens per second of request.

    Attributes:
        prompts, runs: how many prompts both answered, and how often each.
        tokens_per_second, base_tokens_per_second: new tokens over request seconds, pooled over prompts and runs.
        ratio: of the two speeds.
        ci95: of the ratio; None with fewer than `MIN_PROMPTS` prompts, and if no pair changes the ratio.
    """

    prompts: int
    runs: int
    tokens_per_second: float
    base_tokens_per_second: float
    ratio: float
    ci95: Interval | None


def speedup(ours: Sequence[Sequence[Timed]], base: Sequence[Sequence[Timed]]) -> Speedup:
    """Compare two servers over the same prompts: one sequence per run, with one entry per prompt, in the same order.

    The interval is that of the logarithm of the ratio, by the jackknife. Prompts are left out in turn, from both
    servers and all runs at once, and so are runs, from both servers at once: what a prompt or a run does to both
    cancels. The two variances are added, which counts the chance within a request twice and makes the interval rather
    too wide; the degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946). With one run, nothing is known
    of how runs differ, and the interval is that over prompts. Raises InputError (``metrics-unpaired``).
    """
    shape = [len(run) for run in ours]
    if not shape or not shape[0] or shape != [len(run) for run in base] or len(set(shape)) != 1:
        raise InputError(
            "two servers can be compared only over the same prompts and runs, of which there must be one or more",
            code="metrics-unpaired",
        )
    runs, prompts = len(shape), shape[0]
    both = [[(*ours[r][p], *base[r][p]) for p in range(prompts)] for r in range(runs)]
    whole = _speeds([cell for run in both for cell in run])
    ratio = whole[0] / whole[1]
    parts: list[tuple[float, float]] = []
    if prompts >= MIN_PROMPTS:
        moved = [
            _log_ratio([cell for run in both for q, cell in enumerate(run) if q != p]) - math.log(ratio)
            for p in range(prompts)
        ]
        parts.append(jackknife(moved))
        if runs > 1:
            by_run = [
                _log_ratio([cell for s, run in enumerate(both) if s != r for cell in run]) - math.log(ratio)
                for r in range(runs)
            ]
            parts.append(((runs - 1) / runs * math.fsum(d * d for d in by_run), runs - 1.0))
    variance = math.fsum(v for v, _ in parts)
    if variance < _NO_SPREAD:
        return Speedup(prompts, runs, *whole, ratio, None)
    df = variance**2 / math.fsum(v**2 / d for v, d in parts)
    half = t_quantile_between(0.975, max(df, 1.0)) * math.sqrt(variance)
    return Speedup(prompts, runs, *whole, ratio, (ratio * math.exp(-half), ratio * math.exp(half)))


_Cell = tuple[int, float, int, float]


def _speeds(cells: Sequence[_Cell]) -> tuple[float, float]:
    tokens, seconds, base_tokens, base_seconds = map(math.fsum, zip(*cells, strict=True))
    return tokens / seconds, base_tokens / base_seconds


def _log_ratio(cells: Sequence[_Cell]) -> float:
    ours, base = _speeds(cells)
    return math.log(ours / base)


# Speed-up to expect of each K: what acceptance gains, at the measured price of drafting and verifying.


@dataclass(frozen=True, slots=True)
class TimedPrompt:
    """One prompt, answered by the target with a head and alone: the counters, and both answers' tokens and seconds."""

    counts: Counts
    drafted: Timed
    alone: Timed


@dataclass(frozen=True, slots=True)
class SpeedAt:
    """The speed-up over the target alone with K draft tokens.

    Attributes:
        speedup, ci95: expected, from acceptance and costs.
        measured, measured_ci95: of the run with this K (`speedup`); None where there was none.
    """

    draft_tokens: int
    mean_acceptance_length: float
    speedup: float
    ci95: Interval | None
    measured: float | None
    measured_ci95: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Return the point as plain data."""
        return {
            **asdict(self),
            "ci95": interval_to_json(self.ci95),
            "measured_ci95": interval_to_json(self.measured_ci95),
        }


@dataclass(frozen=True, slots=True)
class SpeedByDraftTokens:
    """Which K pays: costs in units of one decoding step of the target alone, and the speed-up of each K.

    A round with K draft tokens takes (1 + verify + K * draft) steps.

    Attributes:
        draft, verify: c_d, the cost of drafting one token, and c_v, how much more verifying a round costs than a step.
        points: K = 1 up to the largest that was run.
        best: the fastest K; 0 where no K pays.
        may_be_best: every K that is not surely slower than it.
    """

    draft: Estimate
    verify: Estimate
    points: tuple[SpeedAt, ...]
    best: int
    may_be_best: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain data."""
        costs = {
            name: {"value": one.value, "ci95": interval_to_json(one.ci95)}
            for name, one in (("draft_cost", self.draft), ("verify_cost", self.verify))
        }
        points = [point.to_json() for point in self.points]
        return {**costs, "points": points, "best": self.best, "may_be_best": list(self.may_be_best)}


def speed_by_draft_tokens(runs: Mapping[int, Sequence[TimedPrompt]]) -> SpeedByDraftTokens | None:
    """Say which K pays, from runs over the same prompts with two K or more; None where the times do not tell.

    The seconds per round of the runs give a line over K: its slope is the price of a draft token, and where it meets
    K = 0 is that of verifying. The first k positions of a chain do not depend on its depth, so the largest K's run
    gives the acceptance of every k. The intervals are jackknives over prompts, each left out of every run at once, so
    they hold the spread of acceptance and of times; at K against K, effects that a prompt has on both cancel. They do
    not hold how a machine's speed drifts between runs.

    Raises InputError (``metrics-unpaired``) for runs over different numbers of prompts.
    """
    sizes = {len(run) for run in runs.values()}
    if len(sizes) > 1:
        raise InputError(
            f"runs over {min(sizes)} and {max(sizes)} prompts cannot be compared prompt by prompt",
            code="metrics-unpaired",
        )
    if len(runs) < 2:
        return None
    sums = {k: _sums(run) for k, run in runs.items()}
    whole = _prices(sums)
    if whole is None:
        return None
    deepest = max(runs)
    n = sizes.pop()
    left_out = [_prices({k: _minus(sums[k], _sums([run[i]])) for k, run in runs.items()}) for i in range(n)]
    others = [one for one in left_out if one is not None]
    enough = n >= MIN_PROMPTS and len(others) == n

    def spread(value: float, moved: Sequence[float]) -> Estimate:
        if not enough:
            return Estimate(value, None, None)
        variance, df = jackknife([m - value for m in moved])
        half = t_quantile_between(0.975, df) * math.sqrt(variance)
        return Estimate(value, math.sqrt(variance), (value - half, value + half))

    points = []
    for k in range(1, deepest + 1):
        log = spread(whole.log_speed(k), [one.log_speed(k) for one in others])
        ran = speedup([[one.drafted for one in runs[k]]], [[one.alone for one in runs[k]]]) if k in runs else None
        ci95 = None if log.ci95 is None else (math.exp(log.ci95[0]), math.exp(log.ci95[1]))
        measured = (None, None) if ran is None else (ran.ratio, ran.ci95)
        points.append(SpeedAt(k, whole.tau(k), math.exp(log.value), ci95, *measured))
    best = max(range(deepest + 1), key=whole.log_speed)
    may_be = []
    for k in range(deepest + 1):
        behind = spread(
            whole.log_speed(k) - whole.log_speed(best), [one.log_speed(k) - one.log_speed(best) for one in others]
        )
        if behind.ci95 is None or behind.ci95[1] >= 0:
            may_be.append(k)
    return SpeedByDraftTokens(
        spread(whole.slope / whole.step, [one.slope / one.step for one in others]),
        spread(whole.start / whole.step - 1, [one.start / one.step - 1 for one in others]),
        tuple(points),
        best,
        tuple(may_be),
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over prompts of one run."""

    rounds: int
    accepted: tuple[int, ...]
    seconds: float
    alone_tokens: int
    alone_seconds: float


def _sums(run: Sequence[TimedPrompt]) -> _Sums:
    pooled = total([one.counts for one in run])
    return _Sums(
        pooled.rounds,
        pooled.accepted_per_position,
        math.fsum(one.drafted[1] for one in run),
        sum(one.alone[0] for one in run),
        math.fsum(one.alone[1] for one in run),
    )


def _minus(a: _Sums, b: _Sums) -> _Sums:
    return _Sums(
        a.rounds - b.rounds,
        tuple(x - y for x, y in zip(a.accepted, b.accepted, strict=True)),
        a.seconds - b.seconds,
        a.alone_tokens - b.alone_tokens,
        a.alone_seconds - b.alone_seconds,
    )


@dataclass(frozen=True, slots=True)
class _Prices:
    """Seconds of the target's step alone; the line of seconds per round over K; rates by position."""

    step: float
    start: float
    slope: float
    rates: tuple[float, ...]

    def tau(self, k: int) -> float:
        return 1 + math.fsum(self.rates[:k])

    def log_speed(self, k: int) -> float:
        """The logarithm of the speed-up; K = 0 is the target alone."""
        return math.log(self.tau(k) * self.step / (self.start + self.slope * k)) if k else 0.0


def _prices(runs: Mapping[int, _Sums]) -> _Prices | None:
    """Return the prices, or None where a run has no round, or the line gives a round that takes no time."""
    if any(one.rounds < 1 or one.alone_tokens < 1 for one in runs.values()):
        return None
    ks = [float(k) for k in runs]
    seconds = [one.seconds / one.rounds for one in runs.values()]
    middle, mean = math.fsum(ks) / len(ks), math.fsum(seconds) / len(ks)
    slope = math.fsum((k - middle) * (s - mean) for k, s in zip(ks, seconds, strict=True)) / math.fsum(
        (k - middle) ** 2 for k in ks
    )
    start = mean - slope * middle
    deepest = runs[max(runs)]
    step = math.fsum(one.alone_seconds for one in runs.values()) / sum(one.alone_tokens for one in runs.values())
    if step <= 0 or min(start + slope, start + slope * max(ks)) <= 0:
        return None
    return _Prices(step, start, slope, tuple(a / deepest.rounds for a in deepest.accepted))
