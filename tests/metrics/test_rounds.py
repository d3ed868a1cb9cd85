from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, Rounds, counts_of, counts_within, histogram, total
from eagle3hub.metrics.translate import marginal_of_histogram


def test_counters_and_histogram_by_hand() -> None:
    found = counts_of(Rounds((2, 0, 3, 2), 3))
    assert (found.rounds, found.drafted, found.accepted) == (4, 12, 7)
    assert found.accepted_per_position == (3, 3, 1)
    assert histogram(found) == (1, 0, 2, 1)


def test_no_round_is_a_response_of_one_token() -> None:
    nothing = Rounds((), 2)
    assert nothing.response_length == 1
    assert histogram(counts_of(nothing)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("accepted", "past_end", "limit", "found"),
    [
        ((), 0, 1, Counts(0, 0, 0, (0, 0, 0))),
        ((3, 2), 0, 64, Counts(2, 6, 5, (2, 2, 1))),
        # the last token that the limit allows is decoded without a round
        ((0, 0, 0), 0, 4, Counts(2, 3, 0, (0, 0, 0))),
        # 7 tokens: 1 + 4 + 2, so the second round has room for one draft
        ((3, 3), 2, 7, Counts(2, 4, 4, (2, 1, 1))),
        # the response ends in the last round: the end is the first, second or third of 3 drafts
        ((1, 3), 3, 64, Counts(2, 6, 1, (1, 0, 0))),
        ((1, 3), 2, 64, Counts(2, 6, 2, (2, 0, 0))),
        ((1, 3), 1, 64, Counts(2, 6, 4, (2, 1, 1))),
        # the end is the first of two right drafts; the third was wrong
        ((1, 2), 2, 64, Counts(2, 6, 1, (1, 0, 0))),
        # the same rounds end at the limit (1 + 2 + 1 tokens), so nothing was drafted past it
        ((1, 2), 2, 4, Counts(1, 2, 1, (1, 0, 0))),
        # one token below the limit (1 + 2 + 2 of 6): the end is the second of two drafts that there is room for
        ((1, 2), 1, 6, Counts(2, 5, 3, (2, 1, 0))),
        # at the limit (1 + 2 + 2 of 5): room for one draft, which is right
        ((1, 2), 1, 5, Counts(2, 4, 2, (2, 0, 0))),
    ],
)
def test_an_engine_counts_no_draft_past_the_end_by_hand(
    accepted: tuple[int, ...], past_end: int, limit: int, found: Counts
) -> None:
    assert counts_within(Rounds(accepted, 3, past_end), limit) == found


@pytest.mark.parametrize(
    ("accepted", "draft_tokens", "past_end", "says"),
    [
        ((1, 4), 3, 0, "round 2 accepted 4 of 3"),
        ((-1,), 3, 0, "round 1 accepted -1"),
        ((), 0, 0, "draft 0 tokens"),
        ((3, 1), 3, 2, "2 tokens lie past the end, and the last round accepted 1"),
        ((), 3, 1, "past the end"),
        ((3,), 3, -1, "past the end"),
    ],
)
def test_rounds_that_cannot_be(accepted: tuple[int, ...], draft_tokens: int, past_end: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        Rounds(accepted, draft_tokens, past_end)
    assert error.value.code == "metrics-rounds"


@given(st.lists(st.lists(st.integers(0, 5), max_size=20), min_size=1, max_size=6))
def test_histogram_counters_and_rounds_say_the_same(prompts: list[list[int]]) -> None:
    pooled = total([counts_of(Rounds(tuple(rounds), 5)) for rounds in prompts])
    every = [a for rounds in prompts for a in rounds]
    assert histogram(pooled) == tuple(every.count(a) for a in range(6))
    if every:
        marginal = [a / pooled.rounds for a in pooled.accepted_per_position]
        assert marginal_of_histogram(histogram(pooled)) == pytest.approx(marginal)
