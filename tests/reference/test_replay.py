"""Replay runs the rounds of speculation: the same ones, in any company, cut in any way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sampling import examples

from eagle3hub.head import AuxTaps
from eagle3hub.reference import model, replay
from eagle3hub.reference.replay import ReplaySettings, coins, walk
from eagle3hub.reference.speculate import speculate
from eagle3hub.reference.text import Batch, Text
from reference.conftest import VARIANTS, World

MakeText = Callable[..., Text]


def rounds_of(world: World, variant: str, text: Text, k: int, limit: int, end: frozenset[int]) -> tuple[int, ...]:
    """The rounds of speculation, whose response must be the text's."""
    prompt = text.token_ids[: text.prompt_length]
    done = speculate(
        world.model(variant),
        world.target.session(),
        prompt,
        world.taps(variant),
        ReplaySettings(k),
        max_new_tokens=limit,
        end=end,
    )
    assert done.response == text.response
    return done.rounds


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_rounds_are_those_of_speculation(world: World, text: MakeText, variant: str):
    k, limit = 4, 18
    texts = [text(0, 8, limit, k - 1), text(1, 15, limit, k - 1), text(4, 7, limit, k - 1)]
    wanted = [rounds_of(world, variant, t, k, limit, frozenset()) for t in texts]
    assert replay.replay(world.model(variant), world.batch(texts, variant), ReplaySettings(k)) == wanted
    # a comparison of nothing with nothing would be no comparison
    assert sum(map(sum, wanted)) > 9
    assert len({a for rounds in wanted for a in rounds}) > 1


@pytest.mark.slow
@settings(max_examples=examples(2), derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_drafted_and_wherever_it_ends(world: World, text: MakeText, data: st.DataObject):
    variant = data.draw(st.sampled_from(list(VARIANTS)))
    k = data.draw(st.integers(1, 6))
    end = data.draw(st.frozensets(st.integers(0, 23), max_size=2))
    more = data.draw(st.integers(0, 3))
    texts, wanted = [], []
    for index in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)):
        limit = data.draw(st.integers(1, 14))
        texts.append(text(index, data.draw(st.integers(1, 30)), limit, k - 1 + more, end))
        wanted.append(rounds_of(world, variant, texts[-1], k, limit, end))
    assert replay.replay(world.model(variant), world.batch(texts, variant), ReplaySettings(k)) == wanted


@pytest.fixture
def many(world: World, text: MakeText) -> list[Text]:
    return [text(i, 4 + 3 * i, 10 + 5 * i, 5) for i in range(6)]


def one_by_one(world: World, texts: list[Text], settings: ReplaySettings) -> list[tuple[int, ...]]:
    return [replay.replay(world.model("plain"), world.batch([t], "plain"), settings)[0] for t in texts]


@pytest.mark.slow
def test_company_and_order_change_nothing(world: World, many: list[Text]):
    alone = one_by_one(world, many, ReplaySettings(5))
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 2, 5]):
        together = world.batch([many[i] for i in order], "plain")
        assert replay.replay(world.model("plain"), together, ReplaySettings(5)) == [alone[i] for i in order]


@pytest.mark.slow
def test_padding_is_never_looked_at(world: World, many: list[Text]):
    batch = world.batch(many, "plain")
    poisoned = batch.aux.clone()
    for row, text in zip(poisoned, many, strict=True):
        row[len(text.token_ids) :] = float("nan")
    settings = ReplaySettings(5)
    wanted = replay.replay(world.model("plain"), batch, settings)
    assert replay.replay(world.model("plain"), replace(batch, aux=poisoned), settings) == wanted
    wider = torch.nn.functional.pad(batch.aux, (0, 0, 0, 7), value=float("nan"))
    assert replay.replay(world.model("plain"), replace(batch, aux=wider), settings) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "two layers, one with a window", "parallel"])
def test_cut_in_small_parts_it_is_the_same(
    world: World, many: list[Text], variant: str, monkeypatch: pytest.MonkeyPatch
):
    batch = world.batch(many, variant)
    whole = replay.replay(world.model(variant), batch, ReplaySettings(5))
    monkeypatch.setattr(model, "_CHUNK", 7000)
    monkeypatch.setattr(replay, "_LOGITS", 100)
    assert replay.replay(world.model(variant), batch, ReplaySettings(5)) == whole


@pytest.mark.parametrize("settings", [ReplaySettings(6), ReplaySettings(6, "probabilistic", 1.0, seed=3)])
def test_fewer_draft_tokens_are_the_first_ones(world: World, many: list[Text], settings: ReplaySettings):
    longer = [Text((*t.token_ids, 1), t.prompt_length, t.response_length) for t in many]
    batch = with_logprobs(world.batch(longer, "plain"))
    found = replay.depths(world.model("plain"), batch, settings).tolist()
    assert {d for row in found for d in row} == set(range(7))
    for k in range(1, 7):
        fewer = [walk(t, [min(d, k) for d in row]) for t, row in zip(longer, found, strict=True)]
        assert replay.replay(world.model("plain"), batch, replace(settings, draft_tokens=k)) == fewer


def with_logprobs(batch: Batch) -> Batch:
    """Any numbers will do where only their use is looked at."""
    generator = torch.Generator().manual_seed(0)
    return replace(batch, logprobs=torch.rand(batch.aux.shape[:2], generator=generator).log())


def accepted_run(world: World, text: MakeText) -> tuple[int, int, int]:
    """(text, prompt length, accepted) of a first round of K = 6 that accepts three or more, then differs."""
    for index in range(6):
        for prompt in range(2, 40):
            (first, *_) = replay.replay(
                world.model("plain"), world.batch([text(index, prompt, 8, 5)], "plain"), ReplaySettings(6)
            )[0]
            if 3 <= first <= 5:
                return index, prompt, first
    raise AssertionError("no such round")


@pytest.mark.slow
def test_what_the_end_cuts_off_was_still_accepted(world: World, text: MakeText):
    index, prompt, accepted = accepted_run(world, text)
    for limit in (2, 3, 4):  # the response is over after one, two or three tokens of the round
        cut = text(index, prompt, limit, 5)
        assert replay.replay(world.model("plain"), world.batch([cut], "plain"), ReplaySettings(6)) == [(accepted,)]
        assert rounds_of(world, "plain", cut, 6, limit, frozenset()) == (accepted,)
    second = world.texts[index][prompt + 1]
    if second != world.texts[index][prompt]:
        ended = text(index, prompt, 8, 5, frozenset({second}))
        assert ended.response_length == 2
        assert replay.replay(world.model("plain"), world.batch([ended], "plain"), ReplaySettings(6)) == [(accepted,)]
        assert rounds_of(world, "plain", ended, 6, 8, frozenset({second})) == (accepted,)


def test_the_first_token_belongs_to_no_round(world: World, text: MakeText):
    single, two = text(0, 5, 1, 3), text(0, 5, 2, 3)
    assert rounds_of(world, "plain", single, 4, 1, frozenset()) == ()
    assert rounds_of(world, "plain", single, 4, 9, frozenset(single.response)) == ()
    assert replay.replay(world.model("plain"), world.batch([single], "plain"), ReplaySettings(4)) == [()]
    alone = replay.replay(world.model("plain"), world.batch([two], "plain"), ReplaySettings(4))
    assert len(alone[0]) == 1
    assert replay.replay(world.model("plain"), world.batch([single, two], "plain"), ReplaySettings(4)) == [(), *alone]


def test_too_little_lookahead_is_an_error(world: World, text: MakeText):
    enough, short = text(0, 5, 6, 3), text(0, 5, 6, 2)
    assert replay.replay(world.model("plain"), world.batch([enough], "plain"), ReplaySettings(4))
    with pytest.raises(ValueError, match="K = 4 needs more lookahead than 2"):
        replay.replay(world.model("plain"), world.batch([enough, short], "plain"), ReplaySettings(4))


@pytest.mark.parametrize(
    ("response", "depths", "rounds"),
    [
        (1, [0] * 9, ()),
        (2, [0, 3, 3, 3], (3,)),
        (5, [9, 0, 0, 0, 0], (0, 0, 0, 0)),
        (6, [9, 2, 9, 9, 0, 9], (2, 0, 9)),
        (6, [9, 1, 9, 2, 9, 9], (1, 2)),
    ],
)
def test_walking(response: int, depths: list[int], rounds: tuple[int, ...]):
    # prompt of two tokens: the first round begins at position 1, behind the token that prefill gave
    assert walk(Text((0,) * (2 + response), 2, response), depths) == rounds


def test_a_coin_belongs_to_a_token_of_a_text():
    texts = (Text((1, 2), 1, 1),) * 3
    batch = Batch((4, 0, 7), texts, torch.zeros(3, 2, 1))
    wide = coins(batch, 50, seed=1)
    assert torch.equal(wide[:, :5], coins(batch, 5, seed=1))
    assert torch.equal(wide[1:], coins(replace(batch, index=(0, 7), texts=texts[:2]), 50, seed=1))
    assert not torch.equal(wide[0], wide[1])
    assert not torch.equal(wide, coins(batch, 50, seed=2))
    assert 0 <= float(wide.min()) < 0.1 < 0.9 < float(wide.max()) < 1


def test_taps_in_another_place_change_the_rounds(world: World, many: list[Text]):
    model, shifted = world.model("plain"), AuxTaps.from_after_layer([2, 4, 5], "flag")
    right = replay.replay(model, world.batch(many, "plain"), ReplaySettings(4))
    wrong = replay.replay(model, world.target.batch(many, shifted), ReplaySettings(4))
    assert sum(map(sum, wrong)) < sum(map(sum, right))
