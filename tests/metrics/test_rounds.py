from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eagle3hub.errors import InputError
from eagle3hub.metrics import Rounds, counts_of, histogram, total
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
