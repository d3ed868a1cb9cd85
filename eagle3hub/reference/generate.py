"""Generate text with a target: batched, with a KV cache, one loop for greedy decoding and for sampling."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from eagle3hub.errors import UsageError
from eagle3hub.reference.images import ImageInputs, alone
from eagle3hub.reference.layers import with_cache
from eagle3hub.reference.text import Text, batches

_MOST_ROWS = 64
_CACHE = 8  # tokens in the KV cache for each token of a forward pass


@dataclass(frozen=True, slots=True)
class Wanted:
    """One sequence to continue.

    Attributes:
        token_ids: tokens so far. prompt_length: how many of them are the prompt.
        max_new_tokens: most tokens to add to the response. lookahead: tokens to add after it.
        room: most tokens to add in all.
        seed: what its random generator starts from.
        response_length: tokens of the response so far.
        images: what the model's forward needs for the images of the prompt; None for text alone.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    max_new_tokens: int
    lookahead: int
    room: int
    seed: str
    response_length: int = 0
    images: ImageInputs | None = None

    @property
    def longest(self) -> int:
        """Most tokens that the sequence can end up with."""
        return len(self.token_ids) + min(self.room, self.max_new_tokens + self.lookahead)


@dataclass(slots=True)
class _Row:
    """A sequence that is being continued."""

    index: int
    wanted: Wanted
    generator: torch.Generator = field(init=False)
    added: list[int] = field(default_factory=list)
    response: int | None = None

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.wanted.seed.encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        if self.wanted.max_new_tokens == 0:
            self.response = 0

    def add(self, token: int, eos: frozenset[int]) -> None:
        self.added.append(token)
        if self.response is None and (token in eos or len(self.added) == self.wanted.max_new_tokens):
            self.response = len(self.added)

    @property
    def done(self) -> bool:
        if self.response is None:
            return False
        return len(self.added) == min(self.response + self.wanted.lookahead, self.wanted.room)

    def text(self) -> Text:
        w = self.wanted
        length = w.response_length + (self.response or 0)
        return Text((*w.token_ids, *self.added), w.prompt_length, length, w.images)


def generate(
    model: Any,
    wanted: Sequence[Wanted],
    eos: frozenset[int],
    *,
    device: torch.device,
    batch_tokens: int,
    temperature: float = 0.0,
    on_text: Callable[[int, Text], None] | None = None,
    report: Callable[[float], None],
) -> list[Text]:
    """Continue every sequence, in batches of similar length, padded on the left; one with images by itself.

    The tokens are those of generating one sequence at a time, except that matrix products of another size round
    differently.

    Args:
        eos: tokens that end a response.
        temperature: 0 for greedy; above, tokens are drawn from softmax(logits / temperature).
        on_text: called with the index in ``wanted`` and the text, as soon as the text is complete.
        report: called with the part of the work that is done, 0 to 1.

    Raises UsageError for an impossible temperature or number of tokens.
    """
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"the temperature must be 0 or more, not {temperature}", code="usage-temperature")
    for w in wanted:
        if w.max_new_tokens + w.lookahead < 1:
            raise UsageError("a response needs at least one token", code="usage-max-new-tokens")
    out: dict[int, Text] = {}
    total = sum(w.longest - len(w.token_ids) for w in wanted)
    written = 0
    together = batches([w.longest for w in wanted], _CACHE * batch_tokens, _MOST_ROWS)
    for index in alone([w.images for w in wanted], together):
        batch = _Batch(model, [_Row(i, wanted[i]) for i in index], device, temperature)
        batch.prefill(batch_tokens)
        while batch.rows:
            for row in batch.step(eos):
                text = out[row.index] = row.text()
                written += row.wanted.longest - len(row.wanted.token_ids)
                if on_text is not None:
                    on_text(row.index, text)
            report((written + sum(len(row.added) for row in batch.rows)) / total)
    return [out[i] for i in range(len(wanted))]


class _Batch:
    """Sequences that are continued together; complete ones leave the batch."""

    def __init__(self, model: Any, rows: list[_Row], device: torch.device, temperature: float) -> None:
        self.model, self.rows, self.device, self.temperature = model, rows, device, temperature
        self.cache = DynamicCache(config=model.config)
        self.accepted = frozenset(inspect.signature(model.forward).parameters)
        longest = max(len(row.wanted.token_ids) for row in rows)
        self.mask = torch.ones(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            self.mask[i, : longest - len(row.wanted.token_ids)] = 0
        self.mask = self.mask.to(device)
        self.logits = torch.empty(0)

    def prefill(self, batch_tokens: int) -> None:
        """Read the tokens so far, at most ``batch_tokens`` at a time; with images all at once."""
        longest = self.mask.shape[1]
        filled = [
            [*[row.wanted.token_ids[0]] * (longest - len(row.wanted.token_ids)), *row.wanted.token_ids]
            for row in self.rows
        ]
        ids = torch.tensor(filled, device=self.device)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        images = self.rows[0].wanted.images
        if images is not None:  # this row is alone, and its model finds the positions of images by itself
            self._forward(ids, self.mask, None, images.arguments(longest, self.device, self.model.dtype))
            return
        step = max(1, batch_tokens // len(self.rows))
        for start in range(0, longest, step):
            part = slice(start, start + step)
            self._forward(ids[:, part], self.mask[:, : start + step], positions[:, part])

    def step(self, eos: frozenset[int]) -> list[_Row]:
        """Add one token to every sequence. Returns the complete ones, which have left the batch."""
        tokens = self._choose()
        for row, token in zip(self.rows, tokens, strict=True):
            row.add(token, eos)
        stay = [i for i, row in enumerate(self.rows) if not row.done]
        complete = [row for row in self.rows if row.done]
        if complete and stay:
            keep = torch.tensor(stay, device=self.device)
            self.cache.reorder_cache(keep)  # type: ignore[arg-type]
            self.mask = self.mask[keep]
        self.rows = [self.rows[i] for i in stay]
        if stay:
            ids = torch.tensor([[tokens[i]] for i in stay], device=self.device)
            positions = self.mask.sum(1, keepdim=True)
            self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=1)
            self._forward(ids, self.mask, None if self.rows[0].wanted.images is not None else positions)
        return complete

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor | None,
        images: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        optional = {"logits_to_keep": 1} if positions is None else {"position_ids": positions, "logits_to_keep": 1}
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            **with_cache(self.model, self.cache),
            use_cache=True,
            **(images or {}),
            **{name: value for name, value in optional.items() if name in self.accepted},
        )
        self.logits = output.logits[:, -1]

    def _choose(self) -> list[int]:
        if not self.temperature:
            return [int(token) for token in self.logits.argmax(-1).cpu()]
        shares = (self.logits.float() / self.temperature).softmax(-1).cpu().double().cumsum(-1)
        return [_draw(row.generator, share) for row, share in zip(self.rows, shares, strict=True)]


def _draw(generator: torch.Generator, share: torch.Tensor) -> int:
    """Draw a token by cumulative probability."""
    draw = torch.rand((), dtype=torch.float64, generator=generator) * share[-1]
    return min(int(torch.searchsorted(share, draw, right=True)), len(share) - 1)
