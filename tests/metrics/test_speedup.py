from __future__ import annotations

import math
import random

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import Timed, speedup


def _runs(rng: random.Random, prompts: int, runs: int, truth: float) -> tuple[list[list[Timed]], list[list[Timed]]]:
    """Two servers, ``truth`` times as fast on average over prompts; prompts, runs and requests differ by chance."""
    own = [rng.gauss(0, 0.2) for _ in range(prompts)]
    gain = [truth * rng.uniform(0.8, 1.2) for _ in range(prompts)]
    ours, base = [], []
    for _ in range(runs):
        a, b = rng.gauss(0, 0.03), rng.gauss(0, 0.03)
        ours.append([(64, math.exp(own[p] + a + rng.gauss(0, 0.05)) / gain[p]) for p in range(prompts)])
        base.append([(64, math.exp(own[p] + b + rng.gauss(0, 0.05))) for p in range(prompts)])
    return ours, base


def test_a_measured_speedup_is_the_ratio_of_pooled_speeds() -> None:
    ours = [[(10, 1.0), (30, 2.0)], [(10, 1.0), (30, 2.0)]]
    base = [[(10, 2.0), (30, 2.0)], [(10, 2.0), (30, 6.0)]]
    found = speedup(ours, base)
    assert (found.prompts, found.runs, found.ci95) == (2, 2, None)
    assert found.tokens_per_second == pytest.approx(80 / 6)
    assert found.base_tokens_per_second == pytest.approx(80 / 12)
    assert found.ratio == pytest.approx(2.0)


def test_what_a_prompt_does_to_both_servers_cancels() -> None:
    rng = random.Random(3)
    slow = [rng.uniform(1, 20) for _ in range(12)]
    jitter = [rng.uniform(0.99, 1.01) for _ in range(12)]
    found = speedup([[(9, s * j / 2) for s, j in zip(slow, jitter, strict=True)]], [[(9, s) for s in slow]])
    assert found.ci95 is not None
    assert 1.97 < found.ci95[0] < found.ratio < found.ci95[1] < 2.03
    mixed = speedup([[(9, s / 2) for s in slow]], [[(9, s) for s in reversed(slow)]])
    assert mixed.ci95 is not None
    assert mixed.ci95[1] - mixed.ci95[0] > 0.5, "pairs are what makes it narrow"


def test_equal_pairs_tell_no_interval_and_runs_that_differ_widen_it() -> None:
    same = [[(9, 1.0)] * 9]
    assert speedup(same, same).ci95 is None
    steady = [[(9, 1.0 + 0.01 * p) for p in range(9)] for _ in range(3)]
    base = [[(9, 2.0)] * 9 for _ in range(3)]
    narrow = speedup(steady, base).ci95
    unsteady = [[(tokens, seconds * (1 + 0.2 * run)) for tokens, seconds in one] for run, one in enumerate(steady)]
    wide = speedup(unsteady, base).ci95
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


@pytest.mark.parametrize(
    ("ours", "base"),
    [([], []), ([[]], [[]]), ([[(1, 1.0)]], [[(1, 1.0)] * 2]), ([[(1, 1.0)], [(1, 1.0)] * 2], [[(1, 1.0)]] * 2)],
)
def test_servers_that_did_not_answer_the_same_cannot_be_compared(ours: list, base: list) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError) as error:
        speedup(ours, base)
    assert error.value.code == "metrics-unpaired"


def test_the_interval_contains_the_true_speedup_about_as_often_as_it_says() -> None:
    rng, hits, tries = random.Random(7), 0, 300
    for _ in range(tries):
        found = speedup(*_runs(rng, 16, 3, 1.5))
        assert found.ci95 is not None
        # pooled seconds weigh a prompt by its time: the mean of 1 / gain, which is 1.5 / 1.0137 for gains in 0.8 … 1.2
        hits += found.ci95[0] <= 1.5 / (math.log(1.5) / 0.4) <= found.ci95[1]
    assert 0.92 <= hits / tries <= 0.99
