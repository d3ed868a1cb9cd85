"""Texts as token sequences, batches by length, and checks on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from eagle3hub.errors import InputError
from eagle3hub.head import AuxTaps, Head, Tap

if TYPE_CHECKING:
    from eagle3hub.reference.images import ImageInputs
    from eagle3hub.reference.model import StoredMatrix

# The data of a reference run: texts of the target, and what the target computed for them.


@dataclass(frozen=True, slots=True)
class Text:
    """One prompt, the target's response, and the tokens the target would have added.

    Attributes:
        token_ids: prompt, response and lookahead, in this order.
        prompt_length: tokens of the prompt, chat template included; 1 or more.
        response_length: tokens of the response, its end-of-sequence token included. The first of them comes from
            prefill and belongs to no round.
        images: what the target's forward needs for the images of the prompt; None for text alone.

    The lookahead is the tokens after the response. An engine verifies all K drafts of its last round, also those
    beyond the token that ends the response, so counting as it does takes K tokens of lookahead.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    response_length: int
    images: ImageInputs | None = None

    @property
    def response(self) -> tuple[int, ...]:
        """The response's tokens."""
        return self.token_ids[self.prompt_length : self.prompt_length + self.response_length]

    @property
    def last_start(self) -> int:
        """Number of leading positions that include every position where a draft begins; 1 or more."""
        return max(1, self.prompt_length + self.response_length - 2)

    @property
    def lookahead(self) -> int:
        """Number of tokens after the response."""
        return len(self.token_ids) - self.prompt_length - self.response_length


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as a target reads it: its token ids, chat template included, and what its images need."""

    token_ids: tuple[int, ...]
    images: ImageInputs | None = None

    @property
    def key(self) -> object:
        """What tells it from other prompts, as plain data."""
        return list(self.token_ids) if self.images is None else [list(self.token_ids), self.images.key]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the target computed for some texts, padded on the right.

    Attributes:
        index: the texts' places among those asked for.
        texts: the texts, in that order (B of them).
        aux: aux hidden states [B, T, taps * target hidden size], in ascending order of taps; T is the longest text, or
            less if the tokens after the response were not asked for.
        logprobs: natural log of the target's probability of each token at the temperature asked for, float32 [B, T];
            undefined for a text's first token and its padding. None if not asked for.
    """

    index: tuple[int, ...]
    texts: tuple[Text, ...]
    aux: torch.Tensor
    logprobs: torch.Tensor | None = None


class AuxSource(Protocol):
    """A source of aux hidden states: a target model, or files it saved."""

    device: torch.device

    @property
    def embeddings(self) -> torch.Tensor | StoredMatrix:
        """The target's token embeddings [vocabulary, target hidden size], without any scaling."""

    @property
    def lm_head(self) -> torch.Tensor | StoredMatrix:
        """The target's lm_head [vocabulary, target hidden size], for a head without one of its own."""

    def read(
        self, texts: Sequence[Text], taps: AuxTaps, *, temperature: float | None = None, lookahead: bool = True
    ) -> Iterator[Batch]:
        """Return batches that cover ``texts``, in any order, with log-probabilities for a ``temperature`` > 0.

        Without ``lookahead``, positions where no draft begins may be missing.
        """


# Group sequences by length, to keep padding small.


def batches(lengths: Sequence[int], most_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """Return batches of sequence numbers, longest sequences first.

    A batch of B sequences, the longest with T tokens, holds B * T <= ``most_tokens`` tokens, padding included (a
    longer sequence is alone), and at most ``most_rows`` sequences. The longest come first, so memory runs out at the
    start or never.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    out: list[list[int]] = []
    for i in order:
        room = out and (len(out[-1]) + 1) * lengths[out[-1][0]] <= most_tokens
        if room and (most_rows is None or len(out[-1]) < most_rows):
            out[-1].append(i)
        else:
            out.append([i])
    return out


# Checks shared by a target model and its saved hidden states.


def check_fit(head: Head, name: str, *, hidden_size: int, vocab_size: int, num_hidden_layers: int) -> None:
    """Raise InputError (``reference-target-mismatch``) if the head was made for a target of other sizes."""
    for what, wanted, found in (
        ("hidden size", head.dims.target_hidden_size, hidden_size),
        ("vocabulary", head.dims.vocab_size, vocab_size),
    ):
        if wanted != found:
            raise _mismatch(f"the head is for a target of {what} {wanted}, but {name} has {found}")
    numbers = [tap for tap in head.aux.taps if isinstance(tap, int)] if head.aux else []
    if numbers and max(numbers) >= num_hidden_layers:
        raise _mismatch(
            f"the head reads the output of decoder layer {max(numbers)} (counted from 0), but {name} has "
            f"{num_hidden_layers} layers"
        )


def check_finite(aux: torch.Tensor, taps: AuxTaps, index: Sequence[int | str], texts: Sequence[Text]) -> None:
    """Raise InputError (``reference-states-not-finite``), naming layer and text, for a state with NaN or infinity.

    Args:
        aux: [B, T, taps * hidden size], padded on the right. index: the texts' numbers in the message.
    """
    if aux.isfinite().all():
        return
    width = aux.shape[-1] // len(taps)
    for number, states, text in zip(index, aux, texts, strict=True):
        bad = ~states[: len(text.token_ids)].isfinite()
        if bad.any():
            tap = taps.taps[int(bad.any(dim=0).nonzero()[0]) // width]
            raise InputError(
                f"the target's hidden states after {tap_name(tap)} are not finite in text {number!r}",
                hint="look at the target's weights; in float16 large models overflow, use --dtype bfloat16",
                code="reference-states-not-finite",
            )


def tap_name(tap: Tap) -> str:
    """Describe a tap in words."""
    return f"decoder layer {tap}" if isinstance(tap, int) else "the final norm"


def _mismatch(message: str) -> InputError:
    return InputError(message, hint="name the target the head was trained for", code="reference-target-mismatch")
