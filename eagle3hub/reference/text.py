"""What a reference run is about: texts of the target, and what the target computed over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from eagle3hub.head import AuxTaps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Text:
    """One prompt, the target's response, and what the target would have said next.

    Attributes:
        token_ids: prompt, response and lookahead, in this order.
        prompt_length: tokens of the prompt, chat template included; 1 or more.
        response_length: tokens of the response, its end-of-sequence token included. The first of them comes from
            prefill and belongs to no round.

    The lookahead is whatever follows the response. An engine verifies all K drafts of its last round, also those
    beyond the token that ends the response, so counting alike takes K tokens of lookahead.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    response_length: int

    @property
    def response(self) -> tuple[int, ...]:
        """The response's tokens."""
        return self.token_ids[self.prompt_length : self.prompt_length + self.response_length]

    @property
    def last_start(self) -> int:
        """Number of positions from the text's beginning that hold every one where a draft begins; 1 or more."""
        return max(1, self.prompt_length + self.response_length - 2)

    @property
    def lookahead(self) -> int:
        """Number of tokens after the response."""
        return len(self.token_ids) - self.prompt_length - self.response_length


@dataclass(frozen=True, slots=True)
class Batch:
    """What the target computed over some texts, padded on the right.

    Attributes:
        index: which of the texts asked for these are.
        texts: the texts, in that order (B of them).
        aux: aux hidden states [B, T, taps * target hidden size], in ascending order of taps; T is the longest text, or
            less where what follows the response was not asked for.
        logprobs: natural log of the target's probability of each token at the temperature asked for, float32 [B, T];
            undefined for a text's first token and its padding. None where none was asked for.
    """

    index: tuple[int, ...]
    texts: tuple[Text, ...]
    aux: torch.Tensor
    logprobs: torch.Tensor | None = None


class AuxSource(Protocol):
    """Where aux hidden states come from: a target model, or files it saved."""

    device: torch.device

    @property
    def embeddings(self) -> torch.Tensor:
        """The target's token embeddings [vocabulary, target hidden size], without any scaling."""

    def read(
        self, texts: Sequence[Text], taps: AuxTaps, *, temperature: float | None = None, lookahead: bool = True
    ) -> Iterator[Batch]:
        """Batches that cover ``texts``, in any order; with log-probabilities where a ``temperature`` > 0 is given.

        Without ``lookahead`` nothing is needed of the positions where no draft begins.
        """
