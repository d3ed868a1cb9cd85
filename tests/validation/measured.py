"""Measurements to hold against each other: the example head's first prompts, and what may go wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from support.versions import VLLM

from eagle3hub.metrics import Counts
from eagle3hub.validation.measurement import Conditions, Measurement

CONDITIONS = Conditions(
    target="org/Target",
    target_digest="sha256:" + "ab" * 32,
    draft_tokens=3,
    temperature=0.0,
    max_new_tokens=64,
    dtype="float32",
    drafting="greedy",
    chat_template="the target's own",
    system_prompt=None,
)
COUNTERS = ((56, 7, 1, 0), (36, 20, 6, 1), (40, 18, 4, 1), (44, 13, 5, 2), (39, 17, 6, 2), (35, 18, 8, 3))


def counts(rounds: int, *per_position: int) -> Counts:
    return Counts(rounds, rounds * len(per_position), sum(per_position), per_position)


def measurement(counters: Sequence[Sequence[int]] = COUNTERS, **conditions: object) -> Measurement:
    """The first prompts on an engine; ``conditions`` are the settings that differ from float32 greedy."""
    return Measurement(
        engine="vllm",
        version=VLLM,
        measured_at="2026-11-22T13:00:00Z",
        head="my-head",
        head_digest="sha256:" + "cd" * 32,
        conditions=replace(CONDITIONS, **conditions),  # type: ignore[arg-type]
        prompts="smoke",
        prompts_sha256="ef" * 32,
        question_ids=tuple(range(1, len(counters) + 1)),
        counts=tuple(counts(*row) for row in counters),
    )


def shifted(found: Measurement, prompt: int, *row: int) -> Measurement:
    """The same with other counters for one prompt."""
    changed = [*found.counts]
    changed[prompt] = counts(*row)
    return replace(found, counts=tuple(changed))
