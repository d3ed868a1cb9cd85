"""The names of vLLM's counters, and their growth; standard library only, because workers import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "vllm:spec_decode_num_drafts": "rounds",
    "vllm:spec_decode_num_draft_tokens": "drafted",
    "vllm:spec_decode_num_accepted_tokens": "accepted",
    "vllm:spec_decode_num_accepted_tokens_per_pos": "accepted_per_position",
}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how much each counter grew (a list, position by position), or None without counters."""
    if not after:
        return None
    out: dict[str, Any] = {}
    for key, value in after.items():
        if isinstance(value, list):
            old = before.get(key) or [0] * len(value)
            out[key] = [int(a - b) for a, b in zip(value, old, strict=True)]
        else:
            out[key] = int(value - before.get(key, 0))
    return out
