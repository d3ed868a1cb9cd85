"""Judge by the reference what an engine's server drafted, where it tells no logits but the likeliest tokens.

llama.cpp's server writes down, for every step of every round, up to three tokens with their shares among the ten
likeliest, to three decimals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from eagle3hub.head import AuxTaps
from eagle3hub.probing.heads import LAYERS
from eagle3hub.reference.model import DraftModel, Memory
from eagle3hub.reference.target import TargetModel

_OF = 10
"""Shares are among this many tokens (``common/speculative.cpp``, the top-k of the draft's sampler)."""
_ROUNDED = 6e-4
"""A share of three decimals differs by up to half of the last one from what was computed."""
_FLATTER = 0.25
"""The most that a share changes with a logit."""

Step = Sequence[tuple[int, float]]
"""The tokens that were likeliest at one step, with their shares, the drafted one first."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a server drafted while a target wrote.

    Attributes:
        tokens: of the text, the prompt's first. rounds: of each round, how many tokens the text had, and its steps.
        taps: boundary ids of the states that were captured, ``?`` for none of its states.
        aux: these states [T, taps * H] of the target, in their order.
    """

    tokens: tuple[int, ...]
    rounds: tuple[tuple[int, tuple[Step, ...]], ...]
    taps: tuple[int | str, ...]
    aux: torch.Tensor

    @classmethod
    def of(cls, told: Mapping[str, list[Any]], prompt: int, target: Path, model: DraftModel, close: float) -> Drafted:
        """Read what a worker told of a question whose prompt has this many tokens.

        What the engine calls the last layer may be none of the target's states: it is that layer's only if ``model``
        drafts from it as the engine did.
        """
        tokens, length, rounds = tuple(told["tokens"]), prompt + 1, []
        for steps in told["rounds"]:
            rounds.append((length, tuple(tuple((token, share) for token, share in step) for step in steps)))
            right = [step[0][0] == now for step, now in zip(steps, tokens[length:], strict=False)]
            length += 1 + (right.index(False) if False in right else len(right))
        found = cls(tokens, tuple(rounds), tuple(told["taps"]), _states(target, tokens, told["taps"]))
        if LAYERS in found.taps and found.difference(model) > near(close):
            return replace(found, taps=tuple("?" if tap == LAYERS else tap for tap in found.taps))
        return found

    @torch.no_grad()
    def difference(self, model: DraftModel) -> float:
        """Return the largest difference of a share from what ``model`` gives."""
        most = 0.0
        for length, steps in self.rounds:
            memory, at = Memory(model.windows), torch.arange(length - 1 + len(steps))
            features = model.features(self.aux[: length - 1])
            tokens = torch.tensor(self.tokens[1:length])
            hidden = model.hidden(features, tokens, at[: length - 1], memory.attend)[-1:]
            for number, step in enumerate(steps):
                most = max(most, _apart(model, model.logits(hidden)[0], step))
                token, here = torch.tensor([step[0][0]]), at[length - 1 + number : length + number]
                hidden = model.hidden(model.feedback(hidden), token, here, memory.attend)
        return most


def near(close: float) -> float:
    """Return the most that shares differ by whose logits are as ``close``."""
    return _ROUNDED + _FLATTER * close


def _apart(model: DraftModel, logits: torch.Tensor, step: Step) -> float:
    """Return by how much the shares of a step differ; a token that should be among them counts, too."""
    best = logits.topk(min(_OF, len(logits)))
    tokens = model.to_target(best.indices).tolist()
    shares: dict[int, float] = dict(zip(tokens, best.values.softmax(-1).tolist(), strict=True))
    listed = [abs(share - shares.get(token, 0.0)) for token, share in step]
    left_out = max((share for token, share in shares.items() if token not in dict(step)), default=0.0)
    return max(*listed, left_out - step[-1][1] if len(step) == _LISTED else 0.0)


_LISTED = 3
"""The most tokens that are told of a step."""


def _states(target: Path, tokens: Sequence[int], captured: Sequence[int]) -> torch.Tensor:
    numbers = sorted(set(captured))
    found = _loaded(target).session().advance(tokens, AuxTaps.from_boundary(numbers, "config"))[1]
    states = dict(zip(numbers, found.chunk(len(numbers), dim=-1), strict=True))
    return torch.cat([states[tap] for tap in captured], dim=-1)


@lru_cache(maxsize=4)
def _loaded(target: Path) -> TargetModel:
    """Load a target of a probe; one after the other asks for the same."""
    return TargetModel.load(target)
