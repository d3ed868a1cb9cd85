"""What the target's states are captured at, and the loop that drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Eagle3OneModelSpecMetadata:
    """Which layers are captured, and a place for their states."""

    num_layers: int
    layers_to_capture: Any = None
    hidden_size: int = 0
    max_num_tokens: int = 0
    dtype: torch.dtype = torch.bfloat16
    hidden_states: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.layers_to_capture is None:
            if self.num_layers <= 5:
                raise ValueError("Not enough hidden layers for default EAGLE3 capture")
            self.layers_to_capture = (1, self.num_layers // 2 - 1, self.num_layers - 4)
        else:
            self.layers_to_capture = sorted(self.layers_to_capture)
        width = self.hidden_size * len(self.layers_to_capture)
        self.hidden_states = torch.empty(self.max_num_tokens, width, dtype=self.dtype)


class Memory:
    """Keys and values of the draft, by layer; the first ``length`` are of tokens that stay."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.length = 0

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer in self.kept:
            k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.kept[layer], (k, v), strict=True))
        self.kept[layer] = k, v
        return k, v

    def forget(self, length: int) -> None:
        self.kept = {layer: (k[:, :, :length], v[:, :, :length]) for layer, (k, v) in self.kept.items()}
        self.length = length


class Eagle3OneModelWorker:
    """Drafts a chain after the tokens that were just verified."""

    def __init__(self, spec_config: Any) -> None:
        self.steps = spec_config.max_draft_len

    def __call__(
        self, tokens: list[int], states: list[torch.Tensor], meta: Any, draft: Any, memory: Memory
    ) -> list[int]:
        """``tokens``: all verified, the last not yet read by the target. ``states``: after 0, 1, … layers."""
        known, begin = len(tokens) - 1, memory.length
        for i, layer in enumerate(meta.layers_to_capture):
            state = states[layer + 1 if layer >= 0 else -1][:known]
            meta.hidden_states[:known, i * meta.hidden_size : (i + 1) * meta.hidden_size].copy_(state)
        with torch.no_grad():
            hidden = draft.apply_eagle3_fc(meta.hidden_states[begin:known])
            inputs = torch.tensor(tokens[begin + 1 :])
            positions, drafts = torch.arange(begin, known), []
            for step in range(self.steps):
                hidden, carried = draft.model(
                    attn_metadata=memory,
                    input_ids=inputs,
                    position_ids=positions,
                    hidden_states=hidden,
                    spec_metadata=meta,
                )
                if step == 0:
                    memory.length = known
                best = draft.logits_processor(hidden[-1:], draft.lm_head, memory, True).argmax(-1)
                inputs = best if draft.model.d2t is None else best + draft.model.d2t[best]
                drafts.append(int(inputs))
                hidden, positions = carried[-1:], positions[-1:] + 1
            memory.forget(known)
        return drafts
