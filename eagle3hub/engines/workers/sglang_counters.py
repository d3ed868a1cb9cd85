"""Turn SGLang's counts of one request into counters; standard library only, because workers import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def counters(meta: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the counters from ``meta_info``, whose histogram says how many rounds accepted 0, 1, 2, … drafts.

    ``drafted`` counts depths, ``steps`` per round, because the nodes of a tree compete for the same positions. Raises
    RuntimeError if the histogram does not add up to the rounds.
    """
    histogram = list(meta.get("spec_correct_drafts_histogram") or [])
    rounds = int(meta.get("spec_verify_ct") or 0)
    if sum(histogram) != rounds:
        raise RuntimeError(f"SGLang counts {rounds} rounds, but its histogram {histogram} holds {sum(histogram)}")
    reached = [sum(histogram[depth:]) for depth in range(1, steps + 1)]
    return {
        "rounds": rounds,
        "drafted": rounds * steps,
        "accepted": int(meta.get("spec_num_correct_drafts") or 0),
        "accepted_per_position": reached,
    }
