"""The target model against transformers' own outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import targets
from support.targets import ARCHITECTURES, LAYERS, VOCAB
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from eagle3hub.head import FINAL_NORM, AuxTaps
from eagle3hub.reference.layers import shared_length
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

EVERY = AuxTaps((*range(LAYERS), FINAL_NORM), "flag")
SOME = AuxTaps.from_after_layer([0, 2], "flag")


def texts(*lengths: int, seed: int = 0) -> list[Text]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return [Text(tuple(ids), 1, len(ids) - 1) for ids in drawn]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def any_target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TargetModel:
    folder = targets.save(tmp_path_factory.mktemp("targets") / request.param, request.param)
    return TargetModel.load(str(folder))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TargetModel:
    return TargetModel.load(str(targets.save(tmp_path_factory.mktemp("targets") / "llama", tokenizer=True)))


def keeps_everything(target: TargetModel) -> bool:
    """Whether the model's own cache keeps every position of every layer."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=target.model.config).layers)


def parts(aux: torch.Tensor, count: int) -> list[torch.Tensor]:
    return list(aux.chunk(count, dim=-1))


class TestEveryArchitecture:
    def test_taps_are_what_transformers_says_between_the_layers(self, any_target: TargetModel):
        (text,) = texts(21)
        (batch,) = any_target.read([text], EVERY)
        *layers, final = parts(batch.aux[0], LAYERS + 1)
        with torch.no_grad():
            theirs = any_target.model(
                torch.tensor([text.token_ids]), output_hidden_states=True, use_cache=False
            ).hidden_states
        for k in range(LAYERS - 1):
            torch.testing.assert_close(layers[k], theirs[k + 1][0], rtol=0, atol=0)
        torch.testing.assert_close(final, theirs[-1][0], rtol=0, atol=0)
        decoder = any_target.model.get_decoder()
        norm = getattr(decoder, "norm", None) or decoder.ln_f
        torch.testing.assert_close(norm(layers[-1]), final)
        assert not torch.equal(layers[-1], final)

    def test_what_texts_begin_with_alike_is_read_once(self, any_target: TargetModel):
        opening, some = texts(12, seed=5)[0].token_ids, texts(5, 23, 14, 1)
        alike = [Text((*opening, *t.token_ids), 12, len(t.token_ids)) for t in some]
        ids = [t.token_ids for t in alike]
        assert shared_length(any_target.model, ids) == (12 if keeps_everything(any_target) else 0)
        assert shared_length(any_target.model, ids[:1]) == 0
        assert shared_length(any_target.model, [opening, opening]) == (11 if keeps_everything(any_target) else 0)
        apart = {i: next(any_target.read([t], EVERY)).aux[0] for i, t in enumerate(alike)}
        for batch in any_target.read(alike, EVERY):
            for i, text, aux in zip(batch.index, batch.texts, batch.aux, strict=True):
                n = len(text.token_ids)
                torch.testing.assert_close(aux[:n], apart[i][:n], rtol=1e-4, atol=1e-4)

    def test_padding_and_stopping_early_change_nothing(self, any_target: TargetModel):
        some = texts(5, 23, 14, 9)
        alone = {i: next(any_target.read([t], EVERY)).aux[0] for i, t in enumerate(some)}
        (batch,) = any_target.read(some, SOME)
        assert batch.texts == tuple(some[i] for i in batch.index)
        for row, i in enumerate(batch.index):
            first, _, third, *_ = parts(alone[i], LAYERS + 1)
            ours = batch.aux[row, : len(some[i].token_ids)]
            torch.testing.assert_close(ours, torch.cat([first, third], -1), rtol=1e-4, atol=1e-5)

    def test_log_probabilities_are_those_of_the_models_own_logits(self, any_target: TargetModel, monkeypatch):
        monkeypatch.setattr("eagle3hub.reference.target._LOGIT_BYTES", 7 * 4 * VOCAB)  # 7 positions at a time
        some = texts(12, 19)
        (batch,) = any_target.read(some, SOME, temperature=0.7)
        assert batch.logprobs is not None
        for row, i in enumerate(batch.index):
            ids = torch.tensor([some[i].token_ids])
            with torch.no_grad():
                logits = any_target.model(ids, use_cache=False).logits[0].float()
            expected = (logits / 0.7).log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
            torch.testing.assert_close(batch.logprobs[row, 1 : ids.shape[1]], expected, rtol=1e-4, atol=1e-5)
        assert "forward" not in any_target.model.get_decoder().__dict__

    @pytest.mark.slow
    def test_batched_greedy_responses_equal_generate_one_at_a_time(self, any_target: TargetModel):
        prompts = [list(t.token_ids) for t in texts(3, 17, 12)]
        ours = any_target.respond(prompts, max_new_tokens=12, lookahead=0)
        for prompt, text in zip(prompts, ours, strict=True):
            theirs = any_target.model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=12, do_sample=False
            )
            assert list(text.token_ids) == theirs[0].tolist()
            assert text.prompt_length == len(prompt)

    def test_prompts_read_in_pieces_give_the_same_responses(self, any_target: TargetModel):
        prompts = [list(t.token_ids) for t in texts(3, 17, 11, 25, 5)]
        whole = any_target.respond(prompts, max_new_tokens=3, lookahead=1)
        before, any_target.batch_tokens = any_target.batch_tokens, 32
        try:
            assert any_target.respond(prompts, max_new_tokens=3, lookahead=1) == whole
        finally:
            any_target.batch_tokens = before

    def test_session_equals_one_forward_pass_after_any_detour(self, any_target: TargetModel):
        (text,) = texts(40)
        ids = text.token_ids
        session = any_target.session()
        got = {}
        for step, keep in ((20, 20), (5, 22), (6, 28), (1, 29), (9, 31), (3, 31), (2, 33), (7, 0), (25, 13), (27, 40)):
            start = len(session.token_ids)
            wrong = [(t + 1) % VOCAB for t in ids[max(keep, start) : start + step]]
            logits, aux = session.advance([*ids[start : max(keep, start)], *wrong], SOME)
            for i in range(start, max(keep, start)):
                got[i] = logits[i - start], aux[i - start]
            session.rewind(keep)
        with torch.no_grad():
            expected = any_target.model(torch.tensor([ids]), use_cache=False).logits[0]
        (batch,) = any_target.read([text], SOME)
        assert session.token_ids == ids
        for i in range(len(ids)):
            torch.testing.assert_close(got[i][0], expected[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got[i][1], batch.aux[0, i], rtol=1e-4, atol=1e-5)

    def test_weights_are_as_stored(self, any_target: TargetModel):
        assert any_target.embeddings.shape == (VOCAB, 16)
        assert torch.equal(any_target.embeddings, any_target.model.get_input_embeddings().weight)
        assert any_target.lm_head.shape == (VOCAB, 16)
        assert (any_target.hidden_size, any_target.num_hidden_layers, any_target.vocab_size) == (16, LAYERS, VOCAB)
        assert any_target.context == 256


def test_a_forward_pass_stops_after_the_highest_tap(llama: TargetModel):
    ran = []
    layers = llama.model.model.layers
    handles = [layer.register_forward_pre_hook(lambda *_, n=n: ran.append(n)) for n, layer in enumerate(layers)]
    list(llama.read(texts(5), AuxTaps.from_after_layer([0, 1], "flag")))
    assert ran == [0, 1]
    for handle in handles:
        handle.remove()
    assert not any(layer._forward_hooks for layer in layers)


def test_a_forward_that_somebody_wrapped_stays_wrapped(llama: TargetModel, monkeypatch: pytest.MonkeyPatch):
    decoder = llama.model.model
    plain, calls = decoder.forward, []

    def wrapped(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return plain(*args, **kwargs)

    monkeypatch.setitem(decoder.__dict__, "forward", wrapped)  # as accelerate does
    for _ in range(2):
        list(llama.read(texts(9), SOME, temperature=1.0))
    assert decoder.forward is wrapped
    assert len(calls) == 2


def test_batches_hold_as_many_tokens_as_allowed_and_cover_every_text(llama: TargetModel):
    some = texts(5, 40, 7, 23, 40, 6, 1)
    before, llama.batch_tokens = llama.batch_tokens, 50
    try:
        found = list(llama.read(some, SOME))
    finally:
        llama.batch_tokens = before
    assert sorted(i for batch in found for i in batch.index) == list(range(7))
    assert [tuple(batch.aux.shape[:2]) for batch in found] == [(1, 40), (1, 40), (2, 23), (3, 6)]


class TestRespond:
    def stopping(self, llama: TargetModel, prompts: list[list[int]]) -> int:
        """A token that the first response has in its middle."""
        return llama.respond(prompts[:1], max_new_tokens=9)[0].response[4]

    def test_a_response_ends_with_the_end_token_and_is_looked_beyond(self, llama: TargetModel, monkeypatch):
        prompts = [list(t.token_ids) for t in texts(6, 12, 9)]
        plain = llama.respond(prompts, max_new_tokens=20)
        stop = self.stopping(llama, prompts)
        monkeypatch.setitem(llama.__dict__, "eos_ids", frozenset({stop}))
        for text, free in zip(llama.respond(prompts, max_new_tokens=20, lookahead=5), plain, strict=True):
            n = free.response.index(stop) + 1 if stop in free.response else 20
            assert text.response == free.response[:n]
            assert text.lookahead == 5
            shared = min(len(free.token_ids), len(text.token_ids))
            assert text.token_ids[:shared] == free.token_ids[:shared]

    def test_every_text_is_reported_once_when_it_is_complete(self, llama: TargetModel):
        prompts = [list(t.token_ids) for t in texts(6, 12, 9)]
        told: dict[int, Text] = {}
        fractions: list[float] = []

        def on_text(index: int, text: Text) -> None:
            assert index not in told
            told[index] = text

        out = llama.respond(
            prompts,
            max_new_tokens=4,
            lookahead=1,
            on_text=on_text,
            progress=lambda message, fraction=None: fractions.append(fraction or 0.0),
        )
        assert [told[i] for i in range(3)] == out
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0

    def test_drawing_depends_on_seed_and_number_alone(self, llama: TargetModel):
        prompts = [list(t.token_ids) for t in texts(6, 12, 9, 6)]
        together = llama.respond(prompts, max_new_tokens=12, lookahead=2, temperature=1.0, seed=5)
        alone = [
            llama.respond([p], max_new_tokens=12, lookahead=2, temperature=1.0, seed=5, numbers=[i])[0]
            for i, p in enumerate(prompts)
        ]
        assert alone == together
        assert llama.respond(prompts, max_new_tokens=12, lookahead=2, temperature=1.0, seed=6) != together
        same = llama.respond([prompts[0]] * 2, max_new_tokens=12, temperature=1.0)
        assert same[0] != same[1]

    @pytest.mark.slow
    def test_tokens_are_drawn_as_often_as_they_are_likely(self, llama: TargetModel):
        prompt = list(texts(4)[0].token_ids)
        drawn = llama.respond([prompt] * 4000, max_new_tokens=1, temperature=1.3, seed=1)
        counts = torch.bincount(torch.tensor([t.response[0] for t in drawn]), minlength=VOCAB).double()
        with torch.no_grad():
            p = (llama.model(torch.tensor([prompt])).logits[0, -1].double() / 1.3).softmax(-1)
        likely = p * 4000 >= 5
        found = torch.cat([counts[likely], counts[~likely].sum()[None]])
        expected = torch.cat([p[likely], p[~likely].sum()[None]]) * 4000
        chi = float(((found - expected) ** 2 / expected).sum())
        degrees = len(found) - 1
        assert degrees > 10
        assert chi < degrees + 4 * (2 * degrees) ** 0.5

    def test_a_response_and_its_lookahead_end_with_the_context(self, llama: TargetModel):
        prompt = [5] * 250
        (text,) = llama.respond([prompt], max_new_tokens=4, lookahead=9)
        assert (len(text.token_ids), text.response_length, text.lookahead) == (256, 4, 2)
        (text,) = llama.respond([prompt], max_new_tokens=40, lookahead=9)
        assert (len(text.token_ids), text.response_length, text.lookahead) == (256, 6, 0)

    def test_extending_goes_on_where_responding_stopped(self, llama: TargetModel):
        prompts = [list(t.token_ids) for t in texts(6, 12, 9)]
        long = llama.respond(prompts, max_new_tokens=5, lookahead=7)
        short = [
            Text(t.token_ids[: len(t.token_ids) - cut], t.prompt_length, t.response_length)
            for t, cut in zip(long, (7, 3, 0), strict=True)
        ]
        assert llama.extend(short, 7) == long
        assert llama.extend(long, 3) == long
        (edge,) = llama.extend([Text((5,) * 254, 250, 4)], 7)
        assert edge.lookahead == 2


def test_generation_config_and_tokenizer_name_the_end_tokens(tmp_path: Path):
    folder = targets.save(tmp_path / "t", tokenizer=True)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [7, 9]}))
    assert TargetModel.load(str(folder)).eos_ids == {2, 7, 9}


def test_without_a_tokenizer_the_configs_end_token_counts(tmp_path: Path):
    assert TargetModel.load(str(targets.save(tmp_path / "t"))).eos_ids == {2}


def test_gemmas_embeddings_are_not_scaled(tmp_path: Path):
    from safetensors.torch import load_file

    folder = targets.save(tmp_path / "t", "gemma3_text")
    stored = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(TargetModel.load(str(folder)).embeddings, stored)


def test_an_offloaded_target_reads_and_writes_the_same(tmp_path: Path, llama: TargetModel):
    offloaded = TargetModel.load(
        llama.source,
        device_map={
            "model.embed_tokens": "cpu",
            "model.layers.0": "cpu",
            "model.layers.1": "disk",
            "model.layers.2": "disk",
            "model.layers.3": "disk",
            "model.norm": "cpu",
            "model.rotary_emb": "cpu",
            "lm_head": "disk",
        },
    )
    assert any(p.is_meta for p in offloaded.model.parameters())
    some = texts(9, 14)
    for ours, theirs in zip(
        offloaded.read(some, SOME, temperature=1.0), llama.read(some, SOME, temperature=1.0), strict=True
    ):
        torch.testing.assert_close(ours.aux, theirs.aux)
        torch.testing.assert_close(ours.logprobs, theirs.logprobs)
    prompts = [list(t.token_ids) for t in some]
    assert offloaded.respond(prompts, max_new_tokens=6) == llama.respond(prompts, max_new_tokens=6)
    assert torch.equal(offloaded.lm_head, llama.lm_head)
    assert torch.equal(offloaded.embeddings, llama.embeddings)
