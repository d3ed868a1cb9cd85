"""A target whose distribution is a table: the next token depends on the last two, and every probability is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eagle3hub.head import AuxTaps
from eagle3hub.reference.text import Batch, Text

TAPS = AuxTaps.from_after_layer([0], "flag")


@dataclass(frozen=True)
class TableTarget:
    """``logits`` [V, V, V]: of the next token, by the last two. ``states`` [V, V, H]: aux states, by the same."""

    logits: torch.Tensor
    states: torch.Tensor

    @classmethod
    def random(cls, vocab: int, hidden: int, spread: float, seed: int = 0) -> TableTarget:
        """Of two tokens, one may be likelier than the other by a factor of e to the ``spread``."""
        generator = torch.Generator().manual_seed(seed)
        logits = spread * torch.rand(vocab, vocab, vocab, generator=generator)
        return cls(logits, torch.randn(vocab, vocab, hidden, generator=generator))

    @property
    def vocab(self) -> int:
        return len(self.logits)

    def distribution(self, temperature: float) -> torch.Tensor:
        """[V, V, V]: probability of the next token, by the last two."""
        return (self.logits / temperature).softmax(-1)

    def session(self) -> TableSession:
        return TableSession(self)

    def sample(self, texts: int, prompt: Sequence[int], length: int, temperature: float, seed: int) -> torch.Tensor:
        """``texts`` texts [texts, prompt + length] that begin with the prompt."""
        generator, distribution = torch.Generator().manual_seed(seed), self.distribution(temperature)
        tokens = [torch.full((texts,), token) for token in prompt]
        for _ in range(length):
            tokens.append(torch.multinomial(distribution[tokens[-2], tokens[-1]], 1, generator=generator)[:, 0])
        return torch.stack(tokens, dim=1)

    def batch(self, tokens: torch.Tensor, prompt: int, response: int, temperature: float) -> Batch:
        before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        aux = self.states[before, tokens]
        logprobs = torch.zeros(tokens.shape)
        picked = self.distribution(temperature)[before[:, :-1], tokens[:, :-1]].gather(2, tokens[:, 1:, None])[..., 0]
        logprobs[:, 1:] = picked.log()
        texts = tuple(Text(tuple(row), prompt, response) for row in tokens.tolist())
        return Batch(tuple(range(len(texts))), texts, aux, logprobs)


class TableSession:
    """One sequence of a `TableTarget`."""

    def __init__(self, target: TableTarget) -> None:
        self._target = target
        self._tokens = [0]  # the token before the first

    def advance(self, token_ids: Sequence[int], taps: AuxTaps) -> tuple[torch.Tensor, torch.Tensor]:
        assert taps == TAPS
        before = self._tokens[-1]
        self._tokens += token_ids
        pairs = torch.tensor([before, *token_ids[:-1]]), torch.tensor(list(token_ids))
        return self._target.logits[pairs], self._target.states[pairs]

    def rewind(self, length: int) -> None:
        del self._tokens[length + 1 :]
