"""A head as our codecs read it, computed by the reference over one batch of an exporter's inputs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from eagle3hub.head import Head
from eagle3hub.reference.attention import Everywhere
from eagle3hub.reference.load import load_draft
from eagle3hub.reference.model import DraftModel


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
