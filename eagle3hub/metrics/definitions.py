"""The published numbers about acceptance: each under a name of its own, with how it is computed.

The same word means different things: "acceptance rate" is a fraction of drafts, a percentage of them, or tokens per
round. A number without its definition cannot be compared with another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TypeVar

from eagle3hub.errors import InputError
from eagle3hub.metrics.counters import Counts, Rounds, counts_of, total
from eagle3hub.metrics.estimate import require_rounds

Value = float | tuple[float | None, ...]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sample:
    """Observations over some prompts.

    Attributes:
        counts: counters of each prompt.
        response_lengths: tokens of each prompt's response, including the one from prefill and the end of sequence.
        tree_nodes: for a tree, the drafts verified per round (SGLang's ``num_draft_tokens`` - 1).
        overlaps: per draft position, the overlap sum_x min(p(x), q(x)) of target and draft, each time that position
            was verified.
        agreements: per training-time-test step, (arg-max agreements, positions compared) under teacher forcing.
    """

    counts: tuple[Counts, ...]
    response_lengths: tuple[int, ...] | None = None
    tree_nodes: int | None = None
    overlaps: tuple[tuple[float, ...], ...] | None = None
    agreements: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def of_rounds(cls, prompts: Sequence[Rounds]) -> Sample:
        """Make the sample of chains whose rounds are known."""
        return cls(tuple(map(counts_of, prompts)), tuple(rounds.response_length for rounds in prompts))


@dataclass(frozen=True, slots=True)
class Definition:
    """One published number.

    Attributes:
        key: its name here.
        used_by: who publishes it. word: what they call it.
        formula: how it is computed, in words. R is rounds, a the drafts a round accepted, K the drafts of a round.
        estimator: how prompts are combined.
        unit: of the value; ``tokens per round`` counts the target's own token.
        value: the function; a tuple is per position, or per request if the estimator says so. Raises InputError:
            ``metrics-sample`` if the sample lacks a value it needs, ``metrics-no-rounds`` if no round ran.
    """

    key: str
    used_by: str
    word: str
    formula: str
    estimator: str
    unit: str
    value: Callable[[Sample], Value]


def measure(key: str, sample: Sample) -> Value:
    """Compute the number called ``key``; InputError (``metrics-definition``) if there is no such definition."""
    if key not in DEFINITIONS:
        near = get_close_matches(key, DEFINITIONS, n=1)
        raise InputError(
            f"no definition of acceptance is called {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"definitions: {', '.join(DEFINITIONS)}",
            code="metrics-definition",
        )
    return DEFINITIONS[key].value(sample)


def _pooled(sample: Sample) -> Counts:
    pooled = require_rounds(total(sample.counts))
    if pooled.drafted == 0:
        raise InputError("nothing was drafted, so there is no acceptance", code="metrics-no-rounds")
    return pooled


def _pooled_length(sample: Sample) -> float:
    pooled = _pooled(sample)
    return pooled.emitted / pooled.rounds


def _mean_of_lengths(sample: Sample) -> float:
    _pooled(sample)
    return _mean(c.emitted / c.rounds for c in sample.counts if c.rounds)


def _marginal(sample: Sample) -> tuple[float, ...]:
    pooled = _pooled(sample)
    return tuple(a / pooled.rounds for a in pooled.accepted_per_position)


def _conditional(sample: Sample) -> tuple[float | None, ...]:
    pooled = _pooled(sample)
    return tuple(b / a if a else None for a, b in pairwise((pooled.rounds, *pooled.accepted_per_position)))


def _completions(sample: Sample) -> list[tuple[int, int]]:
    """Return (completion tokens, rounds) for each request."""
    lengths = _given(sample.response_lengths, "the length of every response")
    return [(length, c.rounds) for length, c in zip(lengths, sample.counts, strict=True)]


def _completion_lengths(sample: Sample) -> tuple[float | None, ...]:
    return tuple(tokens / rounds if rounds else None for tokens, rounds in _completions(sample))


def _mean_of_completion_lengths(sample: Sample) -> float:
    _pooled(sample)
    return _mean(length for length in _completion_lengths(sample) if length is not None)


def _pooled_completion_length(sample: Sample) -> float:
    return sum(tokens for tokens, _ in _completions(sample)) / _pooled(sample).rounds


def _node_rate(pooled: Counts, nodes: int) -> float:
    return pooled.accepted / (pooled.rounds * nodes)


def _overlap(sample: Sample) -> tuple[float | None, ...]:
    overlaps = _given(sample.overlaps, "the overlap of draft and target at every verified position")
    return tuple(_mean(position) if position else None for position in overlaps)


def _agreement(sample: Sample) -> tuple[float | None, ...]:
    steps = _given(sample.agreements, "the arg-max agreements of each step")
    return tuple(equal / positions if positions else None for equal, positions in steps)


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return math.fsum(every) / len(every)


def _given(value: _T | None, what: str) -> _T:
    if value is None:
        raise InputError(f"this definition of acceptance takes {what}, which was not recorded", code="metrics-sample")
    return value


_POOLED = "pooled over all rounds"
_BY_REQUEST = "unweighted mean over requests"
_UNSTATED = "not stated; pooled here"
_TOKENS = "tokens per round"

DEFINITIONS: dict[str, Definition] = {
    d.key: d
    for d in (
        Definition(
            "eagle_tau",
            "EAGLE papers",
            "average acceptance length, tau",
            "mean of a + 1; the token from prefill is not counted",
            _POOLED,
            _TOKENS,
            _pooled_length,
        ),
        Definition(
            "eagle_n_alpha",
            "EAGLE papers (chain ablation)",
            "n-alpha",
            "rounds that accepted position n over rounds that accepted position n - 1",
            _POOLED,
            "fraction per position, conditional",
            _conditional,
        ),
        Definition(
            "lk_alpha",
            "LK losses",
            "alpha",
            "sum over tokens x of min(p(x), q(x)), the chance that rejection sampling accepts a draft from q",
            "expectation, mean over the places where the position was verified",
            "fraction per position, conditional",
            _overlap,
        ),
        Definition(
            "lk_tau",
            "LK losses",
            "tau at K",
            "mean of a + 1 in chains of K under rejection sampling from the draft's own distribution",
            _UNSTATED,
            _TOKENS,
            _pooled_length,
        ),
        Definition(
            "vllm_mean_acceptance_length",
            "vLLM",
            "mean acceptance length",
            "1 + accepted / drafts, where a draft is a round",
            _POOLED,
            _TOKENS,
            _pooled_length,
        ),
        Definition(
            "vllm_per_position",
            "vLLM",
            "per-position acceptance rate",
            "rounds that accepted the position / R; it cannot rise with the position",
            _POOLED,
            "fraction per position, marginal",
            _marginal,
        ),
        Definition(
            "vllm_draft_acceptance_rate",
            "vLLM",
            "draft acceptance rate",
            "100 * accepted / drafted",
            _POOLED,
            "% of drafted tokens",
            lambda sample: 100 * _pooled(sample).accepted / _pooled(sample).drafted,
        ),
        Definition(
            "sglang_accept_length",
            "SGLang (spec_accept_length of a request)",
            "accept length",
            "completion tokens / R; the token from prefill is counted, so it exceeds tau by about 1 / R",
            "one value per request",
            _TOKENS,
            _completion_lengths,
        ),
        Definition(
            "sglang_accept_length_pooled",
            "SGLang (avg_spec_accept_length, sglang:spec_accept_length)",
            "accept length",
            "completion tokens of all requests / their R; one token per request comes from prefill",
            "pooled since the server started",
            _TOKENS,
            _pooled_completion_length,
        ),
        Definition(
            "sglang_accept_rate",
            "SGLang (chain)",
            "accept rate",
            "accepted / (R * (num_draft_tokens - 1)), with num_draft_tokens = K + 1",
            _POOLED,
            "fraction of drafted tokens",
            lambda sample: _node_rate(_pooled(sample), len(_pooled(sample).accepted_per_position)),
        ),
        Definition(
            "sglang_accept_rate_tree",
            "SGLang (top-k above 1)",
            "accept rate",
            "accepted / (R * (num_draft_tokens - 1)): the denominator is nodes of the tree, not its depth",
            _POOLED,
            "fraction of the tree's nodes",
            lambda sample: _node_rate(_pooled(sample), _given(sample.tree_nodes, "the drafts verified per round")),
        ),
        Definition(
            "specforge_benchmark",
            "SpecForge `benchmark`",
            "average_acceptance_length",
            "completion tokens / R of each request, averaged",
            _BY_REQUEST,
            _TOKENS,
            _mean_of_completion_lengths,
        ),
        Definition(
            "specforge_bench_eagle3",
            "SpecForge `bench_eagle3`",
            "accept_length",
            "completion tokens of all requests / their R",
            "pooled over requests",
            _TOKENS,
            _pooled_completion_length,
        ),
        Definition(
            "trtllm_gauge",
            "TensorRT-LLM",
            "acceptance length",
            "1 + accepted / steps, where a step is a round",
            _POOLED,
            _TOKENS,
            _pooled_length,
        ),
        Definition(
            "modelopt_ar",
            "ModelOpt `ar_validate`, NVIDIA's model cards",
            "acceptance rate (AR)",
            "tokens per step, the target's own included: a length of 1 to K + 1, no rate",
            "unweighted mean over prompts",
            _TOKENS,
            _mean_of_lengths,
        ),
        Definition(
            "specdec_bench_average_al",
            "ModelOpt `specdec_bench`",
            "Average_AL",
            "mean of a + 1 of each request, averaged",
            _BY_REQUEST,
            _TOKENS,
            _mean_of_lengths,
        ),
        Definition(
            "specdec_bench_conditional",
            "ModelOpt `specdec_bench`",
            "conditional acceptance rate",
            "rounds that accepted the position / rounds that accepted the one before",
            _UNSTATED,
            "fraction per position, conditional",
            _conditional,
        ),
        Definition(
            "specdec_bench_joint",
            "ModelOpt `specdec_bench`",
            "joint acceptance rate",
            "rounds that accepted the position and all before it / R",
            _UNSTATED,
            "fraction per position, marginal",
            _marginal,
        ),
        Definition(
            "spec_bench",
            "Spec-Bench",
            "mean accepted tokens",
            "tokens each step appends, the target's own included, averaged over all steps of all turns",
            _POOLED,
            _TOKENS,
            _pooled_length,
        ),
        Definition(
            "nemo_accept_rate",
            "NeMo Automodel",
            "accept_rate",
            "(acceptance length - 1) / K",
            _UNSTATED,
            "fraction of drafted tokens",
            lambda sample: (_pooled_length(sample) - 1) / len(_pooled(sample).accepted_per_position),
        ),
        Definition(
            "training_accuracy",
            "SpecJAX and other trainers' logs",
            "acc_i",
            "positions where the draft's arg-max at training-time-test step i equals the target's, over positions "
            "compared: teacher-forced, a proxy for a conditional rate and no engine's number",
            "pooled over positions",
            "fraction per step",
            _agreement,
        ),
    )
}
"""Every definition by its key."""
