"""Measure acceptance of tree drafts as SGLang makes them, at all positions of a text at once.

A chain drafts one token per step. SGLang with ``--speculative-eagle-topk`` k > 1 drafts a tree, by beam search (read
in SGLang, under ``srt/speculative``: ``eagle_worker_v2.py`` ``draft_forward``, ``spec_utils.py``
``select_top_k_tokens``, ``eagle_utils.py`` ``organize_draft_results``):

1. The k most probable tokens after the last confirmed one are the first candidates, each scored by its probability,
   and the first occupants of k beam slots.
2. Every further step runs the head on all slots: each occupant's token, with the hidden state its *parent* left, one
   position further on. The k most probable successors of each occupant make k * k new candidates; a candidate's score
   is its parent's times its own probability. The k best of them are the next occupants.
3. After the last step, the ``num_draft_tokens`` - 1 best of all k + (steps - 1) * k * k candidates are kept, whether
   or not they ever held a slot. With the last confirmed token as root they are what the target verifies.
4. At temperature 0 the target's own text leads through the tree for as long as its next token is among the children
   (``verify_tree_greedy_func``); those are accepted.

SGLang's drafts differ from a true tree search in one way. Keys and values of drafted tokens are stored by slot and
step (``kernels/ops/speculative/cache_locs.py`` ``generate_draft_decode_kv_indices`` on CUDA,
``srt/layers/attention/intel_amx_backend.py`` on CPU), and stay there when selection moves a branch to another slot.
From its third drafted token on, a branch may therefore attend to tokens that are not its ancestors: those that held
its slot before it. It still starts from its parent's hidden state. Drafts here attend as SGLang's do, not as the tree
would require.

The same walk replays temperature > 0: SGLang's tree verification (on CUDA, at its default thresholds of 1) draws each
token from the target's distribution and accepts it if it is a child (``kernels/jit/include/sgl_kernel/speculative/
sampling.cuh``), and the drafts do not depend on the temperature. So on text that the target sampled, these are the
rounds of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eagle3hub.errors import Refusal, UsageError
from eagle3hub.reference.model import DraftModel, Everywhere
from eagle3hub.reference.replay import open_rounds, rows, walk
from eagle3hub.reference.text import Batch

_LOGITS = 1 << 24
"""Most draft logits held at a time, in elements: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class TreeShape:
    """The size of the trees, in SGLang's terms.

    Attributes:
        steps: ``--speculative-num-steps``, depth of the tree; the most that one round accepts.
        topk: ``--speculative-eagle-topk``, k: beam slots, and children per occupant.
        num_draft_tokens: ``--speculative-num-draft-tokens``, tokens verified per round, the root included.

    Raises UsageError (``tree-shape``) for sizes that SGLang would reject or change: fewer nodes than asked for, or a
    chain (k = 1) that is not verified whole.
    """

    steps: int
    topk: int
    num_draft_tokens: int

    def __post_init__(self) -> None:
        if self.steps < 1 or self.topk < 1:
            raise UsageError(
                f"a tree of {self.steps} steps and top-k {self.topk} has no drafts",
                hint="both are 1 or more",
                code="tree-shape",
            )
        least, most = 2, self.candidates + 1
        if self.topk == 1:
            least = most
        if not least <= self.num_draft_tokens <= most:
            allowed = f"{most}" if least == most else f"{least} to {most}"
            raise UsageError(
                f"{self.num_draft_tokens} draft tokens do not fit {self.steps} steps of top-k {self.topk}",
                hint=f"the root counts as one: {allowed}",
                code="tree-shape",
            )

    @property
    def candidates(self) -> int:
        """Number of drafts that a round makes, of which the best ``num_draft_tokens`` - 1 are kept."""
        return self.topk + (self.steps - 1) * self.topk**2


def replay_tree(model: DraftModel, batch: Batch, settings: TreeShape) -> list[tuple[int, ...]]:
    """Return SGLang's rounds on each text of ``batch``: accepted drafts, 0 … steps, per round.

    SGLang reports their number as ``spec_verify_ct``. `torch.topk` orders equal probabilities, as in SGLang. Texts
    need a lookahead of ``steps`` - 1 tokens or more (ValueError otherwise), as in `eagle3hub.reference.replay`.

    Raises Refusal (``tree-parallel-drafting``) for a P-EAGLE head, which only drafts chains, and UsageError
    (``tree-shape``) for a k beyond the draft vocabulary.
    """
    for text in batch.texts:
        if text.lookahead < settings.steps - 1:
            raise ValueError(f"{settings.steps} steps need more lookahead than {text.lookahead} tokens")
    found = tree_depths(model, batch, settings).tolist()
    return [walk(text, depth) for text, depth in zip(batch.texts, found, strict=True)]


@torch.no_grad()
def tree_depths(model: DraftModel, batch: Batch, settings: TreeShape) -> torch.Tensor:
    """Return how deep the text goes into the tree drafted at each position: int64 [B, positions].

    It is 0 where no round can begin. Raises what `replay_tree` raises for the head.
    """
    if model.semantics.parallel_drafting:
        raise Refusal(
            "the head drafts all its tokens in parallel, and each step of a tree depends on the one before",
            hint="measure it as a chain",
            code="tree-parallel-drafting",
        )
    if settings.topk > model.dims.draft_vocab_size:
        raise UsageError(
            f"top-k {settings.topk} is more than the {model.dims.draft_vocab_size} tokens the head can draft",
            hint="lower top-k",
            code="tree-shape",
        )
    k, steps = settings.topk, settings.steps
    begun = open_rounds(model, batch, steps)
    depths, tokens, memory = begun.depths, begun.tokens, begun.memory
    starts, alive, hidden = begun.starts, begun.alive, begun.hidden
    if starts.shape[1] == 0:
        return depths
    probability, draft = _most_probable(model, hidden, k)
    alive &= (draft == tokens.gather(1, starts + 2)[..., None]).any(-1)  # the text follows no other tree
    order = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(alive.sum(1).max())]
    at_a_time = max(1, depths.shape[1] // k)  # so that there are never more slots than positions
    for i in range(0, order.shape[1], at_a_time):
        some = order[:, i : i + at_a_time]
        at = starts.gather(1, some)
        memory.begin(at.repeat_interleave(k, dim=1))
        first_step = rows(hidden, some), rows(probability, some), rows(draft, some)
        trees = _grow(model, memory, settings, at, *first_step)
        found = trees.follow([tokens.gather(1, at + 2 + step) for step in range(steps)])
        depths.scatter_add_(1, at, found * alive.gather(1, some))
    return depths


@dataclass(frozen=True, slots=True)
class _Trees:
    """Q trees for each of B texts, over n candidates each.

    ``token`` [B, Q, n] are target tokens; ``parent`` [B, Q, n] says which candidate each one follows, -1 for the root;
    ``kept`` bool [B, Q, n] are the candidates that the target verifies.
    """

    token: torch.Tensor
    parent: torch.Tensor
    kept: torch.Tensor

    def follow(self, text: list[torch.Tensor]) -> torch.Tensor:
        """Return how deep ``text``, the tokens [B, Q] after each root, goes down the tree: int64 [B, Q]."""
        node = torch.full_like(text[0], -1)
        depth = torch.zeros_like(node)
        for wanted in text:
            child = self.kept & (self.parent == node[..., None]) & (self.token == wanted[..., None])
            found = child.any(-1)
            depth += found
            node = torch.where(found, child.to(torch.int8).argmax(-1), _NOWHERE)
        return depth


_NOWHERE = -2
"""The mark of a node without children."""


def _grow(
    model: DraftModel,
    memory: Everywhere,
    settings: TreeShape,
    starts: torch.Tensor,
    hidden: torch.Tensor,
    score: torch.Tensor,
    token: torch.Tensor,
) -> _Trees:
    """Draft a tree at each of ``starts`` [B, Q], where ``memory`` has begun a draft per slot.

    The first candidates are known already: ``token`` with probability ``score``, both [B, Q, k], from ``hidden`` [B,
    Q, hidden size].
    """
    k, count = settings.topk, starts.shape[1]
    occupant = torch.arange(k, device=starts.device).expand_as(token)  # numbered among all candidates
    hidden = hidden.repeat_interleave(k, dim=1)  # [B, Q * k, …]: the values each slot's occupant starts from
    scores, tokens, parents = [score], [token], [torch.full_like(token, -1)]
    for step in range(1, settings.steps):
        at = (starts + step).repeat_interleave(k, dim=1)
        hidden = model.hidden(model.feedback(hidden), token.flatten(1), at, memory.attend)
        probability, draft = (x.view(-1, count, k, k) for x in _most_probable(model, hidden, k))
        scores.append((score[..., None] * probability).flatten(2))
        tokens.append(draft.flatten(2))
        parents.append(occupant.repeat_interleave(k, dim=2))
        score, best = scores[-1].topk(k, dim=-1)  # the next occupants, out of k * k candidates
        token = tokens[-1].gather(2, best)
        occupant = best + k + (step - 1) * k * k
        slot = best // k + k * torch.arange(count, device=best.device)[:, None]
        hidden = rows(hidden, slot.flatten(1))
    chosen = torch.cat(scores, dim=-1).topk(settings.num_draft_tokens - 1, dim=-1).indices
    token = torch.cat(tokens, dim=-1)
    kept = torch.zeros_like(token, dtype=torch.bool).scatter_(-1, chosen, True)
    return _Trees(token, torch.cat(parents, dim=-1), kept)


def _most_probable(model: DraftModel, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities and target tokens [B, N, k] of the k best drafts from hidden states [B, N, hidden size].

    A chain (k = 1) drafts the arg max, with probability 1.
    """
    probabilities, drafts = [], []
    flat, at_a_time = hidden.flatten(0, 1), max(1, _LOGITS // model.dims.draft_vocab_size)
    for i in range(0, len(flat), at_a_time):
        logits = model.logits(flat[i : i + at_a_time]).float()
        if k == 1:
            draft = logits.argmax(-1, keepdim=True)
            probability = torch.ones_like(draft, dtype=torch.float32)
        else:
            probability, draft = logits.softmax(-1).topk(k, dim=-1)
        probabilities.append(probability)
        drafts.append(model.to_target(draft))
    shape = (*hidden.shape[:2], k)
    return torch.cat(probabilities).view(shape), torch.cat(drafts).view(shape)
