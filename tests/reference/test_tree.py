"""Tree drafts: against the chain, against a naive beam search, and against SGLang's own counters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from eagle3hub.errors import Refusal, UsageError
from eagle3hub.head import Semantics
from eagle3hub.reference import tree
from eagle3hub.reference.model import DraftModel
from eagle3hub.reference.replay import ReplaySettings, replay, walk
from eagle3hub.reference.text import Batch, Text
from eagle3hub.reference.tree import TreeShape, replay_tree
from reference.support import PLAIN, random_draft

RECORDED = Path(__file__).parent.parent / "fixtures" / "sglang-trees.json"
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "smollm2-135m" / "head"
VARIANTS = {
    "plain": PLAIN,
    "post-norm feedback": replace(PLAIN, feedback="post_norm", norm_before_residual=True),
    "window": replace(PLAIN, sliding_window=4, sliding_layers=(0,)),
    "two layers": replace(PLAIN, num_layers=2, sliding_window=3, sliding_layers=(1,)),
}


def tiny(semantics: Semantics = PLAIN, seed: int = 0) -> DraftModel:
    """A random head of strong opinions; of 12 tokens it drafts 6, so that random text is often found."""
    model = random_draft(semantics, seed=seed, hidden=16, inter=24, head_dim=4, vocab=12, draft=6)
    return replace(model, weights={name: w * 1.5 if w.ndim == 2 else w for name, w in model.weights.items()})


def random_batch(model: DraftModel, shapes: list[tuple[int, int]], lookahead: int, seed: int = 0) -> Batch:
    """Random texts of (prompt, response) lengths, of tokens the head can draft, with random aux states."""
    assert model.target_ids is not None
    g = torch.Generator().manual_seed(seed)
    texts = []
    for prompt, response in shapes:
        drawn = torch.randint(len(model.target_ids), (prompt + response + lookahead,), generator=g)
        texts.append(Text(tuple(model.target_ids[drawn].tolist()), prompt, response))
    longest = max(len(t.token_ids) for t in texts)
    return Batch(
        tuple(range(len(texts))),
        tuple(texts),
        torch.randn(len(texts), longest, 3 * model.dims.target_hidden_size, generator=g),
    )


def every_start(model: DraftModel, length: int, lookahead: int, seed: int) -> Batch:
    """One text as many times as it has positions, each time with one round, that begins at another."""
    one = random_batch(model, [(1, length)], lookahead, seed)
    ids = one.texts[0].token_ids
    texts = tuple(Text(ids[: p + 2 + lookahead], p, 2) for p in range(1, length))
    return Batch(tuple(range(len(texts))), texts, one.aux.expand(len(texts), -1, -1))


@dataclass(eq=False)
class Node:
    token: int
    score: torch.Tensor
    parent: Node | None
    origin: torch.Tensor  # the hidden state it was drafted from
    entries: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=list)  # per layer, when it ran


def naive_tree(
    model: DraftModel, text: Text, aux: torch.Tensor, start: int, c: TreeShape, *, follow: bool = False
) -> set[tuple[int, ...]]:
    """The tree at ``start`` as its paths from the root: one node at a time, over explicit lists.

    Beam slots keep the keys and values of whoever held them, as SGLang's do; with ``follow``, a branch has those of
    its own ancestors.
    """
    s = model.semantics

    def attend_over(past: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> Callable[..., torch.Tensor]:
        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            past[layer].append((k, v))
            seen = past[layer]
            if layer in s.sliding_layers:
                seen = seen[-s.sliding_window :]
            out = torch.empty_like(q)
            for head in range(len(q)):
                keys, values = (torch.stack([e[i][head // 2] for e in seen]) for i in (0, 1))
                out[head] = (keys @ q[head] * model.dims.head_dim**-0.5).softmax(0) @ values
            return out

        return attend

    def children(hidden: torch.Tensor, parent: Node | None) -> list[Node]:
        p = model.logits(hidden).softmax(-1)
        best = sorted(range(len(p)), key=lambda i: -float(p[i]))[: c.topk]
        score = torch.tensor(1.0) if parent is None else parent.score
        return [Node(int(model.to_target(torch.tensor(i))), score * p[i], parent, hidden) for i in best]

    def run(features: torch.Tensor, token: int, position: int, past: list[list]) -> torch.Tensor:
        return model.hidden(features, torch.tensor(token), torch.tensor(position), attend_over(past))

    prefix: list[list] = [[] for _ in range(s.num_layers)]
    for i in range(start + 1):
        hidden = run(model.features(aux[i]), text.token_ids[i + 1], i, prefix)
    everyone = slots = children(hidden, None)
    memory = [[list(layer) for layer in prefix] for _ in slots]
    for step in range(1, c.steps):
        born: list[Node] = []
        for i, node in enumerate(slots):
            if follow:
                memory[i] = [list(layer) for layer in (node.parent.entries if node.parent else prefix)]
            hidden = run(model.feedback(node.origin), node.token, start + step, memory[i])
            node.entries = [list(layer) for layer in memory[i]]
            born += children(hidden, node)
        everyone = everyone + born
        slots = sorted(born, key=lambda n: -float(n.score))[: c.topk]
    kept = sorted(everyone, key=lambda n: -float(n.score))[: c.num_draft_tokens - 1]
    paths: dict[Node | None, tuple[int, ...]] = {None: ()}
    for node in sorted(kept, key=everyone.index):  # parents come before their children
        if node.parent in paths:
            paths[node] = (*paths[node.parent], node.token)
    return set(paths.values())


def naive_rounds(model: DraftModel, batch: Batch, c: TreeShape) -> list[tuple[int, ...]]:
    out = []
    for text, aux in zip(batch.texts, batch.aux, strict=True):
        depths = [0] * len(text.token_ids)
        for start in range(text.prompt_length - 1, text.prompt_length + text.response_length - 2):
            paths = naive_tree(model, text, aux, start, c)
            depths[start] = max(n for n in range(c.steps + 1) if text.token_ids[start + 2 : start + 2 + n] in paths)
        out.append(walk(text, depths))
    return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_one_branch_is_the_chain(variant, steps):
    model = tiny(VARIANTS[variant])
    batch = random_batch(model, [(3, 120), (9, 80), (1, 1), (2, 100)], lookahead=steps - 1)
    rounds = replay_tree(model, batch, TreeShape(steps, 1, steps + 1))
    assert rounds == replay(model, batch, ReplaySettings(steps))
    assert {a for r in rounds for a in r} >= set(range(min(steps, 2) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("steps", "topk", "draft_tokens"),
    [(1, 4, 4), (2, 2, 4), (2, 4, 21), (3, 2, 8), (3, 4, 8), (4, 3, 2), (4, 3, 31), (5, 2, 6), (5, 4, 16)],
)
def test_every_tree_is_that_of_a_naive_beam_search(variant, steps, topk, draft_tokens):
    model = tiny(VARIANTS[variant], seed=steps)
    settings = TreeShape(steps, topk, draft_tokens)
    batch = every_start(model, 24, lookahead=steps - 1, seed=topk)
    rounds = replay_tree(model, batch, settings)
    assert rounds == naive_rounds(model, batch, settings)
    assert len({a for (a,) in rounds}) > 1


@pytest.mark.slow
def test_rounds_follow_one_another_over_a_text():
    model = tiny(seed=1)
    settings = TreeShape(3, 3, 9)
    batch = random_batch(model, [(4, 30), (11, 17), (1, 25)], lookahead=2, seed=1)
    rounds = replay_tree(model, batch, settings)
    assert rounds == naive_rounds(model, batch, settings)
    assert {a for r in rounds for a in r} == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", [0, 2, 4, 6, 7])  # heads for which it makes a difference
def test_branches_attend_to_what_their_slot_held_and_not_to_their_ancestors(seed):
    model, settings = tiny(seed=seed), TreeShape(4, 4, 24)
    batch = random_batch(model, [(2, 2)], lookahead=3, seed=seed)
    text, start = batch.texts[0], 1
    by_slot, by_ancestor = (naive_tree(model, text, batch.aux[0], start, settings, follow=f) for f in (False, True))

    def accepted(path: tuple[int, ...]) -> int:
        ids = (text.token_ids[: start + 2] + path + (0,) * 4)[: len(text.token_ids)]
        ((accepted,),) = replay_tree(model, replace(batch, texts=(replace(text, token_ids=ids),)), settings)
        return accepted

    assert all(accepted(path) >= len(path) for path in by_slot)
    missing = by_ancestor - by_slot
    assert missing
    assert all(accepted(path) < len(path) for path in missing)


def test_texts_do_not_see_each_other_and_chunks_change_nothing(monkeypatch):
    model, settings = tiny(), TreeShape(4, 3, 12)
    batch = random_batch(model, [(3, 40), (9, 20), (2, 1), (5, 2), (30, 3)], lookahead=3)
    together = replay_tree(model, batch, settings)
    alone = [
        replay_tree(model, Batch((i,), (t,), aux[None, : len(t.token_ids)]), settings)[0]
        for i, (t, aux) in enumerate(zip(batch.texts, batch.aux, strict=True))
    ]
    assert together == alone
    monkeypatch.setattr(tree, "_LOGITS", 20)
    assert replay_tree(model, batch, settings) == together


def test_acceptance_beyond_the_end_of_the_response_counts():
    model, settings = tiny(), TreeShape(3, 5, 56)
    long = random_batch(model, [(2, 80)], lookahead=2)
    (rounds,) = replay_tree(model, long, settings)
    before = rounds[: rounds.index(3)]
    prompt, ids = 2, long.texts[0].token_ids
    ends_inside = len(before) + sum(before) + 3  # the first token, the rounds before, and two of the next one's four
    cut = Batch((0,), (Text(ids[: prompt + ends_inside + 2], prompt, ends_inside),), long.aux)
    assert replay_tree(model, cut, settings) == [(*before, 3)]


def test_a_response_of_one_token_has_no_rounds():
    model = tiny()
    batch = random_batch(model, [(5, 1), (7, 1)], lookahead=3)
    assert replay_tree(model, batch, TreeShape(4, 2, 6)) == [(), ()]


def test_a_text_the_head_cannot_draft_is_all_rejections():
    model = tiny()
    batch = random_batch(model, [(5, 8)], lookahead=2)
    assert model.target_ids is not None
    foreign = next(i for i in range(model.dims.vocab_size) if i not in model.target_ids.tolist())
    text = replace(batch.texts[0], token_ids=(foreign,) * len(batch.texts[0].token_ids))
    assert replay_tree(model, replace(batch, texts=(text,)), TreeShape(3, 2, 6)) == [(0,) * 7]


@pytest.mark.parametrize(
    ("steps", "topk", "draft_tokens", "allowed"),
    [(3, 2, 12, "2 to 11"), (3, 2, 1, "2 to 11"), (3, 1, 3, "4"), (3, 1, 5, "4"), (0, 2, 2, "1 or more")],
)
def test_sizes_that_make_no_tree(steps, topk, draft_tokens, allowed):
    with pytest.raises(UsageError) as caught:
        TreeShape(steps, topk, draft_tokens)
    assert caught.value.code == "tree-shape"
    assert caught.value.hint is not None and caught.value.hint.endswith(allowed)


def test_heads_and_texts_that_fit_no_tree():
    model = tiny()
    batch = random_batch(model, [(5, 8)], lookahead=1)
    with pytest.raises(ValueError, match="3 steps need more lookahead than 1"):
        replay_tree(model, batch, TreeShape(3, 2, 6))
    with pytest.raises(UsageError, match="top-k 7 is more than the 6 tokens"):
        replay_tree(model, batch, TreeShape(2, 7, 6))
    with pytest.raises(Refusal, match="in parallel"):
        replay_tree(tiny(replace(PLAIN, parallel_drafting=True)), batch, TreeShape(2, 2, 6))


@pytest.fixture(scope="module")
def recorded(smollm2_target):
    """The example head, and its target's states over the texts that SGLang generated."""
    from transformers import AutoModelForCausalLM

    from eagle3hub.layouts import open_head
    from eagle3hub.reference.model import load_draft

    record = json.loads(RECORDED.read_text())
    texts = [
        Text(tuple(t["prompt"] + t["response"] + t["lookahead"]), len(t["prompt"]), len(t["response"]))
        for t in record["texts"]
    ]
    target = AutoModelForCausalLM.from_pretrained(smollm2_target, dtype=torch.float32).eval()
    head = open_head(str(EXAMPLE), target=str(smollm2_target))
    batches = []
    for i, text in enumerate(texts):
        with torch.no_grad():
            states = target(torch.tensor([text.token_ids]), output_hidden_states=True).hidden_states
        aux = torch.cat([states[b] for b in head.aux.boundary], dim=-1)
        batches.append(Batch((i,), (text,), aux))
    return load_draft(head, target.get_input_embeddings().weight.detach()), batches, record["runs"]


@pytest.mark.slow
@pytest.mark.parametrize("run", range(len(json.loads(RECORDED.read_text())["runs"])))
def test_rounds_are_those_sglang_counted(recorded, run):
    model, batches, runs = recorded
    wanted = runs[run]
    settings = TreeShape(wanted["steps"], wanted["topk"], wanted["num_draft_tokens"])
    for batch, verified, histogram in zip(batches, wanted["spec_verify_ct"], wanted["histogram"], strict=True):
        (rounds,) = replay_tree(model, batch, settings)
        assert len(rounds) == verified
        assert [rounds.count(a) for a in range(max(rounds) + 1)] == histogram
