"""Compare two measurements, and turn acceptance into speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.estimate import (
    MIN_PROMPTS,
    Interval,
    difference,
    jackknife,
    require_rounds,
    t_quantile_between,
)
from eagle3hub.metrics.translate import check_marginal, relative_percent

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


# Speed-up to expect: what an acceptance length gains at a given price per draft.


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs in units of one decoding step of the target alone.

    Attributes:
        draft: c_d, the cost of drafting one token.
        verify: c_v, how much more verifying a round's drafts costs than that step; it grows with batch size.

    Raises InputError (``metrics-cost``) for a cost below 0.
    """

    draft: float
    verify: float = 0.0

    def __post_init__(self) -> None:
        for name, price in (("draft", self.draft), ("verify", self.verify)):
            if not 0 <= price < math.inf:
                raise InputError(f"the {name} cost is 0 or more target steps, not {price:g}", code="metrics-cost")

    def speedup(self, marginal_rates: Sequence[float]) -> float:
        """Return the speed-up over decoding without a head, tau / (1 + K c_d + c_v).

        ``marginal_rates`` are those of positions 1..K.
        """
        tau = 1 + math.fsum(check_marginal(marginal_rates))
        return tau / (1 + len(marginal_rates) * self.draft + self.verify)


def best_draft_tokens(marginal_rates: Sequence[float], cost: Cost) -> tuple[int, float]:
    """Return the fastest K up to ``len(marginal_rates)`` (the smallest of equals), and its speed-up.

    The first k positions of a chain do not depend on its depth, so one measurement at the deepest K answers for all. K
    = 0, speed-up 1, means that no depth pays.
    """
    rates = check_marginal(marginal_rates)
    speeds = [1.0, *(cost.speedup(rates[:k]) for k in range(1, len(rates) + 1))]
    best = max(range(len(speeds)), key=speeds.__getitem__)
    return best, speeds[best]
