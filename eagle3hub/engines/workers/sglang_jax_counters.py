"""Turn the rounds of one request of sglang-jax into counters; standard library only, because workers import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def counters(accepted: Sequence[int], steps: int) -> dict[str, Any]:
    """Return the counters from the number of drafts that each round accepted; each round drafts ``steps`` tokens.

    Raises RuntimeError if a number is no number of drafts.
    """
    if any(not 0 <= drafts <= steps for drafts in accepted):
        raise RuntimeError(f"sglang-jax counts rounds that accepted {sorted(set(accepted))} of {steps} drafts")
    reached = [sum(drafts >= depth for drafts in accepted) for depth in range(1, steps + 1)]
    return {
        "rounds": len(accepted),
        "drafted": len(accepted) * steps,
        "accepted": sum(accepted),
        "accepted_per_position": reached,
    }
