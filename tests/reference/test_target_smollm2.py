"""The real target of the demo: its own generate, its own logits, its own chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eagle3hub.head import AuxTaps
from eagle3hub.layouts import open_head
from eagle3hub.prompts import load_prompts
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

pytestmark = pytest.mark.slow  # the real target

TAPS = AuxTaps.from_after_layer([1, 14, 26], "flag")


@pytest.fixture(scope="module")
def target(smollm2_target: Path) -> TargetModel:
    return TargetModel.load(str(smollm2_target))


@pytest.fixture(scope="module")
def texts(target: TargetModel) -> list[Text]:
    prompts = [target.chat(p.text) for p in load_prompts("smoke", 3).prompts]
    return target.respond(prompts, max_new_tokens=9, lookahead=3)


def test_the_example_head_fits(target: TargetModel, example_head: Path):
    target.fit(open_head(example_head))
    assert (target.context, target.eos_ids, target.vocab_size) == (8192, {2}, 49152)


def test_the_prompt_is_the_chat_templates(target: TargetModel):
    assert target.tokenizer.decode(target.chat("Hi")) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_responses_in_a_batch_are_those_of_generate(target: TargetModel, texts: list[Text]):
    for text in texts:
        prompt = torch.tensor([text.token_ids[: text.prompt_length]])
        theirs = target.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=-1
        )
        assert text.token_ids == tuple(theirs[0].tolist())


def test_states_and_probabilities_are_transformers(target: TargetModel, texts: list[Text]):
    (batch,) = target.read(texts, TAPS, temperature=1.0)
    assert batch.logprobs is not None
    for row, text in enumerate(batch.texts):
        ids, n = torch.tensor([text.token_ids]), len(text.token_ids)
        with torch.no_grad():
            output = target.model(ids, output_hidden_states=True, use_cache=False)
        states = torch.cat([output.hidden_states[k] for k in (2, 15, 27)], dim=-1)[0]
        torch.testing.assert_close(batch.aux[row, :n], states, rtol=1e-3, atol=1e-3)
        expected = output.logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(batch.logprobs[row, 1:n], expected, rtol=1e-3, atol=1e-3)
