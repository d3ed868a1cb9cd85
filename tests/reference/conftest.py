from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import pytest

from eagle3hub.head import AuxTaps, Rope, Semantics
from eagle3hub.reference.model import DraftModel
from eagle3hub.reference.text import Batch, Text
from reference.support import PLAIN, LlamaTarget, fit, random_draft

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale_all_dim": 1.0}
VARIANTS: dict[str, tuple[Semantics, dict[str, int]]] = {
    "plain": (PLAIN, {}),
    "reduced vocabulary": (PLAIN, {"draft": 15}),
    "norm before residual": (replace(PLAIN, norm_before_residual=True), {}),
    "norm before fc, post-norm feedback": (replace(PLAIN, norm_before_fc=True, feedback="post_norm"), {}),
    "fc norm, biases": (replace(PLAIN, fc_norm=True, fc_bias=True, attention_bias=True), {}),
    "q/k norm, window": (replace(PLAIN, qk_norm=True, sliding_window=4, sliding_layers=(0,)), {}),
    "window shorter than a draft": (replace(PLAIN, sliding_window=2, sliding_layers=(0,)), {}),
    "two layers, one with a window": (replace(PLAIN, num_layers=2, sliding_window=5, sliding_layers=(1,)), {}),
    "no aux states": (replace(PLAIN, uses_aux=False), {}),
    "one aux state": (PLAIN, {"aux": 1}),
    "parallel": (replace(PLAIN, parallel_drafting=True), {"draft": 20}),
    "parallel, two layers": (replace(PLAIN, parallel_drafting=True, num_layers=2, fc_norm=True), {}),
    "scaled rope": (replace(PLAIN, rope=Rope(500.0, {**LLAMA3, "original_max_position_embeddings": 32})), {}),
    "mla": (replace(PLAIN, attention="mla", rope=Rope(500.0, YARN)), {}),
    "mla, no latent of queries, two layers": (
        replace(PLAIN, attention="mla", attention_bias=True, num_layers=2, fc_norm=True),
        {"q_lora_rank": 0, "draft": 15},
    ),
    "half the dimensions rotate, gelu": (
        replace(PLAIN, hidden_act="gelu", rope=Rope(500.0, {"rope_type": "default", "partial_rotary_factor": 0.5})),
        {"kv": 1},
    ),
}


@dataclass
class World:
    """One target, what it says after some prompts, and a head of each variant that knows some of it by heart."""

    target: LlamaTarget
    _models: dict[str, DraftModel] = field(default_factory=dict)

    @cached_property
    def texts(self) -> list[tuple[int, ...]]:
        """What the target says after one token, 80 tokens in all: every beginning of a text is a prompt."""
        return [self.target.greedy([first], 79) for first in range(1, 7)]

    def taps(self, variant: str) -> AuxTaps:
        semantics, sizes = VARIANTS[variant]
        if not semantics.uses_aux:
            return AuxTaps.final_norm("flag")
        return AuxTaps.from_after_layer([5], "flag") if sizes.get("aux") == 1 else self.target.taps

    def model(self, variant: str) -> DraftModel:
        if variant not in self._models:
            semantics, sizes = VARIANTS[variant]
            model = random_draft(semantics, embeddings=self.target.embeddings, **sizes)
            known = [Text(t, 1, len(t) - 1) for t in self.texts[:3]]
            self._models[variant] = fit(model, self.target.batch(known, self.taps(variant)))
        return self._models[variant]

    def batch(self, texts: list[Text], variant: str) -> Batch:
        return self.target.batch(texts, self.taps(variant))


@pytest.fixture(scope="session")
def world() -> World:
    return World(LlamaTarget.build())


@pytest.fixture(scope="session")
def text(world: World) -> Callable[..., Text]:
    """A text of the world: the first ``prompt`` tokens as the prompt, cut where a token of ``end`` or ``limit`` is."""

    def make(index: int, prompt: int, limit: int, lookahead: int, end: frozenset[int] = frozenset()) -> Text:
        tokens = world.texts[index]
        response = tokens[prompt : prompt + limit]
        length = next((i + 1 for i, token in enumerate(response) if token in end), len(response))
        return Text(tokens[: prompt + length + lookahead], prompt, length)

    return make
