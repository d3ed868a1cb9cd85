from __future__ import annotations

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import Cost, best_draft_tokens

RATES = (0.7, 0.5, 0.36, 0.2)


def test_by_hand() -> None:
    assert Cost(0.1).speedup(RATES[:2]) == pytest.approx(2.2 / 1.2)
    assert Cost(0.1, verify=0.3).speedup(RATES[:3]) == pytest.approx(2.56 / 1.6)
    assert Cost(0.0).speedup(RATES) == pytest.approx(2.76)


@pytest.mark.parametrize(
    ("draft", "verify", "best"),
    [(0.0, 0.0, 4), (0.1, 0.0, 4), (0.2, 0.0, 3), (0.25, 0.0, 2), (0.5, 0.0, 1), (0.7, 0.0, 0), (0.1, 2.0, 0)],
)
def test_the_best_depth(draft: float, verify: float, best: int) -> None:
    cost = Cost(draft, verify)
    found, speed = best_draft_tokens(RATES, cost)
    assert found == best
    assert speed == (cost.speedup(RATES[:best]) if best else 1.0)
    assert all(cost.speedup(RATES[:k]) <= speed for k in range(1, 5))


def test_a_lower_acceptance_length_can_be_faster() -> None:
    assert Cost(0.05).speedup((0.7, 0.5)) > Cost(0.5).speedup((0.9, 0.8))


@pytest.mark.parametrize("prices", [(-0.1, 0.0), (0.1, -1.0), (float("nan"), 0.0), (0.1, float("inf"))])
def test_prices_that_cannot_be(prices: tuple[float, float]) -> None:
    with pytest.raises(InputError) as error:
        Cost(*prices)
    assert error.value.code == "metrics-cost"


def test_rates_that_cannot_be() -> None:
    with pytest.raises(InputError):
        best_draft_tokens((0.5, 0.6), Cost(0.1))
