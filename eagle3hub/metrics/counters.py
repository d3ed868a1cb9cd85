"""The rounds of speculative decoding on a prompt, and the counters that an engine reports for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eagle3hub.errors import InputError


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of one prompt, in order.

    Attributes:
        accepted: a_r, the number of drafts the target accepted in round r.
        draft_tokens: K, the number of tokens every round drafted.
        past_end: tokens of the last round that lie past the response's end. An engine verifies and counts all K drafts
            of its last round, even those that the token limit or an end-of-sequence token then cuts off.

    Raises InputError (``metrics-rounds``) for rounds that no run can produce.
    """

    accepted: tuple[int, ...]
    draft_tokens: int
    past_end: int = 0

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise InputError(f"these rounds are impossible: {fault}", code="metrics-rounds")

    def _fault(self) -> str | None:
        if self.draft_tokens < 1:
            return f"they draft {self.draft_tokens} tokens"
        for number, accepted in enumerate(self.accepted, 1):
            if not 0 <= accepted <= self.draft_tokens:
                return f"round {number} accepted {accepted} of {self.draft_tokens} drafts"
        last = self.accepted[-1] if self.accepted else 0
        if not 0 <= self.past_end <= last:
            return f"{self.past_end} tokens lie past the end, and the last round accepted {last}"
        return None

    @property
    def response_length(self) -> int:
        """Tokens of the response: the one from prefill, and those that the rounds emitted up to its end."""
        return 1 + sum(self.accepted) + len(self.accepted) - self.past_end


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one prompt, or the sum of several.

    A worker sends these four numbers under these names, a report and a benchmark keep them for each prompt, and
    everything else is computed from them.

    Attributes:
        rounds: rounds of speculative decoding.
        drafted, accepted: draft tokens over all rounds.
        accepted_per_position: for each draft position, the number of rounds in which it was accepted.

    Raises InputError (``metrics-counters``) for numbers that no sequence of rounds can produce.
    """

    rounds: int
    drafted: int
    accepted: int
    accepted_per_position: tuple[int, ...]

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise InputError(
                f"the acceptance counters contradict each other: {fault}",
                hint="they come from the engine; report them with the engine's name and version",
                code="metrics-counters",
            )

    def _fault(self) -> str | None:
        per_position = self.accepted_per_position
        if min(self.rounds, self.drafted, self.accepted, *per_position, 0) < 0:
            return "one of them is negative"
        if self.accepted > self.drafted:
            return f"{self.accepted} tokens accepted but only {self.drafted} drafted"
        if self.accepted != sum(per_position):
            return f"{self.accepted} tokens accepted, but {sum(per_position)} over the positions {list(per_position)}"
        if self.drafted > self.rounds * len(per_position):
            return f"{self.drafted} tokens drafted in {self.rounds} rounds of at most {len(per_position)}"
        if per_position and per_position[0] > self.rounds:
            return f"position 1 was accepted {per_position[0]} times in {self.rounds} rounds"
        if any(a < b for a, b in pairwise(per_position)):
            return f"acceptance rises with the position: {list(per_position)}"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the counters without ``accepted``, which is the sum over the positions."""
        return {
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted_per_position": list(self.accepted_per_position),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        """Read counters from a worker's message or a row of a report; other keys are ignored.

        If ``accepted`` is missing, it is the sum over the positions. Raises InputError (``metrics-counters``).
        """
        positions = tuple(data["accepted_per_position"])
        return cls(data["rounds"], data["drafted"], data.get("accepted", sum(positions)), positions)

    @property
    def emitted(self) -> int:
        """Tokens that the rounds produced: accepted drafts, and one token of the target per round."""
        return self.accepted + self.rounds


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt in a report or a benchmark: its id, its length in tokens, and its counters.

    Attributes:
        question_id, category: as in the prompt set.
        prompt_tokens: length of the prompt in the chat template. new_tokens: length of the response.
    """

    question_id: int | str
    category: str
    prompt_tokens: int
    new_tokens: int
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        """Return the row as an entry of ``per_prompt``."""
        return {
            "question_id": self.question_id,
            "category": self.category,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "rounds": self.counts.rounds,
            "drafted": self.counts.drafted,
            "accepted": self.counts.accepted,
            "accepted_per_position": list(self.counts.accepted_per_position),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PromptRow:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``), naming the prompt."""
        return cls(data["question_id"], data["category"], data["prompt_tokens"], data["new_tokens"], row_counts(data))


def row_counts(data: Mapping[str, object]) -> Counts:
    """Read the counters in one row of ``per_prompt``. Raises InputError (``metrics-counters``), naming the prompt."""
    try:
        return Counts.from_json(data)
    except InputError as error:
        raise InputError(f"prompt {data['question_id']}: {error.message}", hint=error.hint, code=error.code) from error


def total(counts: Sequence[Counts]) -> Counts:
    """Add up counters; raises InputError unless all have the same number of draft positions."""
    positions = {len(c.accepted_per_position) for c in counts}
    if len(positions) != 1:
        raise InputError(
            f"counters of {sorted(positions)} draft positions cannot be pooled"
            if positions
            else "no counters to pool",
            code="metrics-counters",
        )
    per_position = tuple(map(sum, zip(*(c.accepted_per_position for c in counts), strict=True)))
    return Counts(
        sum(c.rounds for c in counts), sum(c.drafted for c in counts), sum(c.accepted for c in counts), per_position
    )


def counts_of(rounds: Rounds) -> Counts:
    """Return the counters that an engine would report for these rounds."""
    per_position = tuple(sum(a >= i for a in rounds.accepted) for i in range(1, rounds.draft_tokens + 1))
    total_rounds = len(rounds.accepted)
    return Counts(total_rounds, total_rounds * rounds.draft_tokens, sum(rounds.accepted), per_position)


def counts_within(rounds: Rounds, limit: int) -> Counts:
    """Return the counters of an engine that drops accepted tokens past the response's end and drafts past the limit.

    ``limit`` is the most new tokens allowed. With r of them left, including the token that the target adds, a round
    drafts min(K, r - 1); if that is 0, the token is decoded without a round. A draft that ends the sequence counts as
    the target's token, and later drafts are not checked, unless it is the round's last draft. Source: llama.cpp
    0c1e5709, ``common_sampler_sample_and_accept_n`` and ``get_n_draft_max``.
    """
    accepted, drafted, emitted = [], 0, 1
    for number, found in enumerate(rounds.accepted, 1):
        room = min(rounds.draft_tokens, limit - emitted - 1)
        if room <= 0:
            break
        drafted += room
        past_end = rounds.past_end if number == len(rounds.accepted) else 0
        within = found + 1 - past_end
        accepted.append(within - 1 if within < room else min(found, room))
        emitted += found + 1
    per_position = tuple(sum(a >= i for a in accepted) for i in range(1, rounds.draft_tokens + 1))
    return Counts(len(accepted), drafted, sum(accepted), per_position)


def histogram(counts: Counts) -> tuple[int, ...]:
    """Count the rounds that accepted exactly 0, 1, …, K drafts."""
    return tuple(a - b for a, b in pairwise((counts.rounds, *counts.accepted_per_position, 0)))
