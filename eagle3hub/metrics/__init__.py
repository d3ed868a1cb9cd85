"""Acceptance of a draft head: counters per prompt, and everything computed from them.

A *round* drafts up to K tokens and accepts the first a of them, 0 <= a <= K; it emits a + 1 tokens, the last one
the target's own. A prompt's first token comes from prefill, belongs to no round and is not counted. Rates are
marginal (position i accepted, over all rounds) unless called conditional (given that position i - 1 was).

`definitions` lists the names that others give these numbers, `translate` turns one into another.
"""

from __future__ import annotations

from eagle3hub.metrics.compare import (
    Paired,
    SpeedByDraftTokens,
    Speedup,
    Timed,
    TimedPrompt,
    paired,
    paired_rates,
    speed_by_draft_tokens,
    speedup,
)
from eagle3hub.metrics.counters import Counts, PromptRow, Rounds, counts_of, counts_within, histogram, total
from eagle3hub.metrics.estimate import (
    ESTIMATOR,
    MIN_PROMPTS,
    Acceptance,
    CategoryAcceptance,
    Estimate,
    Interval,
    acceptance,
    acceptance_if_any,
    bootstrap,
    by_category,
    t_cdf,
    t_quantile,
    too_few,
)

__all__ = [
    "ESTIMATOR",
    "MIN_PROMPTS",
    "Acceptance",
    "CategoryAcceptance",
    "Counts",
    "Estimate",
    "Interval",
    "Paired",
    "PromptRow",
    "Rounds",
    "SpeedByDraftTokens",
    "Speedup",
    "Timed",
    "TimedPrompt",
    "acceptance",
    "acceptance_if_any",
    "bootstrap",
    "by_category",
    "counts_of",
    "counts_within",
    "histogram",
    "paired",
    "paired_rates",
    "speed_by_draft_tokens",
    "speedup",
    "t_cdf",
    "t_quantile",
    "too_few",
    "total",
]
