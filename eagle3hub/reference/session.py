"""One sequence of a target that grows by a few tokens, loses some, and grows again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eagle3hub.errors import UsageError
from eagle3hub.head import AuxTaps
from eagle3hub.reference.layers import Anatomy, captured
from eagle3hub.reference.loading import enough_memory


class Session:
    """What speculation asks of a target: verify some tokens, keep a few of them, go on.

    The keys and values of what was kept stay cached. A sliding window's cache is kept in full, so that it can lose
    tokens too; where a cache cannot lose any (states of linear attention), the sequence is read again.
    """

    def __init__(self, model: Any, anatomy: Anatomy, device: torch.device) -> None:
        self._model, self._anatomy, self._device = model, anatomy, device
        self._token_ids: list[int] = []
        config = DynamicCache(config=model.config)
        self._croppable = all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in config.layers)
        self._cache = self._empty()
        self._cached = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The sequence so far."""
        return tuple(self._token_ids)

    @torch.no_grad()
    def advance(self, token_ids: Sequence[int], taps: AuxTaps) -> tuple[torch.Tensor, torch.Tensor]:
        """Append n tokens (1 or more).

        Returns:
            logits: float32 [n, V], row i after the i-th token appended.
            aux: hidden states [n, taps * hidden size] at these tokens, in the model's dtype.
        """
        if not token_ids:
            raise UsageError("advance needs at least one token")
        self._token_ids += token_ids
        ids = torch.tensor([self._token_ids[self._cached :]], device=self._device)
        with captured(self._anatomy, taps.taps, stop=False) as found, enough_memory("verifying"):
            logits = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True).logits[0]
        self._cached = len(self._token_ids)
        aux = found.aux(taps.taps, self._device)[0]
        n = len(token_ids)
        return logits[-n:].to(self._device, torch.float32), aux[-n:]

    def rewind(self, length: int) -> None:
        """Forget all but the first ``length`` tokens. Raises UsageError where there are not as many."""
        if not 0 <= length <= len(self._token_ids):
            raise UsageError(f"cannot rewind {len(self._token_ids)} tokens to {length}")
        if length == len(self._token_ids):
            return
        del self._token_ids[length:]
        if self._croppable and length:
            self._cache.crop(length - self._cached)
            self._cached = length
        else:
            self._cache, self._cached = self._empty(), 0

    def _empty(self) -> DynamicCache:
        return DynamicCache() if self._croppable else DynamicCache(config=self._model.config)
