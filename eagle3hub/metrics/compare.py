"""Two runs over the same prompts (two heads, or one head on two engines), prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, total
from eagle3hub.metrics.estimate import require_rounds
from eagle3hub.metrics.intervals import Interval, difference
from eagle3hub.metrics.translate import relative_percent


@dataclass(frozen=True, slots=True)
class Paired:
    """The difference a - b of two pooled acceptance lengths over the same prompts.

    Attributes:
        prompts: pairs in which either run had a round.
        tau, base_tau: acceptance length of a and of b.
        difference: tau - base_tau, in tokens per round.
        relative: the same in percent of base_tau.
        standard_error, ci95: of the difference, with prompts as the sampling unit, the interval inside what two
            lengths can differ by; None from fewer than `MIN_PROMPTS` pairs, or where no pair moves the difference.
        identical: prompts with the same counters in both.
        first_difference: index of the first prompt that has not, or None.
    """

    prompts: int
    tau: float
    base_tau: float
    difference: float
    relative: float
    standard_error: float | None
    ci95: Interval | None
    identical: int
    first_difference: int | None

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {
            "prompts": self.prompts,
            "mean_acceptance_length": self.tau,
            "base_mean_acceptance_length": self.base_tau,
            "difference": self.difference,
            "relative_percent": self.relative,
            "standard_error": self.standard_error,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "identical": self.identical,
            "first_difference": self.first_difference,
        }


def paired(a: Sequence[Counts], b: Sequence[Counts]) -> Paired:
    """Compare two runs over the same prompts in the same order.

    Both tau are ratio estimates over the same prompts, so leaving out a prompt leaves it out of both, and what the
    prompts do to both alike cancels (`intervals.difference`). Raises InputError (``metrics-unpaired``,
    ``metrics-no-rounds``).
    """
    if len(a) != len(b):
        raise InputError(
            f"runs over {len(a)} and {len(b)} prompts cannot be compared prompt by prompt", code="metrics-unpaired"
        )
    ours, theirs = require_rounds(total(a)), require_rounds(total(b))
    tau, base = ours.emitted / ours.rounds, theirs.emitted / theirs.rounds
    units = [(x, y) for x, y in zip(a, b, strict=True) if x.rounds or y.rounds]
    most, base_most = len(ours.accepted_per_position), len(theirs.accepted_per_position)
    found = difference(
        [(x.emitted, x.rounds) for x, _ in units],
        [(y.emitted, y.rounds) for _, y in units],
        tau - base,
        (-float(base_most), float(most)),
    )
    different = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    return Paired(
        prompts=len(units),
        tau=tau,
        base_tau=base,
        difference=tau - base,
        relative=relative_percent(tau, base),
        standard_error=found.standard_error,
        ci95=found.ci95,
        identical=len(a) - len(different),
        first_difference=different[0] if different else None,
    )
