"""Chain speculative decoding, one sequence and one round at a time: slow, and written to be obviously right.

The published algorithm, step by step: draft K tokens with the head, let the target score them in one pass, accept from
the left (arXiv:2211.17192, algorithm 1; at temperature 0 a draft is accepted when it is the target's arg max).
`eagle3hub.reference.replay` gets the same rounds much faster; tests check that the two are equal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from eagle3hub.head import AuxTaps
from eagle3hub.reference.model import DraftModel, Memory
from eagle3hub.reference.replay import ReplaySettings


class Session(Protocol):
    """One sequence that a target has read, with its KV cache."""

    def advance(self, token_ids: Sequence[int], taps: AuxTaps) -> tuple[torch.Tensor, torch.Tensor]:
        """Read n more tokens; return float32 logits [n, vocabulary] and aux hidden states [n, taps * hidden size]."""

    def rewind(self, length: int) -> None:
        """Drop everything after the first ``length`` tokens."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """The result of one prompt: the response's tokens (cut at its end), and accepted drafts, 0 … K, per round."""

    response: tuple[int, ...]
    rounds: tuple[int, ...]


@torch.no_grad()
def speculate(
    model: DraftModel,
    session: Session,
    prompt: Sequence[int],
    taps: AuxTaps,
    settings: ReplaySettings,
    *,
    max_new_tokens: int,
    end: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> Speculation:
    """Generate up to ``max_new_tokens`` tokens after ``prompt``, or up to the first token in ``end``.

    ``session`` must be fresh. At temperature > 0, ``generator`` is the source of all randomness.
    """
    draft = _Draft(model, settings, generator)
    logits, aux = session.advance(prompt, taps)
    tokens = [*prompt, _pick(logits[-1], settings.temperature, generator)]
    read = len(prompt)
    rounds: list[int] = []

    def ended() -> bool:
        response = tokens[len(prompt) :]
        return len(response) >= max_new_tokens or any(t in end for t in response)

    while not ended():
        proposals, distributions = draft.propose(aux, tokens)
        logits, seen = session.advance([tokens[-1], *proposals], taps)
        accepted, correction = _verify(model, logits, proposals, distributions, settings.temperature, generator)
        rounds.append(accepted)
        tokens += [*proposals[:accepted], correction]
        read += 1 + accepted
        session.rewind(read)  # accepted tokens stay read; rejected drafts are dropped
        aux = seen[: 1 + accepted]
    return Speculation(_cut(tokens[len(prompt) :], max_new_tokens, end), tuple(rounds))


class _Draft:
    """The head's side: a memory of everything the target has confirmed, plus K proposals."""

    def __init__(self, model: DraftModel, settings: ReplaySettings, generator: torch.Generator | None) -> None:
        self._model = model
        self._settings = settings
        self._generator = generator
        self._memory = Memory(model.windows)
        self._confirmed = 0

    def propose(self, aux: torch.Tensor, tokens: Sequence[int]) -> tuple[list[int], list[torch.Tensor]]:
        """Draft K proposals after ``tokens``, each with the distribution it was drawn from, [draft vocabulary].

        ``aux`` [n, …] are the target's states at the n positions before the last token that the draft has not seen
        yet.
        """
        model, device = self._model, self._model.device
        begin, self._confirmed = self._confirmed, self._confirmed + len(aux)
        positions = torch.arange(begin, self._confirmed, device=device)
        following = torch.tensor(tokens[begin + 1 : self._confirmed + 1], device=device)
        hidden = model.hidden(model.features(aux), following, positions, self._memory.attend)[-1:]
        proposals: list[int] = []
        distributions: list[torch.Tensor] = []
        for step in range(1, self._settings.draft_tokens + 1):
            token, distribution = self._draw(model.logits(hidden)[0])
            proposals.append(token)
            distributions.append(distribution)
            if step == self._settings.draft_tokens:
                break
            if model.semantics.parallel_drafting:
                masked, token = model.masked()
                features = masked[None]
            else:
                features = model.feedback(hidden)
            here = torch.tensor([self._confirmed + step - 1], device=device)
            hidden = model.hidden(features, torch.tensor([token], device=device), here, self._memory.attend)
        self._memory.forget(self._confirmed)
        return proposals, distributions

    def _draw(self, logits: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Draw a token of the target's vocabulary; return it with its distribution over the draft vocabulary."""
        c = self._settings
        if c.drafting == "probabilistic" and c.temperature > 0:
            distribution = (logits.double() / c.temperature).softmax(-1)
            drawn = torch.multinomial(distribution.cpu(), 1, generator=self._generator).to(distribution.device)
        else:
            drawn = logits.argmax(keepdim=True)
            distribution = torch.zeros_like(logits, dtype=torch.float64)
            distribution[drawn] = 1.0
        return int(self._model.to_target(drawn)), distribution


def _verify(
    model: DraftModel,
    logits: torch.Tensor,
    proposals: Sequence[int],
    distributions: Sequence[torch.Tensor],
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[int, int]:
    """Return how many proposals are accepted, and the target's own token after them.

    ``logits`` [K + 1, vocabulary]: row i is the target's prediction for the position of proposal i.
    """
    for i, (token, distribution) in enumerate(zip(proposals, distributions, strict=True)):
        if temperature == 0:
            best = int(logits[i].argmax())
            if token != best:
                return i, best
            continue
        p = (logits[i].double() / temperature).softmax(-1)
        q = torch.zeros_like(p)
        q[model.to_target(torch.arange(len(distribution), device=distribution.device)).to(q.device)] = distribution.to(
            q.device
        )
        if float(torch.rand((), generator=generator)) * float(q[token]) >= float(p[token]):
            left = (p - q).clamp(min=0)
            return i, int(torch.multinomial(left.cpu(), 1, generator=generator))
    return len(proposals), _pick(logits[-1], temperature, generator)


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=generator))


def _cut(response: Sequence[int], limit: int, end: Collection[int]) -> tuple[int, ...]:
    for i, token in enumerate(response[:limit]):
        if token in end:
            return tuple(response[: i + 1])
    return tuple(response[:limit])
