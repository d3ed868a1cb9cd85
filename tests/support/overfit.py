"""Train a head for a few seconds on what its target says to a few prompts, so that its drafts are accepted.

The head knows these texts by heart afterwards and nothing else. That is enough to see whether an engine computes
what the reference computes: every position of a draft is accepted often.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from eagle3hub.layouts import open_head
from eagle3hub.prompts import PromptSet, load_prompts
from eagle3hub.reference.measure import taps_of
from eagle3hub.reference.model import DraftModel, Everywhere, load_draft
from eagle3hub.reference.replay import draft_ids, rows
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Batch


def overfit(
    folder: Path, target: Path, *, prompts: int | PromptSet, tokens: int, steps: int = 60, drafts: int = 3
) -> None:
    """Train the head in ``folder`` on prompts that the target answers with ``tokens`` tokens; write it back.

    ``prompts``: so many of the smoke set, or a set.
    """
    torch.manual_seed(0)
    head = open_head(folder, target=str(target))
    model = TargetModel.load(str(target))
    chosen = load_prompts("smoke", prompts) if isinstance(prompts, int) else prompts
    asked = [model.prompt(prompt) for prompt in chosen.prompts]
    images = [one.images for one in asked]
    texts = model.respond([one.token_ids for one in asked], max_new_tokens=tokens, lookahead=drafts, images=images)
    batches = list(model.read(texts, taps_of(head)))
    draft = load_draft(head, model.embeddings)
    learnt = {name: weight.clone().requires_grad_() for name, weight in draft.weights.items()}
    draft = replace(draft, weights=learnt)
    optimizer = torch.optim.Adam(learnt.values(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        for batch in batches:
            _loss(draft, batch, drafts).backward()
        optimizer.step()
    file = folder / "model.safetensors"
    stored = load_file(file)
    for name, ref in head.tensors.items():
        if name in learnt:
            stored[ref.name] = learnt[name].detach().to(stored[ref.name].dtype).contiguous()
    save_file(stored, file, {"format": "pt"})


def _loss(model: DraftModel, batch: Batch, drafts: int) -> torch.Tensor:
    """Cross-entropy of every draft from every position, in float32."""
    ids = draft_ids(model, model.device)
    width = max(len(text.token_ids) for text in batch.texts)
    tokens = torch.tensor([text.token_ids + (0,) * (width - len(text.token_ids)) for text in batch.texts])
    ends = torch.tensor([len(text.token_ids) for text in batch.texts])
    length = width - drafts - 1
    at = torch.arange(length).expand(len(batch.texts), -1)
    memory = Everywhere(model.windows)
    hidden = model.hidden(model.features(batch.aux[:, :length]), tokens[:, 1 : length + 1], at, memory.shared)
    memory.begin(at)
    losses = []
    for step in range(1, drafts + 1):
        wanted = ids[tokens.gather(1, at + 1 + step)]
        wanted = wanted.masked_fill(at + 1 + step >= ends[:, None], -1)
        losses.append(F.cross_entropy(model.logits(hidden).flatten(0, 1), wanted.flatten(), ignore_index=-1))
        if step < drafts:
            taken = tokens.gather(1, at + 1 + step)
            hidden = model.hidden(model.feedback(rows(hidden, at)), taken, at + step, memory.attend)
    return torch.stack(losses).sum()
