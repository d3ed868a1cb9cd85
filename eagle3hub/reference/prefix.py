"""What texts begin with alike is read once: a chat template opens every prompt with the same tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from eagle3hub.head import AuxTaps
from eagle3hub.reference.layers import Anatomy, captured

_LEAST = 8
"""Shared tokens from which keeping their keys and values is worth it."""


def shared_length(model: Any, texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all ``texts`` begin with, at least one of each left over; 0 where sharing would not pay.

    Only caches that keep every position can be shared: not those of sliding windows or linear attention.
    """
    if len(texts) < 2 or any(type(x) is not DynamicLayer for x in DynamicCache(config=model.config).layers):
        return 0
    first, *_, last = sorted(tuple(ids) for ids in texts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    same = min(same, min(map(len, texts)) - 1)
    return same if same >= _LEAST else 0


class Prefix:
    """A target's keys, values and aux hidden states over tokens that several texts begin with."""

    def __init__(
        self, model: Any, anatomy: Anatomy, token_ids: Sequence[int], taps: AuxTaps, device: torch.device
    ) -> None:
        self._cache = DynamicCache()
        ids = torch.tensor([list(token_ids)], device=device)
        with captured(anatomy, taps.taps) as found:
            model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self.aux = found.aux(taps.taps, device)
        """[1, length, taps * hidden size]"""

    def cache(self, rows: int) -> DynamicCache:
        """A KV cache for ``rows`` texts that have been read up to here."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache
