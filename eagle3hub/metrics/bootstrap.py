"""The cross-check of the intervals: resample the prompts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.estimate import require_rounds
from eagle3hub.metrics.intervals import MIN_PROMPTS, Estimate


def bootstrap(prompts: Sequence[Counts], *, repeats: int = 2000, seed: int = 0) -> Estimate:
    """Pooled tau with the standard error and the 2.5 % and 97.5 % quantiles of ``repeats`` resamples of the prompts.

    Both are None from fewer than `MIN_PROMPTS` prompts with a round; the others are left out. Same seed, same
    numbers. Raises InputError (``metrics-no-rounds``).
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
