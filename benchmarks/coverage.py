"""Count how often the 95 % intervals hold the true value, by method, number of prompts and population.

    python benchmarks/coverage.py [--samples 4000] [--save docs/coverage.md]

No model runs. The script draws populations of prompts: each prompt has its own chance that a draft is accepted, which
is Beta distributed over prompts, and runs rounds of K drafts until its response is complete; the last round is whole.
The true value is the pooled value of the population. The script draws samples of n prompts from it and counts how
often each method's interval holds the true value. The same arguments print the same numbers.

Methods: `t`, the ratio estimator's t interval (Cochran, "Sampling Techniques", 1977), which leaves the range; `logit`,
the same variance carried to the logit by the delta method; `Wilson`, the score interval with the effective number of
rounds (Korn & Graubard 1998; Franco et al., J. Survey Statistics and Methodology 7, 2019); `ours`, eagle3hub.metrics.
Without spread `logit` gives no interval, which counts as a miss, and `Wilson` takes all rounds as independent. Below
`MIN_PROMPTS` prompts `ours` is the interval that eagle3hub does not print.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eagle3hub.metrics import estimate, t_quantile
from eagle3hub.metrics.estimate import Unit, difference, rate, share

SIZES = (4, 8, 16, 80)
DRAFTS = (1, 3, 7)
TOKENS = (16, 64, 256)
PROMPTS = 20_000
SEED = 2026


@dataclass(frozen=True)
class Kind:
    """Prompts whose chance that a draft is accepted is Beta distributed, with so much spread (alpha + beta)."""

    name: str
    mean: float
    alpha_beta: float


NAMED = (3, 64, "middle")
"""K, tokens and kind of the population that the page shows by itself: each prompt's chance is Beta(2, 4)."""

METHODS = ("t", "logit", "Wilson", "ours")
KINDS = (
    Kind("collapsed", 0.025, 10),
    Kind("low, uneven", 0.13, 3),
    Kind("low, even", 0.13, 30),
    Kind("middle", 1 / 3, 6),
    Kind("good", 0.65, 6),
    Kind("high, uneven", 0.93, 6),
    Kind("high, even", 0.97, 30),
    Kind("high, extreme", 0.97, 4),
)


def chances(rng: np.random.Generator, kind: Kind) -> np.ndarray:
    return np.clip(rng.beta(kind.mean * kind.alpha_beta, (1 - kind.mean) * kind.alpha_beta, PROMPTS), 1e-9, 1 - 1e-9)


def run(rng: np.random.Generator, chance: np.ndarray, tokens: int, k: int) -> np.ndarray:
    """[prompts, 1 + k]: rounds, then rounds in which position 1..k was accepted."""
    out = np.zeros((len(chance), 1 + k), dtype=np.int64)
    for part in np.array_split(np.arange(len(chance)), max(1, len(chance) * tokens // 2_000_000)):
        uniform = rng.random((len(part), tokens))
        with np.errstate(divide="ignore"):
            accepted = np.minimum(np.floor(np.log(uniform) / np.log(chance[part])[:, None]), k).astype(np.int64)
        before = np.cumsum(accepted + 1, axis=1) - (accepted + 1)
        ran = before < tokens - 1
        out[part, 0] = ran.sum(axis=1)
        for i in range(1, k + 1):
            out[part, i] = ((accepted >= i) & ran).sum(axis=1)
    return out


@dataclass(frozen=True)
class Shares:
    """A share of each prompt: totals, trials and squares as `Unit` has them, and the most a trial can get."""

    total: np.ndarray
    trials: np.ndarray
    squares: np.ndarray
    most: int

    @property
    def truth(self) -> float:
        return float(self.total.sum() / self.trials.sum() / self.most)

    def units(self) -> list[Unit]:
        rows = zip(self.total.tolist(), self.trials.tolist(), self.squares.tolist(), strict=True)
        return [Unit(*row, self.most) for row in rows]


def tau_of(rows: np.ndarray) -> Shares:
    k = rows.shape[1] - 1
    return Shares(rows[:, 1:].sum(axis=1), rows[:, 0], (rows[:, 1:] * (2 * np.arange(1, k + 1) - 1)).sum(axis=1), k)


def rates_of(rows: np.ndarray) -> Iterator[tuple[str, Shares]]:
    k = rows.shape[1] - 1
    for i in sorted({1, k}):
        yield f"position {i}", Shares(rows[:, i], rows[:, 0], rows[:, i], 1)
    for i in sorted({2, k} if k > 1 else ()):
        yield f"position {i} given {i - 1}", Shares(rows[:, i], rows[:, i - 1], rows[:, i], 1)


Bounds = tuple[np.ndarray, np.ndarray]


def others(shares: Shares, chosen: np.ndarray) -> dict[str, Bounds]:
    """Return the intervals of the other methods, for all samples at once."""
    n = chosen.shape[1]
    total, trials = shares.total[chosen] / shares.most, shares.trials[chosen]
    size = trials.sum(axis=1)
    value = total.sum(axis=1) / size
    error = np.sqrt(n / (n - 1) * ((total - value[:, None] * trials) ** 2).sum(axis=1)) / size
    apart = np.maximum(shares.squares[chosen].sum(axis=1) / shares.most**2 / size - value**2, 0) / size
    t = t_quantile(0.975, n - 1)
    with np.errstate(all="ignore"):
        centre, half = np.log(value / (1 - value)), t * error / (value * (1 - value))
        logit = 1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))
        variance = np.maximum(error**2, apart)
        rounds = np.where(variance > 0, value * (1 - value) / variance, size)
        rounds = np.where(rounds > 0, rounds, size)
        middle = (value + t * t / 2 / rounds) / (1 + t * t / rounds)
        wide = t / (1 + t * t / rounds) * np.sqrt(value * (1 - value) / rounds + t * t / 4 / rounds**2)
    return {"t": (value - t * error, value + t * error), "logit": logit, "Wilson": (middle - wide, middle + wide)}


def ours(units: Sequence[Unit], chosen: np.ndarray) -> Bounds:
    found = [share(units[i] for i in sample).ci95 for sample in chosen.tolist()]
    ends = np.array([(np.nan, np.nan) if one is None else one for one in found])
    return ends[:, 0], ends[:, 1]


def of_rate(shares: Shares, chosen: np.ndarray) -> Bounds:
    """Of the samples whose rate is neither 0 nor 1, which has no interval."""
    pairs = list(zip(shares.total.tolist(), shares.trials.tolist(), strict=True))
    found = [rate(pairs[i] for i in sample).ci95 for sample in chosen.tolist()]
    ends = np.array([one for one in found if one is not None]).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def holds(bounds: Bounds, truth: float) -> float:
    low, high = bounds
    return 100 * float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))


def samples(n: int, count: int) -> np.ndarray:
    return np.random.default_rng([SEED, n]).integers(0, PROMPTS, (count, n))


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Population:
    k: int
    tokens: int
    kind: Kind
    chance: np.ndarray
    rows: np.ndarray


def populations() -> list[Population]:
    out = []
    for k in DRAFTS:
        for tokens in TOKENS:
            for number, kind in enumerate(KINDS):
                rng = np.random.default_rng([SEED, k, tokens, number])
                chance = chances(rng, kind)
                out.append(Population(k, tokens, kind, chance, run(rng, chance, tokens, k)))
    return out


def told(what: str) -> None:
    print(what, end="", file=sys.stderr, flush=True)


def of_one(row: Sequence[str]) -> str:
    """Return one row of the whole table as a separate table."""
    each = len(METHODS) + 1
    parts = [row[4 + i * each : 4 + (i + 1) * each] for i in range(len(SIZES))]
    return table(["n", *METHODS, "width"], [[f"{n}", *part] for n, part in zip(SIZES, parts, strict=True)])


def of_tau(every: Sequence[Population], count: int) -> tuple[str, str, str]:
    """Return the extremes by method and n, the named population, and the whole table."""
    methods, named = METHODS, ""
    rows, found, outside = [], {}, {}
    for one in every:
        k, shares = one.k, tau_of(one.rows)
        units, truth = shares.units(), shares.truth
        cells = []
        for n in SIZES:
            chosen = samples(n, count if n < 80 else count // 4)
            bounds = {**others(shares, chosen), "ours": ours(units, chosen)}
            seen = {method: holds(bounds[method], truth) for method in methods}
            for method, value in seen.items():
                found.setdefault((method, n), []).append(value)
            outside.setdefault(n, []).append(100 * np.mean((bounds["t"][0] < 0) | (bounds["t"][1] > 1)))
            width = k * float(np.nanmean(bounds["ours"][1] - bounds["ours"][0]))
            cells += [*(f"{seen[method]:.1f}" for method in methods), f"{width:.2f}"]
        rows.append([f"{k}", f"{one.tokens}", one.kind.name, f"{1 + k * truth:.3f}", *cells])
        if (one.k, one.tokens, one.kind.name) == NAMED:
            named = of_one(rows[-1])
        told(".")
    heading = ["K", "tokens", "prompts", "true τ"]
    heading += [f"n = {n}: {m}" for n in SIZES for m in (*methods, "width")]
    extremes = []
    for method in methods:
        for n in SIZES:
            values = found[method, n]
            spread = [f"{min(values):.1f}", f"{np.median(values):.1f}", f"{max(values):.1f}"]
            below, inside = sum(v < 93 for v in values), sum(abs(v - 95) <= 1.5 for v in values)
            leaves = f"{np.mean(outside[n]):.1f} %" if method == "t" else "0 %"
            extremes.append([method, f"{n}", *spread, f"{below}", f"{inside} of {len(values)}", leaves])
    head = ["method", "n", "least", "median", "most", "below 93 %", "within 95 ± 1.5 %", "leaves the range"]
    return table(head, extremes), named, table(heading, rows)


def of_rates(every: Sequence[Population], count: int) -> str:
    found: dict[tuple[str, int], list[float]] = {}
    for one in every:
        for name, shares in rates_of(one.rows):
            what = "given the one before" if "given" in name else "marginal"
            for n in SIZES[1:]:
                chosen = samples(n, count if n < 80 else count // 4)
                bounds = of_rate(shares, chosen[(shares.trials[chosen] > 0).all(axis=1)])
                if len(bounds[0]) * 2 >= len(chosen):  # else there is hardly a sample with an interval
                    found.setdefault((what, n), []).append(holds(bounds, shares.truth))
        told(".")
    rows = [
        [what, f"{n}", f"{len(v)}", f"{min(v):.1f}", f"{np.median(v):.1f}", f"{sum(x < 93 for x in v)}"]
        for (what, n), v in sorted(found.items())
    ]
    return table(["rate", "n", "populations", "least", "median", "below 93 %"], rows)


def two_runs(kind: str, rng: np.random.Generator, chance: np.ndarray, a: np.ndarray, tokens: int) -> np.ndarray:
    """Draw the other head's counters over the same prompts."""
    k = a.shape[1] - 1
    if kind == "a tenth of the prompts":  # as after a conversion: equal but for a few drafts in a few prompts
        b = a.copy()
        b[:, k] -= np.minimum(rng.integers(1, 4, len(a)), a[:, k]) * (rng.random(len(a)) < 0.1)
        return b
    logit = np.log(chance / (1 - chance)) + {"no difference": 0.0, "a better head": 0.2}.get(kind, 0.0)
    other = 1 / (1 + np.exp(-(logit + rng.normal(0, 0.15, len(a)))))
    return run(rng, np.clip(rng.permutation(other) if kind == "unlike heads" else other, 1e-9, 1 - 1e-9), tokens, k)


def of_pairs(every: Sequence[Population], count: int) -> tuple[str, str]:
    found: dict[tuple[str, int], list[float]] = {}
    low = []
    kinds = ("no difference", "a better head", "unlike heads", "a tenth of the prompts")
    for number, one in enumerate(every):
        for kind in kinds:
            rng = np.random.default_rng([SEED, number, kinds.index(kind)])
            a, b = one.rows, two_runs(kind, rng, one.chance, one.rows, one.tokens)
            truth = a.sum() / a[:, 0].sum() - b.sum() / b[:, 0].sum()
            for n in SIZES[1:]:
                ends = []
                for sample in samples(n, count if n < 80 else count // 4).tolist():
                    pairs = [[(int(row.sum()), int(row[0])) for row in rows[sample]] for rows in (a, b)]
                    sums = [tuple(map(sum, zip(*side, strict=True))) for side in pairs]
                    value = sums[0][0] / sums[0][1] - sums[1][0] / sums[1][1]
                    ends.append(difference(*pairs, value, (-one.k, one.k)).ci95)
                there = np.array([end for end in ends if end is not None])
                if len(there) * 2 >= len(ends):
                    held = holds((there[:, 0], there[:, 1]), truth)
                    found.setdefault((kind, n), []).append(held)
                    if held < 93:
                        low.append(f"{held:.1f} ({kind}; {one.kind.name}, K = {one.k}, {one.tokens} tokens, n = {n})")
        told(".")
    rows = [
        [kind, f"{n}", f"{len(v)}", f"{min(v):.1f}", f"{np.median(v):.1f}", f"{sum(x < 93 for x in v)}"]
        for (kind, n), v in sorted(found.items(), key=lambda item: kinds.index(item[0][0]))
    ]
    return table(["two runs", "n", "populations", "least", "median", "below 93 %"], rows), ", ".join(low) or "none"


def page(count: int) -> str:
    least, every = estimate.MIN_PROMPTS, populations()
    rates, (pairs, low) = of_rates(every, count // 2), of_pairs(every, count // 2)
    error = 100 * (0.95 * 0.05 / count) ** 0.5
    estimate.MIN_PROMPTS = 2  # to see what is not printed
    try:
        extremes, named, whole = of_tau(every, count)
    finally:
        estimate.MIN_PROMPTS = least
    kinds = "\n".join(f"| {k.name} | {k.mean:.3g} | {k.alpha_beta:g} |" for k in KINDS)
    return f"""# Coverage of the intervals

Written by `python benchmarks/coverage.py --save docs/coverage.md`: simulated, no model runs. The share of samples, in
percent, whose 95 % interval holds the true value: of {count:,} samples for τ, of {count // 2:,} for rates and
differences, and a quarter as many at n = 80. An interval needs {least} prompts; n = 4 shows intervals that are not
printed. A true 95 % has a standard error of {error:.1f} points for τ, and of {4**0.5 * error:.1f} at n = 80.

Each prompt has its own chance that a draft is accepted, Beta distributed over prompts, and runs rounds of K drafts
until its response of so many tokens is complete.

| prompts | mean chance | α + β |
| --- | ---: | ---: |
{kinds}

## τ, by method

Over the {len(every)} populations of the last table.

{extremes}

`t`: the ratio estimator's t interval. `logit`: the same by the delta method on the logit. `Wilson`: the score interval
with the effective number of rounds. `ours`: what eagle3hub prints (`eagle3hub/metrics/estimate.py`). It covers more
than 96.5 % if a sample holds few acceptances or few refusals: near an end of the range an interval that must not cover
too rarely covers too often (Brown, Cai & DasGupta, Statistical Science 16, 2001).

## One population by itself

K = 3, 64 tokens for each prompt, and each prompt's chance is Beta(2, 4), which is *middle*: a third of the head's
drafts are accepted, and prompts differ much. Below n = 8 nothing is printed.

{named}

## Rates

The marginal rates of the first and the last position, and the conditional rates of the second and the last position,
at every K, in populations where at least half of the samples have an interval (every prompt reaches the position, and
the rate is neither 0 nor 1).

{rates}

## Differences of two runs, pair by pair

*A better head*: the odds of every prompt are a fifth better. *A tenth of the prompts*: the runs are equal except for
up to three drafts in every tenth prompt; if no pair of a sample differs, there is no interval, and the sample is not
counted. Below 93 % with 8 prompts or more: {low}.

{pairs}

## τ, population by population

{whole}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    text = page(options.samples)
    print(text)
    if options.save:
        options.save.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
