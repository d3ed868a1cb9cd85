"""Measure a draft head's acceptance at prefill speed: every position of a text drafts at once.

The text is the target's own. At temperature 0, drafted tokens are accepted up to the first that differs from the text.
So once all drafts are known, the rounds of speculative decoding follow from the text: a round begins at the last token
emitted, ends at the first draft that differs, and the text holds the token that the target puts there. A draft ends
where it differs, so its later steps may be fed the text's tokens instead of its own, and one pass over all positions
per draft step replaces a loop over rounds.

At temperature T > 0, the text was sampled from the target's distribution p. Speculative sampling accepts a draft x
sampled from q with probability min(1, p(x)/q(x)), and otherwise draws a token from the positive part of p - q. The
emitted token then has distribution p. It follows that a token x of the text is an accepted draft with probability
min(1, q(x)/p(x)), independently of everything else (arXiv:2211.17192, theorem 1). So one random number (a coin) for
each token of the text replays the rounds. A greedy draft has q = 1 at its arg max, and is accepted exactly if it is
the text's token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from eagle3hub.reference.model import DraftModel, Everywhere
from eagle3hub.reference.text import Batch, Text

Drafting = Literal["greedy", "probabilistic"]

_LOGITS = 1 << 24
"""Most draft logits held at a time, in elements: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How drafts are made and judged.

    Attributes:
        draft_tokens: K, tokens drafted per round, as a chain.
        drafting: ``greedy`` takes the arg max (what vLLM and SGLang do unless told otherwise), ``probabilistic`` draws
            from the head's distribution at ``temperature``.
        temperature: of the target's sampling, and of the head's if it samples; 0 is greedy.
        seed: of the coins.
    """

    draft_tokens: int
    drafting: Drafting = "greedy"
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.drafting not in ("greedy", "probabilistic"):
            raise ValueError(f"drafting is greedy or probabilistic, not {self.drafting!r}")

    @property
    def needs_logprobs(self) -> bool:
        """Whether replaying needs the target's probabilities of the text's tokens."""
        return self.drafting == "probabilistic" and self.temperature > 0


def replay(model: DraftModel, batch: Batch, settings: ReplaySettings) -> list[tuple[int, ...]]:
    """Return the rounds of speculative decoding on each text of ``batch``: accepted drafts, 0 … K, per round.

    Beside ``batch``, memory grows with the batch's tokens, not with their square: each draft position keeps its
    entries, and attention scores and logits are computed in parts of limited size.

    Texts need a lookahead of K - 1 tokens or more (ValueError otherwise), because in its last round an engine verifies
    and counts drafts beyond the end of the response.
    """
    for text in batch.texts:
        if text.lookahead < settings.draft_tokens - 1:
            raise ValueError(f"K = {settings.draft_tokens} needs more lookahead than {text.lookahead} tokens")
    found = depths(model, batch, settings).tolist()
    return [walk(text, depth) for text, depth in zip(batch.texts, found, strict=True)]


def walk(text: Text, depths: list[int]) -> tuple[int, ...]:
    """Return the rounds over a text, given how many drafts from each position would be accepted.

    A draft at position i follows token i + 1.
    """
    rounds = []
    last = text.prompt_length + text.response_length - 1
    emitted = text.prompt_length  # the first token of the response comes from prefill
    while emitted < last:
        accepted = depths[emitted - 1]
        rounds.append(accepted)
        emitted += accepted + 1
    return tuple(rounds)


@torch.no_grad()
def depths(model: DraftModel, batch: Batch, settings: ReplaySettings) -> torch.Tensor:
    """Return how many drafts from each position are accepted: int64 [B, positions]; 0 where no round can begin."""
    k = settings.draft_tokens
    begun = open_rounds(model, batch, k)
    depths, tokens, memory = begun.depths, begun.tokens, begun.memory
    starts, alive, hidden = begun.starts, begun.alive, begun.hidden
    if starts.shape[1] == 0:
        return depths
    judge = _Judge(model, batch, settings, tokens.shape[1], model.device)
    for step in range(1, k + 1):
        wanted = tokens.gather(1, starts + 1 + step)
        alive = judge.accepts(hidden, wanted, starts + 1 + step, alive)
        depths.scatter_add_(1, starts, alive.long())
        most = int(alive.sum(1).max())
        if step == k or most == 0:
            break
        chosen = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        memory.keep(chosen)
        starts, alive, wanted = starts.gather(1, chosen), alive.gather(1, chosen), wanted.gather(1, chosen)
        if model.semantics.parallel_drafting:
            masked, mask_token = model.masked()
            features = masked.expand(*starts.shape, -1)
            wanted = torch.full_like(wanted, mask_token)
        else:
            hidden = rows(hidden, chosen)
            features = model.feedback(hidden)
        hidden = model.hidden(features, wanted, starts + step, memory.attend)
    return depths


@dataclass(frozen=True, slots=True)
class Begun:
    """All rounds that could begin on a batch, before their first draft.

    B is the number of texts, Q the largest number of positions in one text at which a round can begin, or 0.

    Attributes:
        tokens: of the texts, int64 [B, length + drafts], padded with 0.
        depths: accepted drafts by position, int64 [B, positions], all still 0.
        starts: positions at which a round begins, int64 [B, Q].
        alive: which of ``starts`` are real and not padding: bool [B, Q].
        hidden: states that the first drafts come from, [B, Q, hidden size].
        memory: keys and values of all positions; the rounds' own are kept with ``starts``.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    starts: torch.Tensor
    alive: torch.Tensor
    hidden: torch.Tensor
    memory: Everywhere


def open_rounds(model: DraftModel, batch: Batch, drafts: int) -> Begun:
    """Run the head over all positions of the texts, whose rounds draft up to ``drafts`` tokens."""
    device = model.device
    width = max(len(text.token_ids) for text in batch.texts)
    length = min(batch.aux.shape[1], width - 1)  # the last token of a text has no next token to draft with
    padded = [text.token_ids + (0,) * (width + drafts - len(text.token_ids)) for text in batch.texts]
    tokens = torch.tensor(padded, device=device)
    first = torch.tensor([[t.prompt_length - 1] for t in batch.texts], device=device)
    count = torch.tensor([[max(0, t.response_length - 1)] for t in batch.texts], device=device)
    depths = torch.zeros(len(batch.texts), length, dtype=torch.int64, device=device)
    memory = Everywhere(model.windows)
    offset = torch.arange(int(count.max()), device=device)[None]
    starts, alive = (first + offset).clamp(max=length - 1), offset < count
    if starts.shape[1] == 0:
        nothing = torch.empty(*starts.shape, 0, dtype=model.dtype, device=device)
        return Begun(tokens, depths, starts, alive, nothing, memory)

    everywhere = torch.arange(length, device=device).expand(len(batch.texts), -1)
    ends = torch.tensor([[len(text.token_ids)] for text in batch.texts], device=device)
    padding = (everywhere >= ends)[..., None]  # these values are not used, but 0 · nan is nan
    features = model.features(batch.aux[:, :length]).masked_fill(padding, 0)
    hidden = model.hidden(features, tokens[:, 1 : length + 1], everywhere, memory.shared)
    memory.begin(starts)
    return Begun(tokens, depths, starts, alive, rows(hidden, starts), memory)


def rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return rows ``index`` [B, N] of ``x`` [B, M, size]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class _Judge:
    """Decides whether a draft step's proposal is accepted, given the text's token at that place."""

    def __init__(
        self, model: DraftModel, batch: Batch, settings: ReplaySettings, width: int, device: torch.device
    ) -> None:
        self._model = model
        self._temperature = settings.temperature
        self._coins: torch.Tensor | None = None
        if settings.needs_logprobs:
            assert batch.logprobs is not None, "sampled drafts are judged by the target's probabilities"
            self._logprobs = F.pad(batch.logprobs, (0, width - batch.logprobs.shape[1])).to(device)
            self._coins = coins(batch, width, settings.seed).to(device)
            self._draft_id = draft_ids(model, device)

    def accepts(
        self, hidden: torch.Tensor, wanted: torch.Tensor, at: torch.Tensor, alive: torch.Tensor
    ) -> torch.Tensor:
        """Return which drafts stay alive, bool [B, Q]: those ``alive`` whose proposal is the text's token.

        ``hidden`` [B, Q, hidden size]; ``wanted`` [B, Q] are the text's tokens, at its indices ``at``.
        """
        flat, goal, rows, where = hidden[alive], wanted[alive], alive.nonzero()[:, 0], at[alive]
        step = max(1, _LOGITS // self._model.dims.draft_vocab_size)
        parts = []
        for i in range(0, len(flat), step):
            logits = self._model.logits(flat[i : i + step])
            if self._coins is None:
                parts.append(self._model.to_target(logits.argmax(-1)) == goal[i : i + step])
            else:
                place = rows[i : i + step], where[i : i + step]
                parts.append(self._tossed(logits, goal[i : i + step], place))
        return torch.zeros_like(alive).masked_scatter_(alive, torch.cat(parts))

    def _tossed(
        self, logits: torch.Tensor, wanted: torch.Tensor, place: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        assert self._coins is not None
        draft = self._draft_id[wanted]
        q = (logits.float() / self._temperature).log_softmax(-1)
        log_q = q.gather(1, draft.clamp(min=0)[:, None])[:, 0]
        return (draft >= 0) & (self._coins[place].log() < log_q - self._logprobs[place])


def coins(batch: Batch, length: int, seed: int) -> torch.Tensor:
    """Draw one uniform number for each token [B, length], which depends only on ``seed`` and the text's index."""
    out = []
    for index in batch.index:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        out.append(torch.rand(length, generator=generator))
    return torch.stack(out)


def draft_ids(model: DraftModel, device: torch.device) -> torch.Tensor:
    """Return the draft id of each target token, int64 [vocabulary], -1 for tokens the head cannot propose."""
    size = max(model.dims.vocab_size, len(model.embeddings))
    if model.target_ids is None:
        ids = torch.arange(size, device=device)
        return torch.where(ids < model.dims.draft_vocab_size, ids, -1)
    ids = torch.full((size,), -1, dtype=torch.int64, device=device)
    ids[model.target_ids] = torch.arange(len(model.target_ids), device=device)
    return ids
