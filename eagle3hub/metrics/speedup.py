"""What an acceptance length is worth: the speed-up it gives at a price per draft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eagle3hub.errors import InputError
from eagle3hub.metrics.translate import check_marginal


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices in units of one decoding step of the target alone.

    Attributes:
        draft: c_d, of drafting one token.
        verify: c_v, by how much verifying a round's drafts costs more than that step; it grows with batch size.

    Raises InputError (``metrics-cost``) for a price below 0.
    """

    draft: float
    verify: float = 0.0

    def __post_init__(self) -> None:
        for name, price in (("draft", self.draft), ("verify", self.verify)):
            if not 0 <= price < math.inf:
                raise InputError(f"the {name} cost is 0 or more target steps, not {price:g}", code="metrics-cost")

    def speedup(self, marginal_rates: Sequence[float]) -> float:
        """Tau / (1 + K c_d + c_v), over decoding without a head, for the marginal rates of positions 1..K."""
        tau = 1 + math.fsum(check_marginal(marginal_rates))
        return tau / (1 + len(marginal_rates) * self.draft + self.verify)


def best_draft_tokens(marginal_rates: Sequence[float], cost: Cost) -> tuple[int, float]:
    """The K up to ``len(marginal_rates)`` that is fastest, the smallest of equals, and its speed-up.

    A chain's first k positions do not know how deep it goes, so one measurement at the deepest K answers for all.
    K = 0, speed-up 1, means that no depth pays.
    """
    rates = check_marginal(marginal_rates)
    speeds = [1.0, *(cost.speedup(rates[:k]) for k in range(1, len(rates) + 1))]
    best = max(range(len(speeds)), key=speeds.__getitem__)
    return best, speeds[best]
