"""Which K pays: invented servers with known prices, whose answer must be found again."""

from __future__ import annotations

import random

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, TimedPrompt, speed_by_draft_tokens

STEP = 0.02
RATES = (0.8, 0.7, 0.6, 0.5, 0.4)
"""Conditional: each position is accepted in so many of the rounds that reached it."""


def run(k: int, draft: float, verify: float, *, prompts: int = 24, noise: float = 0.02) -> list[TimedPrompt]:
    """A server that drafts k tokens for ``draft`` steps each and verifies for 1 + ``verify``."""
    out = []
    for n in range(prompts):
        rng = random.Random(f"{n} {k}")
        accepted, rounds = [0] * k, 60
        for _ in range(rounds):
            for i in range(k):
                if rng.random() > RATES[i] + 0.06 * (n % 3 - 1):
                    break
                accepted[i] += 1
        counts = Counts(rounds, rounds * k, sum(accepted), tuple(accepted))
        seconds = rounds * STEP * (1 + verify + draft * k) * (1 + noise * rng.uniform(-1, 1))
        alone = (counts.emitted, counts.emitted * STEP * (1 + noise * rng.uniform(-1, 1)))
        out.append(TimedPrompt(counts, (counts.emitted, seconds), alone))
    return out


def tau(k: int) -> float:
    total, reached = 1.0, 1.0
    for rate in RATES[:k]:
        reached *= rate
        total += reached
    return total


@pytest.mark.parametrize(("draft", "verify", "best"), [(0.05, 0.1, 4), (0.3, 0.1, 2), (0.6, 0.05, 1), (1.2, 0.3, 0)])
def test_the_prices_and_the_fastest_depth_are_found_again(draft: float, verify: float, best: int) -> None:
    found = speed_by_draft_tokens({k: run(k, draft, verify) for k in (1, 3, 5)})
    assert found is not None
    assert found.draft.ci95 is not None and found.verify.ci95 is not None
    assert found.draft.ci95[0] < draft < found.draft.ci95[1]
    assert found.verify.ci95[0] < verify < found.verify.ci95[1]
    assert found.draft.value == pytest.approx(draft, abs=0.02)
    assert found.best == best
    assert best in found.may_be_best
    for point in found.points:
        expected = tau(point.draft_tokens) / (1 + verify + draft * point.draft_tokens)
        assert point.speedup == pytest.approx(expected, rel=0.05)
        assert point.ci95 is not None and point.ci95[0] < point.speedup < point.ci95[1]
        if point.draft_tokens in (1, 3, 5):
            assert point.measured == pytest.approx(point.speedup, rel=0.05)
            assert point.measured_ci95 is not None
        else:
            assert (point.measured, point.measured_ci95) == (None, None)


def test_depths_that_differ_are_told_apart_and_those_that_do_not_are_not() -> None:
    free = speed_by_draft_tokens({k: run(k, 0.0, 0.0, noise=0.001) for k in (1, 5)})
    assert free is not None
    assert (free.best, free.may_be_best) == (5, (5,))
    dear = speed_by_draft_tokens({k: run(k, 2.0, 0.5) for k in (1, 5)})
    assert dear is not None
    assert (dear.best, dear.may_be_best) == (0, (0,)), "no depth pays"
    noisy = speed_by_draft_tokens({k: run(k, 0.3, 0.1, noise=0.9) for k in (1, 5)})
    assert noisy is not None
    assert len(noisy.may_be_best) > 1


def test_few_prompts_give_no_interval_and_rule_nothing_out() -> None:
    found = speed_by_draft_tokens({k: run(k, 0.1, 0.1, prompts=4) for k in (1, 3)})
    assert found is not None
    assert found.draft.ci95 is None
    assert {point.ci95 for point in found.points} == {None}
    assert found.may_be_best == (0, 1, 2, 3)


def test_times_that_tell_nothing() -> None:
    assert speed_by_draft_tokens({}) is None
    assert speed_by_draft_tokens({3: run(3, 0.1, 0.1)}) is None, "one line needs two points"
    none = TimedPrompt(Counts(0, 0, 0, (0,)), (1, 0.1), (1, 0.1))
    assert speed_by_draft_tokens({1: [none] * 8, 3: run(3, 0.1, 0.1, prompts=8)}) is None
    backwards = {1: run(1, 0.1, 9.0), 5: run(5, -0.1, -0.49)}
    assert speed_by_draft_tokens({1: backwards[1], 2: run(2, -0.9, 0.9), 5: backwards[5]}) is None


def test_runs_over_other_prompts_are_refused() -> None:
    with pytest.raises(InputError) as error:
        speed_by_draft_tokens({1: run(1, 0.1, 0.1), 3: run(3, 0.1, 0.1, prompts=9)})
    assert error.value.code == "metrics-unpaired"
