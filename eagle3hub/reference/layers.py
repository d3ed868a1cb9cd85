"""Access a target's decoder layers: their hidden states, a shared prefix read once, a sequence that can be rewound."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eagle3hub.errors import InputError, UsageError
from eagle3hub.head import FINAL_NORM, AuxTaps, Tap
from eagle3hub.reference.loading import enough_memory

# Find the decoder layers of a transformers model and capture their outputs, and keep nothing else.


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a causal language model whose outputs are captured.

    Attributes:
        decoder: the text decoder; its ``last_hidden_state`` is the output of the final norm.
        layers: its decoder layers, in order.
        hidden_size: width of their outputs.
    """

    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    hidden_size: int


def dissect(model: Any, name: str) -> Anatomy:
    """Find the decoder layers of a transformers model: its text decoder's list of ``num_hidden_layers`` modules.

    Raises InputError (``reference-target-layers``) if there is no such list, or several and none is ``layers``.
    """
    config = model.config.get_text_config(decoder=True)
    count, hidden_size = config.num_hidden_layers, config.hidden_size
    decoder = model.get_decoder()
    lists = {
        path: module
        for path, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and count > 0
    }
    depth = min((path.count(".") for path in lists), default=0)
    top = {path: module for path, module in lists.items() if path.count(".") == depth}
    found = top.get("layers") or (next(iter(top.values())) if len(top) == 1 else None)
    if found is None:
        raise InputError(
            f"{type(model).__name__} of {name} has {len(top) or 'no'} lists of {count} decoder layers",
            hint="only models with exactly one are supported; save the hidden states elsewhere and give the files",
            code="reference-target-layers",
        )
    return Anatomy(decoder, tuple(found), hidden_size)


class _Enough(Exception):
    """Raised to end a forward pass when everything wanted has been captured."""


@dataclass(slots=True)
class Capture:
    """The captured outputs: of layers by after-layer id, and of the decoder."""

    layers: dict[int, torch.Tensor] = field(default_factory=dict)
    output: Any = None

    def aux(self, taps: Sequence[Tap], device: torch.device) -> torch.Tensor:
        """Return the states of the taps side by side, [B, T, taps * hidden size]."""
        states = [self.output.last_hidden_state if tap is FINAL_NORM else self.layers[tap] for tap in taps]
        return torch.cat([state.to(device) for state in states], dim=-1)


@contextmanager
def captured(anatomy: Anatomy, taps: Sequence[Tap], *, final: bool = False, stop: bool = True) -> Iterator[Capture]:
    """Within the block, one forward pass of the model fills the `Capture`.

    Args:
        final: also take the decoder's output.
        stop: end the pass (and the block) as soon as everything wanted is there.

    Raises InputError (``reference-target-states``) if a layer's output is not [B, T, hidden size].
    """
    numbers = sorted(tap for tap in taps if isinstance(tap, int))
    final = final or FINAL_NORM in taps
    last = numbers[-1] if numbers and not final else None
    found = Capture()

    def take(number: int, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        if not isinstance(state, torch.Tensor) or state.ndim != 3 or state.shape[-1] != anatomy.hidden_size:
            shape = list(state.shape) if isinstance(state, torch.Tensor) else type(state).__name__
            raise InputError(
                f"decoder layer {number} puts out {shape} instead of [batch, tokens, {anatomy.hidden_size}]",
                hint="this architecture has no hidden state per layer that a head could read",
                code="reference-target-states",
            )
        found.layers[number] = state
        if stop and number == last:
            raise _Enough

    def take_output(output: Any) -> None:
        found.output = output
        if stop:
            raise _Enough

    handles = [
        anatomy.layers[n].register_forward_hook(lambda _module, _args, output, n=n: take(n, output)) for n in numbers
    ]
    if final:
        handles.append(anatomy.decoder.register_forward_hook(lambda _module, _args, output: take_output(output)))
    try:
        yield found
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def skipping_decoder(anatomy: Anatomy, output: Any, hidden: torch.Tensor) -> Iterator[None]:
    """Within the block, the model's forward uses ``hidden`` [B, T, hidden size] as its decoder's last hidden state.

    The rest of the forward is the model's own way from there to logits, with softcapping, scaling and so on.
    ``output`` is what the decoder really returned; its other fields are kept.
    """
    decoder, fields = anatomy.decoder, {k: v for k, v in output.items() if k in _CACHES}
    replaced = type(output)(**{**fields, "last_hidden_state": hidden})
    before = decoder.__dict__.get("forward")
    decoder.__dict__["forward"] = lambda *_args, **_kwargs: replaced
    try:
        yield
    finally:
        if before is None:
            del decoder.__dict__["forward"]
        else:
            decoder.__dict__["forward"] = before


_CACHES = ("cache", "past_key_values")
"""Names of a forward's cache of keys and values: transformers 5.24.0 deprecates the second."""


def with_cache(model: Any, cache: DynamicCache | None) -> dict[str, DynamicCache | None]:
    """Return the argument of a model's forward that is its cache, by the name that this transformers has for it."""
    accepted = inspect.signature(model.forward).parameters
    return {next((name for name in _CACHES if name in accepted), _CACHES[1]): cache}


# Compute a prefix that all texts share only once: a chat template opens every prompt with the same tokens.


_LEAST = 8
"""Fewest shared tokens for which keeping their keys and values is worth it."""


def shared_length(model: Any, texts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all ``texts`` begin with; at least one of each is left over, and 0 means do not share.

    Only caches that keep every position can be shared, so not those of sliding windows or linear attention.
    """
    if len(texts) < 2 or any(type(x) is not DynamicLayer for x in DynamicCache(config=model.config).layers):
        return 0
    first, *_, last = sorted(tuple(ids) for ids in texts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    same = min(same, min(map(len, texts)) - 1)
    return same if same >= _LEAST else 0


class Prefix:
    """A target's keys, values and aux hidden states for tokens that several texts begin with."""

    def __init__(
        self, model: Any, anatomy: Anatomy, token_ids: Sequence[int], taps: AuxTaps, device: torch.device
    ) -> None:
        self._cache = DynamicCache()
        ids = torch.tensor([list(token_ids)], device=device)
        with captured(anatomy, taps.taps) as found:
            model(input_ids=ids, **with_cache(model, self._cache), use_cache=True)
        self.aux = found.aux(taps.taps, device)
        """[1, length, taps * hidden size]"""

    def cache(self, rows: int) -> DynamicCache:
        """Return a KV cache for ``rows`` texts that have all read this prefix."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


# One sequence of a target that can grow by a few tokens, lose some, and grow again.


class Session:
    """What speculation needs from a target: verify some tokens, keep a few of them, continue.

    The keys and values of kept tokens stay cached. A sliding window's cache is kept in full, so that it can drop
    tokens too. If a cache cannot drop tokens (states of linear attention), the sequence is read again.
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
            logits = self._model(input_ids=ids, **with_cache(self._model, self._cache), use_cache=True).logits[0]
        self._cached = len(self._token_ids)
        aux = found.aux(taps.taps, self._device)[0]
        n = len(token_ids)
        return logits[-n:].to(self._device, torch.float32), aux[-n:]

    def rewind(self, length: int) -> None:
        """Drop all but the first ``length`` tokens. Raises UsageError if there are fewer."""
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
