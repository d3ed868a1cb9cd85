"""The example head on its real target: replay is speculation, and every sabotage of the head shows in the rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch

from eagle3hub.head import AuxTaps, Rope
from eagle3hub.layouts import open_head
from eagle3hub.reference.model import DraftModel, load_draft
from eagle3hub.reference.replay import ReplaySettings, replay
from eagle3hub.reference.speculate import speculate
from eagle3hub.reference.text import Batch, Text
from reference.support import LlamaTarget, wrong

pytestmark = pytest.mark.slow  # the real target and the example head

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"
# what the target says to the smoke prompts, in float32 at temperature 0: up to 64 tokens, and 16 more as lookahead
TEXTS = Path(__file__).resolve().parents[1] / "fixtures" / "smollm2-texts.json"
TAPS = AuxTaps.from_after_layer([1, 14, 26], "flag")
K = 3
# vLLM on CPU, float32, K = 3, one sequence at a time, 64 tokens: rounds, and accepted at each position
VLLM = 622, [206, 58, 18]


@dataclass
class Example:
    """The example head, its target, and texts of the target."""

    target: LlamaTarget
    model: DraftModel
    texts: list[Text]
    batch: Batch

    @cached_property
    def rounds(self) -> list[tuple[int, ...]]:
        return self.replay(self.model)

    def replay(self, model: DraftModel) -> list[tuple[int, ...]]:
        return replay(model, self.batch, ReplaySettings(K))


@pytest.fixture(scope="module")
def example(smollm2_target: Path) -> Example:
    from transformers import AutoModelForCausalLM

    llama = AutoModelForCausalLM.from_pretrained(smollm2_target, dtype=torch.float32).eval()
    target = LlamaTarget(llama, TAPS)
    texts = [
        Text(tuple(t["token_ids"]), t["prompt_length"], t["response_length"]) for t in json.loads(TEXTS.read_text())
    ]
    return Example(target, load_draft(open_head(EXAMPLE), target.embeddings), texts, target.batch(texts))


def test_the_texts_are_the_targets_own(example: Example):
    for text in example.texts[:3]:
        logits, _ = example.target.session().advance(text.token_ids, TAPS)
        assert text.token_ids[text.prompt_length :] == tuple(logits.argmax(-1).tolist()[text.prompt_length - 1 : -1])


def test_the_rounds_are_as_many_as_vllms(example: Example):
    rounds = [a for text in example.rounds for a in text]
    assert (len(rounds), [sum(a >= i for a in rounds) for i in range(1, K + 1)]) == VLLM


@pytest.mark.parametrize("index", [6, 11])
def test_the_rounds_are_those_of_speculation(example: Example, index: int):
    text = example.texts[index]
    prompt, session = text.token_ids[: text.prompt_length], example.target.session()
    done = speculate(example.model, session, prompt, TAPS, ReplaySettings(K), max_new_tokens=24, end={2})
    assert done.response == text.response[:24]
    short = min(24, text.response_length)
    cut = Text(text.token_ids[: text.prompt_length + short + K - 1], text.prompt_length, short)
    assert replay(example.model, example.target.batch([cut]), ReplaySettings(K)) == [done.rounds]
    assert sum(done.rounds) > 3


def weight(model: DraftModel, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> DraftModel:
    return replace(model, weights={**model.weights, name: change(model.weights[name])})


def shuffled(model: DraftModel) -> DraftModel:
    assert model.target_ids is not None
    return replace(model, target_ids=model.target_ids.roll(1))


SABOTAGE: dict[str, Callable[[DraftModel], DraftModel]] = {
    "d2t rolled by one": shuffled,
    "theta": lambda m: wrong(m, rope=Rope(10000.0)),
    "hidden_norm left out": lambda m: weight(m, "layers.0.hidden_norm.weight", torch.ones_like),
    "input_layernorm left out": lambda m: weight(m, "layers.0.input_layernorm.weight", torch.ones_like),
    "norm left out": lambda m: weight(m, "norm.weight", torch.ones_like),
    "norm before residual": lambda m: wrong(m, norm_before_residual=True),
    "fc's blocks in another order": lambda m: weight(m, "fc.weight", lambda w: w.roll(576, dims=1)),
    "the rows of q_proj turned round": lambda m: weight(m, "layers.0.self_attn.q_proj.weight", lambda w: w.flip(0)),
    "embeddings of other tokens": lambda m: replace(m, embeddings=m.embeddings.roll(1, dims=0)),
    "activation": lambda m: wrong(m, hidden_act="gelu"),
    "eps": lambda m: wrong(m, rms_norm_eps=1.0),
    "post-norm feedback": lambda m: wrong(m, feedback="post_norm"),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_shows_in_the_rounds(example: Example, name: str):
    assert example.replay(SABOTAGE[name](example.model)) != example.rounds


@pytest.mark.parametrize("taps", [[2, 15, 27], [0, 13, 25], [1, 14, 27], [1, 13, 26]])
def test_a_tap_off_by_one_shows_in_the_rounds(example: Example, taps: list[int]):
    shifted = example.target.batch(example.texts[:3], AuxTaps.from_after_layer(taps, "flag"))
    assert replay(example.model, shifted, ReplaySettings(K)) != example.rounds[:3]


def test_low_precision_accepts_about_as_often(example: Example):
    half = load_draft(open_head(EXAMPLE), example.target.embeddings, dtype=torch.bfloat16)
    right, near = (sum(map(sum, rounds)) for rounds in (example.rounds, example.replay(half)))
    assert abs(near - right) < 0.05 * right
