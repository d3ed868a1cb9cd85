"""A head as our codecs read it, computed by the reference over one batch of an exporter's inputs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from eagle3hub.head import Head
from eagle3hub.reference.model import DraftModel, Everywhere, load_draft


class DoubleNorm(DraftModel):
    """ModelOpt's training: input_layernorm runs over the hidden state too, before hidden_norm; no engine does that."""

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "layers.0.hidden_norm":
            x = DraftModel._norm(self, "layers.0.input_layernorm", x)
        return DraftModel._norm(self, name, x)


def first_step(model: DraftModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, T, draft vocabulary] of the first draft step, and what it feeds back [B, T, hidden size]."""
    tokens = batch["token_ids"]
    positions = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    features = model.features(batch["aux_hidden_states"])
    hidden = model.hidden(features, tokens, positions, Everywhere(model.windows).shared)
    return model.logits(hidden), model.feedback(hidden)


def masked(model: DraftModel, batch: dict[str, torch.Tensor], depths: int) -> torch.Tensor:
    """Logits [B, depths, T, draft vocabulary] of P-EAGLE's masked slots, in a draft that begins at every position."""
    tokens = batch["token_ids"]
    positions = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
    memory = Everywhere(model.windows)
    model.hidden(model.features(batch["aux_hidden_states"]), tokens, positions, memory.shared)
    memory.begin(positions)
    features, token = model.masked()
    out = []
    for depth in range(1, depths + 1):
        inputs = features.expand(*tokens.shape, -1), torch.full_like(tokens, token)
        out.append(model.logits(model.hidden(*inputs, positions + depth, memory.attend)))
    return torch.stack(out, dim=1)


def run(
    head: Head, batch: dict[str, torch.Tensor], *, double_norm: bool = False, **changes: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`first_step` of a head with some of its semantics changed.

    A wrong vocabulary map does not keep a head from being computed: it changes no logits.
    """
    model = load_draft(replace(head, problems=[]), batch["embed_tokens"])
    model = replace(model, semantics=replace(model.semantics, **changes))
    if double_norm:
        model = DoubleNorm(**{f.name: getattr(model, f.name) for f in fields(model)})
    return first_step(model, batch)
