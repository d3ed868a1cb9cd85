"""Speculation step by step: what the target is asked, what it says, and that a draft's memory is no state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from eagle3hub.head import AuxTaps
from eagle3hub.reference.replay import ReplaySettings
from eagle3hub.reference.speculate import Speculation, speculate
from reference.conftest import World
from reference.support import TransformersSession, random_draft

LIMIT = 12


class Watched(TransformersSession):
    """Notes what it is given: ("advance", tokens) and ("rewind", length)."""

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self.calls: list[tuple[str, object]] = []

    def advance(self, token_ids: Sequence[int], taps: AuxTaps) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.append(("advance", tuple(token_ids)))
        return super().advance(token_ids, taps)

    def rewind(self, length: int) -> None:
        self.calls.append(("rewind", length))
        super().rewind(length)


def run(world: World, variant: str, prompt: Sequence[int], k: int, limit: int = LIMIT) -> Speculation:
    settings = ReplaySettings(k)
    model, taps = world.model(variant), world.taps(variant)
    return speculate(model, world.target.session(), prompt, taps, settings, max_new_tokens=limit)


def test_the_target_verifies_each_round_in_one_pass(world: World):
    session, prompt = Watched(world.target.model), world.texts[0][:6]
    done = speculate(world.model("plain"), session, prompt, world.target.taps, ReplaySettings(3), max_new_tokens=LIMIT)
    assert done.response == world.texts[0][6 : 6 + LIMIT]
    first, *calls = session.calls
    assert first == ("advance", prompt)
    read = len(prompt)
    for verify, rewind, accepted in zip(calls[::2], calls[1::2], done.rounds, strict=True):
        assert (verify[0], rewind) == ("advance", ("rewind", read + 1 + accepted))
        tokens = verify[1]
        assert isinstance(tokens, tuple)
        text = world.texts[0][read : read + 4]
        assert tokens[: 1 + accepted] == text[: 1 + accepted]  # the last token emitted, and the drafts it accepts
        assert accepted == 3 or tokens[1 + accepted] != text[1 + accepted]
        read += 1 + accepted


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 7, 16])
def test_a_useless_head_changes_nothing_but_the_rounds(world: World, k: int):
    model = random_draft(seed=3, embeddings=world.target.embeddings)
    taps, prompt = world.target.taps, world.texts[1][:5]
    useless = speculate(model, world.target.session(), prompt, taps, ReplaySettings(k), max_new_tokens=LIMIT)
    useful = run(world, "plain", prompt, k)
    assert useless.response == useful.response == world.texts[1][5 : 5 + LIMIT]
    assert len(useless.rounds) > len(useful.rounds)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "two layers, one with a window", "parallel"])
def test_to_go_on_is_to_begin_with_more(world: World, variant: str):
    prompt = world.texts[0][:4]
    whole = run(world, variant, prompt, 3)
    emitted = 1
    for done, accepted in enumerate(whole.rounds):
        begin = len(prompt) + emitted - 1  # the last token emitted comes from prefill now
        rest = run(world, variant, world.texts[0][:begin], 3, LIMIT - emitted + 1)
        assert rest.rounds == whole.rounds[done:]
        emitted += 1 + accepted


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_is_kept(world: World, limit: int):
    done = run(world, "plain", world.texts[0][:6], 6, limit)
    assert done.response == world.texts[0][6 : 6 + limit]
    assert len(done.rounds) in ({0} if limit == 1 else {1} if limit == 2 else {1, 2})


def test_it_ends_with_the_first_end_token(world: World):
    text = world.texts[2]
    end = text[12]
    first = text.index(end, 5)
    done = speculate(
        world.model("plain"),
        world.target.session(),
        text[:5],
        world.target.taps,
        ReplaySettings(4),
        max_new_tokens=40,
        end={end},
    )
    assert done.response == text[5 : first + 1]
